"""Runs a coordinator on this machine: the deployed functions as processes under one supervisor.

    supervisor ── listening sockets, restarts
      ├── web         client_api, operator_api and aggregator, behind one address
      ├── committer   runs plans' graphs; reachable on loopback only
      └── pump        delivers queued work and ticks to both

All state is in one folder and survives a kill at any moment: a new start in the folder resumes.
With emulators of Firestore and Cloud Storage, state and blobs are in the emulators instead, which
survive a kill of the coordinator but not a stop.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Callable, Optional, Union
from urllib.parse import quote

import requests

from muster.local.emulators import Emulators
from muster.local.listening import LOOPBACK, listen, port_of
from muster.local.logs import LogRotation
from muster.local.process import Died, LocalProcess
from muster.local.settings import environment_for, settings_of
from muster.private_files import make_folder, tighten

if TYPE_CHECKING:
    from typing_extensions import Self

_LOG = logging.getLogger(__name__)
_OLDEST_PYTHON = (3, 11)  # for the functions
_START_SECONDS = 120.0  # longest start; TensorFlow loads in ten or more
_STOP_SECONDS = 8.0  # longest orderly end, before a kill
# Processes whose supervisor was killed finish their requests in about 5 s and hold the port until
# then.
_PORT_WAIT_SECONDS = 7.0
_POLL_SECONDS = 0.05
_MIN_HEALTH_SECONDS, _MAX_HEALTH_SECONDS = 0.5, 5.0  # time-outs of health checks during a start
_MAX_TAIL = 2000  # characters of a log in an error
_EMULATED_QUEUE = "emulated-queue.db"  # separate from `queue.db`, which belongs to the folder's own state
_CLOUD_CACHE = 1.0  # seconds that an instance may serve a cached round, since reads cross the network

_DATABASES = ("state.db", "queue.db", _EMULATED_QUEUE)
# Entries of the folder. A mounted volume also holds `lost+found`.
_OURS = frozenset(
    {"secret", "blobs", "logs", "lost+found"}
    | {name + end for name in _DATABASES for end in ("", "-wal", "-shm", "-journal")}
)


class StartError(RuntimeError):
    """Error raised when the coordinator can't start; the text states the reason and the fix."""


@dataclass(frozen=True)
class _Role:
    """Process to start: its role, its command line and the listening sockets that it inherits."""

    name: str
    arguments: list[str]
    listeners: tuple[socket.socket, ...] = ()


class LocalCoordinator:
    """Coordinator on this machine, as a context manager: it runs inside the block.

    Args:
      data_dir: The folder of state, blobs, queue, secret and logs; created if missing. Only one
        coordinator may run in a folder.
      host: The IPv4 address to listen on.
      port: The port; 0: a free one.
      workers: Processes that serve clients and operators, and fold updates.
      threads: Concurrent requests of each of them.
      tick_seconds: Seconds between two ticks, which repair lost work.
      retry_floor: Shortest `retry_after` for clients, in seconds.
      warm: Whether `start` waits for the committer to load TensorFlow; otherwise the first commit
        does.
      on_died: Called, in another thread, with each process that ended by itself.
      emulators: Whether state and blobs are in emulators of Firestore and Cloud Storage.
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
        self._children: list[LocalProcess] = []
        self._listeners: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Returns the address for clients on this machine."""
        host = LOOPBACK if self._host in ("", "0.0.0.0") else self._host  # noqa: S104
        return f"http://{host}:{self._port}"

    @property
    def pids(self) -> dict[str, int]:
        """Returns process ids by role: `web` (parent of its workers), `committer` and `pump`."""
        return {child.name: child.pid for child in self._children}

    @property
    def emulated(self) -> dict[str, str]:
        """Returns the addresses of the emulators (`host:port`) by name; empty without emulators."""
        return {} if self._emulators is None else self._emulators.addresses

    def start(self, *, timeout: float = _START_SECONDS) -> Self:
        """Starts the processes and returns when they answer. An error leaves no process behind.

        Raises:
          StartError: the port is taken, a process ended, or one did not answer in `timeout`
            seconds.
          EmulatorError: an emulator is not installed, or did not start.
        """
        if self._children:
            raise StartError("The coordinator is running already")
        if sys.version_info < _OLDEST_PYTHON:
            raise StartError(
                f"The coordinator needs Python {'.'.join(map(str, _OLDEST_PYTHON))} or newer; this is "
                f"{platform.python_version()}. Clients and operators run on 3.9 and newer"
            )
        self._prepare_folder()
        if self._emulators is None or self._emulators.addresses:
            return self._start_processes(timeout)
        # Emulators start empty: queued work for the content of earlier ones could never be done.
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
        try:
            public, internal, committer = self._open_listeners()
            for role in self._roles(public, internal, committer):
                self._children.append(
                    LocalProcess(
                        role.name,
                        role.arguments,
                        environment=environment_for(role.name, environment),
                        log=self.logs / f"{role.name}.log",
                        on_died=self._on_died,
                        listeners=role.listeners,
                    )
                )
            deadline = time.monotonic() + timeout
            for name, listener in (("web", internal), ("committer", committer)):
                self._wait_for(name, f"{_url_of(listener)}/healthz", deadline)
            self._check_alive()
        except BaseException:
            self.kill()
            raise
        for child in self._children:
            child.keep_alive()
        self._rotation.start()
        return self

    def _roles(self, public: socket.socket, internal: socket.socket, committer: socket.socket) -> tuple[_Role, ...]:
        return (
            _Role(
                "web",
                [
                    *("--address", _bind_address(public), "--internal-address", _bind_address(internal)),
                    *("--internal-port", str(port_of(internal))),
                    *("--workers", str(self._workers), "--threads", str(self._threads)),
                ],
                (public, internal),
            ),
            _Role(
                "committer",
                ["--address", _bind_address(committer), *(["--warm"] if self._warm else [])],
                (committer,),
            ),
            _Role(
                "pump",
                [
                    *("--queue", str(self._queue), "--tick", str(self._tick)),
                    *("--aggregator", _url_of(internal), "--committer", _url_of(committer)),
                ],
            ),
        )

    def stop(self) -> None:
        """Ends the processes in order; kills those that do not end in a few seconds. Idempotent.

        Emulators end too, with all their content.
        """
        self._rotation.stop()
        children, self._children = self._children, []
        for child in reversed(children):
            child.terminate()
        self._close_listeners()
        deadline = time.monotonic() + _STOP_SECONDS
        for child in reversed(children):
            child.wait(max(0.0, deadline - time.monotonic()))
        if self._emulators is not None:
            self._emulators.stop()

    def kill(self) -> None:
        """Kills all processes at once, as a power cut would, and returns when they are gone.

        Emulators continue, as the cloud would.
        """
        self._rotation.stop()
        children, self._children = self._children, []
        for child in children:
            child.kill()
        for child in children:
            child.wait(0.0)
        self._close_listeners()

    def _open_listeners(self) -> tuple[socket.socket, socket.socket, socket.socket]:
        """Opens the sockets for clients, for internal requests to `web`, and of the committer."""
        try:
            public = listen(self._host, self._port, wait_seconds=_PORT_WAIT_SECONDS)
        except OSError as error:
            raise StartError(
                f"Can't listen on {self._host}:{self._port} ({error.strerror}): choose another --host or --port"
            ) from error
        self._listeners.append(public)
        self._port = port_of(public)
        for _ in range(2):
            self._listeners.append(listen())
        return public, self._listeners[1], self._listeners[2]

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners = []

    def _wait_for(self, name: str, url: str, deadline: float) -> None:
        """Returns when a process answers. Raises `StartError` if it has ended or the time is up."""
        pause, seconds = threading.Event(), _MIN_HEALTH_SECONDS
        with requests.Session() as session:
            session.trust_env = False
            while True:
                self._check_alive()
                # The socket listens already, so a request waits until the process serves it or
                # times out.
                with contextlib.suppress(requests.RequestException):
                    if session.get(url, timeout=seconds).ok:
                        return
                if time.monotonic() > deadline:
                    raise StartError(f"{name} does not answer at {url}.{_tail(self.logs / f'{name}.log')}")
                seconds = min(2 * seconds, _MAX_HEALTH_SECONDS)
                pause.wait(_POLL_SECONDS)

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
            # Otherwise glibc holds freed memory for each thread: about 20 MB with a hundred
            # uploads.
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


def _bind_address(listener: socket.socket) -> str:
    """Returns gunicorn's `bind` setting for an inherited socket."""
    return f"fd://{listener.fileno()}"


def _url_of(listener: socket.socket) -> str:
    return f"http://{LOOPBACK}:{port_of(listener)}"


def _tail(log: Path) -> str:
    text = log.read_text(errors="replace")[-_MAX_TAIL:].strip() if log.exists() else ""
    return f" The end of {log}:\n{text}" if text else f" Its log {log} is empty."
