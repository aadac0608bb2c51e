"""Client processes of the demo: `muster client run` in separate processes that report by pipe."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, Optional

from muster.demo.data import EPOCHS_VARIABLE, FILE_VARIABLE, Digits, epochs_for, save

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from typing_extensions import Self

Command = Callable[[Sequence[str]], None]  # runs the command line `muster …` with these arguments

READY, ENDED = "Ready", "Ended"  # events beside those of `muster client run --json`
_STOP_SECONDS = 2.0  # for all clients to end, before a kill; clients hold no state
_POPULATION = "demo"


@dataclass(frozen=True)
class ClientMessage:
    """Message of a client process.

    Attributes:
      client: The client's name.
      event: An event of `muster client run --json`, or `READY`, or `ENDED` at its end.
      round: The event's round; 0: none.
    """

    client: str
    event: str
    round: int = 0


class ClientProcesses:
    """Client processes, as a context manager. All end with the block, or when this process ends.

    On Linux they are forked from a server process that has imported TensorFlow
    (`muster.demo.preload`). Elsewhere TensorFlow does not survive a fork, so each process imports
    it.

    Args:
      folder: The folder for each client's data and log.
      url: The coordinator's address.
      datasets: The digits of each client.
      command: Runs the command line in each process.
    """

    def __init__(self, folder: Path, *, url: str, datasets: Sequence[Digits], command: Command) -> None:
        self.folder = folder
        self._url = url
        self._datasets = datasets
        self._command = command
        self._messages: queue.Queue[ClientMessage] = queue.Queue()
        self._processes: dict[str, BaseProcess] = {}
        self._readers: list[Thread] = []
        self._fork_server: Optional[int] = None  # the fork server's process id

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            for number, digits in enumerate(self._datasets, 1):
                self._start(f"client-{number:02d}", digits)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def next_message(self, *, seconds: float) -> Optional[ClientMessage]:
        """Returns the next message of any client, or None after `seconds` without one."""
        try:
            return self._messages.get(timeout=seconds)
        except queue.Empty:
            return None

    def kill(self, client: str) -> int:
        """Sends a client SIGKILL and returns its process id."""
        process = self._processes[client]
        process.kill()
        return process.pid or 0

    def alive(self) -> int:
        """Returns the number of running clients."""
        return sum(process.is_alive() for process in self._processes.values())

    def log(self, client: str) -> Path:
        """Returns the log of a client, with its messages and its stderr."""
        return self.folder / f"{client}.log"

    def close(self) -> None:
        """Ends all clients, kills those that do not end in time, and waits for them."""
        for process in self._processes.values():
            process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        for process in self._processes.values():
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()
            process.join()
        for reader in self._readers:
            reader.join()
        if self._fork_server is not None:
            # The fork server would end by itself, but a second or two after this process.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._fork_server, signal.SIGKILL)

    def _start(self, client: str, digits: Digits) -> None:
        data, log = self.folder / f"{client}.npz", self.log(client)
        save(digits, data)
        arguments = ["--url", self._url, "--population", _POPULATION, "--client-id", client]
        arguments += ["--data", "muster.demo.data:client_dataset"]
        environment = {FILE_VARIABLE: str(data.absolute()), EPOCHS_VARIABLE: str(epochs_for(len(self._datasets)))}
        receiver, sender = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(
            target=run_client,
            name=client,
            args=(self._command, arguments, environment),
            kwargs={"output": sender, "log": log.absolute()},
            daemon=True,
        )
        process.start()
        # Only the client holds this end now, so the pipe closes when the client ends.
        sender.close()
        self._processes[client] = process
        reader = Thread(target=self._read, args=(client, receiver, log), name=client, daemon=True)
        self._readers.append(reader)
        reader.start()

    def _read(self, client: str, pipe: Connection, log: Path) -> None:
        with pipe, open(pipe.fileno(), "rb", closefd=False) as lines, log.open("ab") as notes:
            for line in lines:
                notes.write(line)
                notes.flush()
                document = _parsed(line)
                if document is not None:
                    if document["event"] == READY and _FORKED:
                        self._fork_server = document["started_by"]
                    self._messages.put(ClientMessage(client, document["event"], int(document.get("round") or 0)))
        self._messages.put(ClientMessage(client, ENDED))


_FORKED = sys.platform == "linux"


def _context() -> Any:
    if not _FORKED:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["muster.demo.preload"])
    return context


_CONTEXT = _context()


def _parsed(line: bytes) -> Optional[dict[str, Any]]:
    """Returns the message in a line, or None if the process was killed within the line."""
    try:
        document = json.loads(line)
    except ValueError:
        return None
    return document if isinstance(document, dict) and isinstance(document.get("event"), str) else None


def run_client(
    command: Command, arguments: Sequence[str], environment: Mapping[str, str], *, output: Connection, log: Path
) -> None:
    """Runs a client until this process ends; the target of a `multiprocessing` process.

    Args:
      command: Runs the command line.
      arguments: The options of `muster client run`.
      environment: Variables to set first.
      output: The pipe for lines of JSON: `{"event": "Ready", "started_by": PID}`, then the output
        of `muster client run --json`.
      log: The file for stderr.
    """
    os.environ.update(environment)
    _redirect(output, log)
    _end_with_parent()
    from muster.demo import preload  # noqa: F401  no-op after a fork; imported here after a spawn

    sys.stdout.write(json.dumps({"event": READY, "started_by": os.getppid()}) + "\n")
    command(["client", "run", "--json", "--threads", "1", *arguments])


def _redirect(output: Connection, log: Path) -> None:
    """Redirects stdout to the pipe and stderr to the log, for Python and for C++ code."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(output.fileno(), 1)
    output.close()
    with log.open("ab") as notes:
        os.dup2(notes.fileno(), 2)
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115  for the process's life
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115


def _end_with_parent() -> None:
    """Ends this process when its parent ends, even by SIGKILL."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
