"""The command `muster`. What a command needs is imported when it runs, so that help is there at once.

Exit codes: 0 done; 1 failed, refused, or values that differ; 2 wrong usage; 3 the coordinator can't be reached; 130 Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Runs a command and exits.

    Args:
      arguments: What follows `muster`; None: what the process was given.

    Raises:
      SystemExit: always, with the exit code.
    """
    from muster.cli.app import app

    app(None if arguments is None else list(arguments), prog_name="muster")


__all__ = ["main"]
