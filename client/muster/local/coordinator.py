"""A coordinator on this machine: the deployed functions as processes under one supervisor, on an embedded store.

Everything that lasts is in one folder, and survives a kill at any moment; another start there goes on. Or, to see the functions
on Google's services, on their emulators: these survive a kill of the coordinator as the cloud would, and keep nothing beyond a stop.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import platform
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Callable, Optional, Union
from urllib.parse import quote

import requests

from muster.local.emulators import Emulators
from muster.local.held_port import LOOPBACK, HeldPort
from muster.local.logs import LogRotation
from muster.local.process import Died, LocalProcess
from muster.local.settings import environment_for, settings_of
from muster.private_files import make_folder, tighten

if TYPE_CHECKING:
    from typing_extensions import Self

_LOG = logging.getLogger(__name__)
_OLDEST_PYTHON = (3, 11)  # for the functions
_PATIENCE = 120.0  # seconds for a start; a cold TensorFlow takes ten or more
_GRACE = 8.0  # seconds for an orderly end
_FREED = 7.0  # seconds for the port of processes whose supervisor was killed to be free again: they take 5 and a little to end
_LOOK = 0.05  # seconds between looks at a process that starts
_TAIL = 2000  # characters of a log that an error shows
_EMULATED_QUEUE = "emulated-queue.db"  # not the folder's own, which goes with the folder's own state
_CLOUD_CACHE = 1.0  # seconds that an instance trusts its reading of a round, where a read is a call over the network


_DATABASES = ("state.db", "queue.db", _EMULATED_QUEUE)
# Entries of the folder. A mounted volume also holds `lost+found`.
_OURS = frozenset(
    {"secret", "blobs", "logs", "lost+found"}
    | {name + end for name in _DATABASES for end in ("", "-wal", "-shm", "-journal")}
)


class StartError(RuntimeError):
    """The coordinator could not be started; the text says why."""


class LocalCoordinator:
    """The coordinator as a context manager: running inside, all its processes gone afterwards.

    Args:
      data_dir: Where state, blobs, queue, secret and logs are; made where missing. One running coordinator to a folder.
      host: The address that it listens on.
      port: The port; 0 takes a free one.
      workers: Processes that serve clients and operators, folds included.
      threads: Requests that each of them serves at once.
      tick_seconds: From one repair of what got lost to the next.
      retry_floor: The shortest time, in seconds, that a client is told to wait.
      warm: Whether a start waits for the committer to load TensorFlow; else the first commit does.
      on_died: Is told, in another thread, of each process that ended by itself.
      emulators: Whether state and blobs are in the emulators of Firestore and Cloud Storage rather than in the folder.
    """

    def __init__(
        self,
        data_dir: Union[str, Path],
        *,
        host: str = LOOPBACK,
        port: int = 0,
        workers: int = 2,
        threads: int = 16,
        tick_seconds: float = 5.0,
        retry_floor: float = 0.1,
        warm: bool = True,
        on_died: Optional[Callable[[Died], None]] = None,
        emulators: bool = False,
    ) -> None:
        self.data_dir = Path(data_dir).absolute()
        self.logs = self.data_dir / "logs"
        self._rotation = LogRotation(self.logs)
        self._emulators = Emulators(self.logs) if emulators else None
        self._host = host
        self._port = port
        self._workers = workers
        self._threads = threads
        self._tick = tick_seconds
        self._retry_floor = retry_floor
        self._warm = warm
        self._on_died = on_died
        self._served: Optional[HeldPort] = None  # `port`, since a start
        self._children: list[LocalProcess] = []
        self._inner: list[HeldPort] = []  # where they reach each other

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it answers on this machine."""
        host = LOOPBACK if self._host in ("", "0.0.0.0") else self._host  # noqa: S104
        return f"http://{host}:{self._port}"

    @property
    def pids(self) -> dict[str, int]:
        """The processes' ids by role: `web` (the parent of its workers), `committer` and `pump`."""
        return {child.name: child.pid for child in self._children}

    @property
    def emulated(self) -> dict[str, str]:
        """Where the emulators listen (`host:port`), by name; empty without them."""
        return {} if self._emulators is None else self._emulators.addresses

    def start(self, *, timeout: float = _PATIENCE) -> Self:
        """Starts the processes and returns when they answer.

        Raises:
          StartError: a port is taken, a process ended, or none answered in `timeout` seconds. Nothing is left running.
          EmulatorError: an emulator is not installed, or did not start. Nothing is left running either.
        """
        if self._children:
            raise StartError("It is running already")
        if sys.version_info < _OLDEST_PYTHON:
            raise StartError(
                f"The coordinator needs Python {'.'.join(map(str, _OLDEST_PYTHON))} or newer, and this is {platform.python_version()}. "
                "Clients and operators run on 3.9 and newer"
            )
        self._prepare_folder()
        if self._emulators is None or self._emulators.addresses:
            return self._start_processes(timeout)
        # They come up empty, and work on what earlier ones held would never be done.
        for path in self.data_dir.glob(f"{_EMULATED_QUEUE}*"):
            path.unlink()
        with self._emulators.started_or_none():
            return self._start_processes(timeout)

    def _prepare_folder(self) -> None:
        """Creates the folder, or makes an existing one private: it holds updates and states."""
        make_folder(self.data_dir)
        note = tighten(self.data_dir, ours=_OURS)
        if note is not None:
            _LOG.warning(note)
        make_folder(self.logs)

    def _start_processes(self, timeout: float) -> Self:
        environment = self._environment()
        self._hold_port()
        self._inner = [HeldPort(), HeldPort()]
        internal, committer = (port.number for port in self._inner)
        roles = {
            "web": [
                *("--address", f"{self._host}:{self._port}", "--internal-port", str(internal)),
                *("--workers", str(self._workers), "--threads", str(self._threads)),
            ],
            "committer": ["--port", str(committer), *(["--warm"] if self._warm else [])],
            "pump": [
                *("--queue", str(self._queue), "--tick", str(self._tick)),
                *("--aggregator", f"http://{LOOPBACK}:{internal}", "--committer", f"http://{LOOPBACK}:{committer}"),
            ],
        }
        try:
            for name, arguments in roles.items():
                log = self.logs / f"{name}.log"
                self._children.append(
                    LocalProcess(name, arguments, environment_for(name, environment), log, self._on_died)
                )
            deadline = time.monotonic() + timeout
            # Not at the address that clients reach: another coordinator may have it, and answer. Web answers here once it listens there.
            for name, number in (("web", internal), ("committer", committer)):
                self._wait_for(name, f"http://{LOOPBACK}:{number}/healthz", deadline)
            self._check_alive()
        except BaseException:
            self.kill()
            self._release_ports()
            raise
        for child in self._children:
            child.keep_alive()
        self._rotation.start()
        return self

    def stop(self) -> None:
        """Ends the processes in order, and kills what has not ended in a few seconds. Once more is harmless.

        Emulators end too, with all that they hold.
        """
        self._rotation.stop()
        children, self._children = self._children, []
        for child in reversed(children):
            child.terminate()
        deadline = time.monotonic() + _GRACE
        for child in reversed(children):
            child.wait(max(0.0, deadline - time.monotonic()))
        self._release_ports()
        if self._emulators is not None:
            self._emulators.stop()

    def kill(self) -> None:
        """Kills all processes at once, as a power cut would, and returns when they are gone. Emulators go on, as the cloud would."""
        self._rotation.stop()
        children, self._children = self._children, []
        for child in children:
            child.kill()
        for child in children:
            child.wait(0.0)
        self._release_inner()

    def _hold_port(self) -> None:
        try:
            held = self._held_port()
        except OSError as error:
            raise StartError(
                f"Can't listen on {self._host}:{self._port} ({error.strerror}): choose another --host or --port"
            ) from error
        if self._served is not None:
            self._served.close()
        self._port, self._served = held.number, held

    def _held_port(self) -> HeldPort:
        try:
            return HeldPort(self._host, self._port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        # The processes that a killed supervisor leaves behind may listen for some moments more.
        _LOG.warning("%s:%d is taken; waiting up to %.0f s for it to be free", self._host, self._port, _FREED)
        return HeldPort(self._host, self._port, patience=_FREED)

    def _release_ports(self) -> None:
        self._release_inner()
        if self._served is not None:
            self._served.close()

    def _release_inner(self) -> None:
        for port in self._inner:
            port.close()
        self._inner = []

    def _wait_for(self, name: str, url: str, deadline: float) -> None:
        pause = threading.Event()
        with requests.Session() as session:
            session.trust_env = False
            while True:
                self._check_alive()
                with contextlib.suppress(requests.RequestException):
                    if session.get(url, timeout=5.0).ok:
                        return
                if time.monotonic() > deadline:
                    raise StartError(f"{name} does not answer at {url}.{_tail(self.logs / f'{name}.log')}")
                pause.wait(_LOOK)

    def _check_alive(self) -> None:
        for child in self._children:
            code = child.poll()
            if code is not None:
                raise StartError(f"{child.name} ended with code {code}.{_tail(child.log)}")

    @property
    def _queue(self) -> Path:
        return self.data_dir / ("queue.db" if self._emulators is None else _EMULATED_QUEUE)

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            # The C library else keeps what each of many threads has used for a while: some 20 MB with a hundred uploads under way.
            "MALLOC_ARENA_MAX": os.environ.get("MALLOC_ARENA_MAX", "2"),
            "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3"),
            **settings_of(self.data_dir),
            "MUSTER_RETRY_FLOOR": str(self._retry_floor),
            **self._cloud(),
        }

    def _cloud(self) -> dict[str, str]:
        if self._emulators is None:
            return {}
        return {
            **self._emulators.environment,
            "MUSTER_QUEUE": f"local://{quote(self._queue.as_posix())}",
            "MUSTER_ROUND_CACHE_SECONDS": str(_CLOUD_CACHE),
        }


def _tail(log: Path) -> str:
    text = log.read_text(errors="replace")[-_TAIL:].strip() if log.exists() else ""
    return f" The end of {log}:\n{text}" if text else f" Its log {log} is empty."
