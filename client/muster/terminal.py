"""Writes text and JSON to stdout, for all commands."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def console() -> Console:
    """Returns the console of stdout, which writes plain text if stdout is not a terminal."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def write_json(document: Any) -> None:
    """Writes a JSON document as one line to stdout, and flushes it."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def size(count: float) -> str:
    """Returns a number of bytes as text, such as `1.5 MB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:  # noqa: PLR2004
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def quiet_tensorflow(*, threads: int | None = None) -> None:
    """Silences TensorFlow's start-up messages and limits its threads.

    Has no effect once TensorFlow is imported.

    Args:
      threads: Threads of each thread pool; None: TensorFlow's default.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    if threads is not None:
        for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
            os.environ[name] = str(threads)
