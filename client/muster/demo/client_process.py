"""A client process of the demo: `muster client run`, with its output in a pipe, and an end with the demo."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Callable

READY = "Ready"
Command = Callable[[Sequence[str]], None]  # does what `muster` does with these arguments


def run(
    command: Command, arguments: Sequence[str], environment: Mapping[str, str], *, tell: Connection, log: Path
) -> None:
    """Runs the client until it is ended; what a `multiprocessing` process calls.

    Args:
      command: The command line.
      arguments: What follows `muster client run`.
      environment: Set before anything else.
      tell: The end of a pipe that gets `{"event": "Ready", "started_by": …}` (a process id) and then what `muster client run --json` writes, as lines of JSON.
      log: What goes to stderr.
    """
    os.environ.update(environment)
    _redirect(tell, log)
    _end_with_parent()
    from muster.demo import template  # noqa: F401  already there after a fork, imported now after a spawn

    sys.stdout.write(json.dumps({"event": READY, "started_by": os.getppid()}) + "\n")
    command(["client", "run", "--json", "--threads", "1", *arguments])


def _redirect(tell: Connection, log: Path) -> None:
    """Gives the process, and whatever C++ writes in it, an output and an error stream of its own."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(tell.fileno(), 1)
    tell.close()
    with log.open("ab") as notes:
        os.dup2(notes.fileno(), 2)
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115  for the process's life
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115


def _end_with_parent() -> None:
    """However the demo ends, SIGKILL included, its clients do not outlive it."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
