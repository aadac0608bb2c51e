"""The command `muster`. A command imports its dependencies when it runs, so that help is fast.

Exit codes: 0 success; 1 failure, refusal or a difference; 2 wrong usage; 3 coordinator unreachable;
130 Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Runs a command and exits.

    Args:
      arguments: Arguments after `muster`; None: those of this process.

    Raises:
      SystemExit: always, with the exit code.
    """
    from muster.cli.app import app

    app(None if arguments is None else list(arguments), prog_name="muster")


__all__ = ["main"]
