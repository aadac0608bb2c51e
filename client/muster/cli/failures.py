"""Reports errors of commands: one line with thing, reason and fix, and an exit code.

A traceback is printed only with MUSTER_DEBUG=1.
"""

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
_MAX_CHARACTERS = 600  # of an error of another library


class LoadingError(ValueError):
    """Error raised when an argument refers to something that does not exist or is not usable."""


class Commands(TyperGroup):
    """Group of all commands, which reports their errors."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command. Reports an error as text on stderr and an exit code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:  # the top level of the program
            # typer handles its own exceptions (wrong usage, an exit) and a broken pipe.
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
    """Returns the exit code of an error and the lines to print."""
    from muster.client import UnreachableError
    from muster.wire.problems import ProblemError

    if isinstance(error, UnreachableError):
        fix = error.fix or "Check that it is running (`muster up`) and that --url or MUSTER_URL is its address."
        return UNREACHABLE, [f"Error: {error}", fix]
    if isinstance(error, ProblemError):
        fields = [f"  {field.path}: {field.reason}" for field in error.fields] if len(error.fields) > 1 else []
        return FAILED, [f"Error: {error}", *fields]
    if isinstance(error, LoadingError):
        return USAGE, [f"Error: {error}"]
    if type(error).__module__.startswith(("muster.", "muster_coordinator.")):
        return FAILED, [f"Error: {error}"]
    if isinstance(error, ImportError):
        missing = _extra_of(error)
        if missing is not None:
            return FAILED, [f"Error: this command needs {error.name}: pip install 'muster-fl[{missing}]'"]
    if isinstance(error, OSError) and error.strerror:
        named = f"{error.filename}: " if error.filename else ""
        return FAILED, [f"Error: {named}{error.strerror}"]
    text = str(error)
    short = text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}…"
    more = f"Set {_DEBUG}=1 to print the traceback."
    return FAILED, [f"Error: {type(error).__name__}: {short}", *_place(error), more]


def _place(error: Exception) -> list[str]:
    """Returns the place in the user's code: the innermost frame outside installed packages."""
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
        "werkzeug": "server",
        "jwt": "signing",
        "muster_coordinator": "server",
        "cryptography": "signing",
        "protobuf": "signing",
        "ml_dtypes": "tensorflow",
        "sklearn": "demo",
        "matplotlib": "demo",
    }
    return extras.get((error.name or "").partition(".")[0])
