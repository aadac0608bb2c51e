"""Compiles the demo's computation in a separate process, since TFF takes 690 MB of memory.

`python -m muster.demo.compiling FILE --seed N` writes the plan and prints its progress to stdout.
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

_TFF_MISSING = 3  # exit code
_MAX_TAIL = 1500  # characters of a log in an error


class CompilationError(RuntimeError):
    """Error raised when the computation can't be compiled; the text states the reason."""


class Compilation:
    """Compilation in a process that starts at once. `wait` for it, or `close` it.

    Args:
      file: The file of the plan.
      seed: The seed of the initial weights.
      log: The file for the process's stderr.
      on_status: Called, in another thread, with each line of progress.
    """

    def __init__(self, file: Path, *, seed: int, log: Path, on_status: Callable[[str], None]) -> None:
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
        self._on_status = on_status
        self._reader = Thread(target=self._read, name="compiling", daemon=True)
        self._reader.start()

    def wait(self) -> None:
        """Returns when the plan is written.

        Raises:
          CompilationError: TFF can't be imported, or rejects the computation.
        """
        code = self._process.wait()
        self._reader.join()
        if code == _TFF_MISSING:
            raise CompilationError(self._last)
        if code:
            tail = self._log.read_text(errors="replace")[-_MAX_TAIL:].strip()
            raise CompilationError(f"Compiling ended with code {code}. The end of {self._log}:\n{tail}")

    def close(self) -> None:
        """Kills the process if it runs."""
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
            self._on_status(self._last)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Compiles the plan and returns the exit code."""
    parser = argparse.ArgumentParser(prog="muster.demo.compiling")
    parser.add_argument("file", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    from muster.local.serving import end_with_parent

    end_with_parent()
    _print_status("importing TensorFlow Federated")
    try:
        import tensorflow_federated as tff
    except ImportError as error:
        _print_status(
            f"TensorFlow Federated can't be imported ({error}). Only compiling needs it. It runs on Linux x86-64 "
            "with Python 3.9 to 3.11; `make env` installs it"
        )
        return _TFF_MISSING
    _print_status(f"compiling the FedAvg process with TensorFlow Federated {tff.__version__}")
    from muster.author import build_plan
    from muster.demo.computation import fed_avg

    build_plan(fed_avg(seed=options.seed), name="digits_fedavg").save(options.file)
    return 0


def _print_status(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
