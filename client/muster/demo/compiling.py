"""Compiles the demo's computation in a process of its own, since TFF takes 690 MB that nothing else here needs.

`python -m muster.demo.compiling FILE --seed N` writes the plan and says on stdout what it is doing, a line at a time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import Callable, Optional

from muster.interpreter import command_for

_NO_TFF = 3  # exit code
_TAIL = 1500  # characters of a log that an error shows


class CompilationError(RuntimeError):
    """The computation could not be compiled; the text says why."""


class Compilation:
    """The process, started at once. Close it, or `wait` for it.

    Args:
      file: Where the plan goes.
      seed: Draws the initial weights.
      log: Where the process's own notes go.
      tell: Is told, in another thread, what it is doing.
    """

    def __init__(self, file: Path, *, seed: int, log: Path, tell: Callable[[str], None]) -> None:
        self._log = log
        with log.open("ab") as notes:
            self._process = subprocess.Popen(  # noqa: S603
                command_for(__name__, str(file), "--seed", str(seed)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=notes,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
                start_new_session=True,
                text=True,
            )
        self._last = ""
        self._tell = tell
        self._reader = Thread(target=self._read, name="compiling", daemon=True)
        self._reader.start()

    def wait(self) -> None:
        """Returns when the plan is there.

        Raises:
          CompilationError: TFF can't be imported, or refuses.
        """
        code = self._process.wait()
        self._reader.join()
        if code == _NO_TFF:
            raise CompilationError(self._last)
        if code:
            tail = self._log.read_text(errors="replace")[-_TAIL:].strip()
            raise CompilationError(f"Compiling ended with code {code}. The end of {self._log}:\n{tail}")

    def close(self) -> None:
        """Ends the process if it runs."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._last = line.strip()
            self._tell(self._last)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Compiles; returns the exit code."""
    parser = argparse.ArgumentParser(prog="muster.demo.compiling")
    parser.add_argument("file", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    from muster.local.serving import end_with_parent

    end_with_parent()
    _say("importing TensorFlow Federated")
    try:
        import tensorflow_federated as tff
    except ImportError as error:
        _say(
            f"TensorFlow Federated can't be imported ({error}). Compiling needs it, and it runs on Linux x86-64 with Python 3.9 to "
            "3.11 alone; `make env` installs it. Coordinator and clients do without."
        )
        return _NO_TFF
    _say(f"compiling the FedAvg process with TensorFlow Federated {tff.__version__}")
    from muster.author import build_plan
    from muster.demo.computation import fed_avg

    build_plan(fed_avg(seed=given.seed), name="digits_fedavg").save(given.file)
    return 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
