"""How a command fails: one line that says what, why and what to do, and an exit code. No traceback, unless it is asked for."""

from __future__ import annotations

import os
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

import muster

FAILED, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130
_DEBUG = "MUSTER_DEBUG"
_LONGEST = 600  # characters of an error that is not ours


class LoadingError(ValueError):
    """`module:attribute` does not name what it should; the text says where the search ended."""


class Commands(TyperGroup):
    """The group of all commands, and the one place where their errors end."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; every error of it becomes a text on stderr and an exit code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:  # the outermost edge of the program
            # typer's own (wrong usage, an exit) carry their code; a broken pipe is for typer to end quietly.
            if (
                hasattr(error, "exit_code")
                or isinstance(error, (typer.Abort, BrokenPipeError))
                or os.environ.get(_DEBUG)
            ):
                raise
            code, lines = explain(error)
            for line in lines:
                sys.stderr.write(f"{line}\n")
            raise typer.Exit(code) from error


def explain(error: Exception) -> tuple[int, list[str]]:
    """The exit code of an error and the lines to show of it."""
    from muster.client import UnreachableError
    from muster.wire.problems import ProblemError

    if isinstance(error, UnreachableError):
        fix = error.fix or "Is it running (`muster up`), and is --url or MUSTER_URL its address?"
        return UNREACHABLE, [f"Error: {error}", fix]
    if isinstance(error, ProblemError):
        fields = [f"  {field.path}: {field.reason}" for field in error.fields] if len(error.fields) > 1 else []
        return FAILED, [f"Error: {error}", *fields]
    if isinstance(error, LoadingError):
        return USAGE, [f"Error: {error}"]
    if type(error).__module__.startswith(("muster.", "coordinator.")):  # ours: the text was written for this place
        return FAILED, [f"Error: {error}"]
    if isinstance(error, ImportError):
        missing = _extra_of(error)
        if missing is not None:
            return FAILED, [f"Error: this command needs {error.name}: pip install 'muster-fl[{missing}]'"]
    if isinstance(error, OSError) and error.strerror:
        named = f"{error.filename}: " if error.filename else ""
        return FAILED, [f"Error: {named}{error.strerror}"]
    text = str(error)
    short = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    more = f"With {_DEBUG}=1 in the environment the traceback is shown."
    return FAILED, [f"Error: {type(error).__name__}: {short}", *_place(error), more]


def _place(error: Exception) -> list[str]:
    """Where in the user's own code an error arose: the innermost frame that is neither ours nor an installed package's."""
    installed = (str(Path(muster.__file__).parent), str(Path(sys.prefix)), sysconfig.get_path("stdlib"))
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith((*installed, "<"))
    ]
    return [f"  at {frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}"] if frames else []


def _extra_of(error: ImportError) -> str | None:
    extras = {
        "tensorflow": "tensorflow",
        "tensorflow_federated": "author",
        "functions_framework": "server",
        "gunicorn": "server",
        "jwt": "signing",
        "coordinator": "server",
        "cryptography": "signing",
        "protobuf": "signing",
        "ml_dtypes": "tensorflow",
        "sklearn": "demo",
        "matplotlib": "demo",
    }
    return extras.get((error.name or "").partition(".")[0])
