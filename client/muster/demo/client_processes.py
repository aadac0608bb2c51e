"""The demo's client processes, seen from the process that starts and kills them."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import queue
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, Optional

from muster.demo import client_process
from muster.demo.data import EPOCHS_VARIABLE, FILE_VARIABLE, Digits, epochs_for, save

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from typing_extensions import Self

ENDED = "Ended"
_GRACE = 2.0  # seconds for all to end in order; they hold nothing that could be lost
_POPULATION = "demo"


@dataclass(frozen=True)
class ClientMessage:
    """What a client process told: `event` as `muster client run --json` names it, or `Ready`, or `Ended` when it has ended."""

    client: str
    event: str
    round: int = 0


class ClientProcesses:
    """Client processes, all ended when the `with` block is left, or when this process ends in whatever way.

    On Linux they are forked from a process that has TensorFlow imported and nothing running (`muster.demo.template`); elsewhere,
    where TensorFlow does not bear that, each starts afresh.

    Args:
      folder: Where each client's data and log go.
      url: The coordinator's address.
      parts: The clients' data.
      command: What each of them runs `muster client run` with.
    """

    def __init__(self, folder: Path, *, url: str, parts: Sequence[Digits], command: client_process.Command) -> None:
        self.folder = folder
        self._url = url
        self._parts = parts
        self._command = command
        self._told: queue.Queue[ClientMessage] = queue.Queue()
        self._processes: dict[str, BaseProcess] = {}
        self._readers: list[Thread] = []
        self._template: Optional[int] = None  # the fork server's process id

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            for number, part in enumerate(self._parts, 1):
                self._start(f"client-{number:02d}", part)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def next_told(self, *, seconds: float) -> Optional[ClientMessage]:
        """What a client told next; None if none does within so many seconds."""
        try:
            return self._told.get(timeout=seconds)
        except queue.Empty:
            return None

    def kill(self, client: str) -> int:
        """SIGKILL; returns the process id that was."""
        process = self._processes[client]
        process.kill()
        return process.pid or 0

    def alive(self) -> int:
        """How many run."""
        return sum(process.is_alive() for process in self._processes.values())

    def log(self, client: str) -> Path:
        """Where a client's own notes and all that it told are."""
        return self.folder / f"{client}.log"

    def close(self) -> None:
        """Ends all, kills what does not end, and waits."""
        for process in self._processes.values():
            process.terminate()
        deadline = time.monotonic() + _GRACE
        for process in self._processes.values():
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()
            process.join()
        for reader in self._readers:
            reader.join()
        if self._template is not None:
            # It would end by itself, but a second or two after us.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._template, signal.SIGKILL)

    def _start(self, client: str, part: Digits) -> None:
        data, log = self.folder / f"{client}.npz", self.log(client)
        save(part, data)
        arguments = ["--url", self._url, "--population", _POPULATION, "--client-id", client]
        arguments += ["--data", "muster.demo.data:client_dataset"]
        environment = {FILE_VARIABLE: str(data.absolute()), EPOCHS_VARIABLE: str(epochs_for(len(self._parts)))}
        ours, theirs = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(
            target=client_process.run,
            name=client,
            args=(self._command, arguments, environment),
            kwargs={"tell": theirs, "log": log.absolute()},
            daemon=True,
        )
        process.start()
        # Theirs alone now: when they end, the pipe does.
        theirs.close()
        self._processes[client] = process
        reader = Thread(target=self._read, args=(client, ours, log), name=client, daemon=True)
        self._readers.append(reader)
        reader.start()

    def _read(self, client: str, pipe: Connection, log: Path) -> None:
        with pipe, open(pipe.fileno(), "rb", closefd=False) as lines, log.open("ab") as notes:
            for line in lines:
                notes.write(line)
                notes.flush()
                document = _parsed(line)
                if document is not None:
                    if document["event"] == client_process.READY and _FORKED:
                        self._template = document["started_by"]
                    self._told.put(ClientMessage(client, document["event"], int(document.get("round") or 0)))
        self._told.put(ClientMessage(client, ENDED))


_FORKED = sys.platform == "linux"


def _context() -> Any:
    if not _FORKED:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["muster.demo.template"])
    return context


_CONTEXT = _context()


def _parsed(line: bytes) -> Optional[dict[str, Any]]:
    """A line that a killed process did not finish is none."""
    try:
        document = json.loads(line)
    except ValueError:
        return None
    return document if isinstance(document, dict) and isinstance(document.get("event"), str) else None
