"""Process of a local coordinator, restarted when it dies."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

from muster.interpreter import command_for
from muster.private_files import open_to_append

_POSIX = os.name == "posix"
_MIN_PAUSE, _MAX_PAUSE = 0.1, 10.0  # seconds before a restart
_STEADY_SECONDS = 30.0  # lifetime after which the back-off starts over


@dataclass(frozen=True)
class Died:
    """Unexpected end of a process.

    Attributes:
      name: The role.
      code: The exit code; negative: the signal.
      pause: Seconds until the restart.
      log: The log file of the process.
    """

    name: str
    code: int
    pause: float
    log: Path


class LocalProcess:
    """Process of one role of `muster.local.serving`, restarted after `keep_alive` if it dies.

    It leads a separate process group: a kill reaches all processes that it started, and a Ctrl-C of
    the terminal reaches none of them.
    """

    def __init__(
        self,
        name: str,
        arguments: list[str],
        *,
        environment: Mapping[str, str],
        log: Path,
        on_died: Optional[Callable[[Died], None]],
        listeners: Sequence[socket.socket] = (),
    ) -> None:
        """Starts the process.

        Args:
          name: The role.
          arguments: The command line after the role.
          environment: The whole environment.
          log: The log file; created if missing, and appended to.
          on_died: Called when the process has ended by itself.
          listeners: Listening sockets that the process inherits, under the same descriptors. They
            must stay open until `terminate` or `kill`.
        """
        self.name = name
        self.log = log
        self._command = command_for("muster.local.serving", name, *arguments)
        self._environment = environment
        self._on_died = on_died
        self._descriptors = tuple(listener.fileno() for listener in listeners)
        self._ending = threading.Event()
        self._lock = threading.Lock()  # between a restart and an end
        self._process = self._spawn()

    @property
    def pid(self) -> int:
        """Returns the current process id; a restart changes it."""
        return self._process.pid

    def poll(self) -> Optional[int]:
        """Returns the exit code, or None while the process runs."""
        return self._process.poll()

    def keep_alive(self) -> None:
        """Restarts the process whenever it dies, from now on."""
        threading.Thread(target=self._watch, name=f"watch-{self.name}", daemon=True).start()

    def terminate(self) -> None:
        """Sends SIGTERM and ends the restarts."""
        with self._lock:
            self._ending.set()
            if self._process.poll() is None:
                self._process.terminate()

    def kill(self) -> None:
        """Kills the process and all processes that it started, and ends the restarts."""
        with self._lock:
            self._ending.set()
            self._kill_group()

    def wait(self, timeout: float) -> None:
        """Waits up to `timeout` seconds for the end, then kills the rest of the process group."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        self._kill_group()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _spawn(self) -> subprocess.Popen[bytes]:
        with open_to_append(self.log) as log:
            return subprocess.Popen(  # noqa: S603
                self._command,
                stdin=subprocess.PIPE,  # never written to: it closes when this process ends
                stdout=log,
                stderr=log,
                env=dict(self._environment),
                start_new_session=_POSIX,
                pass_fds=self._descriptors,
            )

    def _kill_group(self) -> None:
        if not _POSIX:
            self._process.kill()
            return
        # The group may outlive its leader, or be gone already.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _watch(self) -> None:
        deaths = 0
        while True:
            started = time.monotonic()
            code = self._process.wait()
            if self._ending.is_set():
                return
            deaths = 0 if time.monotonic() - started > _STEADY_SECONDS else deaths + 1
            pause = min(_MIN_PAUSE * 2.0**deaths, _MAX_PAUSE)
            if self._on_died is not None:
                self._on_died(Died(self.name, code, pause, self.log))
            if self._ending.wait(pause):
                return
            with self._lock:
                if self._ending.is_set():
                    return
                self._kill_group()
                self._process = self._spawn()
