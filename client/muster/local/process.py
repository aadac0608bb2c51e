"""One of the processes of a coordinator on this machine, which is started again when it dies."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

from muster.interpreter import command_for
from muster.private_files import open_to_append

_POSIX = os.name == "posix"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0  # seconds before a process that died is started again
_STEADY = 30.0  # seconds of life after which a death is no longer one of a row


@dataclass(frozen=True)
class Died:
    """One of the processes ended by itself and is started again after `pause` seconds. `log`: where it wrote why."""

    name: str
    code: int
    pause: float
    log: Path


class LocalProcess:
    """A process of one role, started at once, and again when it dies after `keep_alive`.

    It leads a group of its own, so that all that it starts can be killed with it and no Ctrl-C of the terminal reaches it.
    """

    def __init__(
        self,
        name: str,
        arguments: list[str],
        environment: Mapping[str, str],
        log: Path,
        on_died: Optional[Callable[[Died], None]],
    ) -> None:
        """Starts it.

        Args:
          name: Its role, of `muster.local.serving`.
          arguments: What follows the role on its command line.
          environment: Its whole environment.
          log: The file that it writes to; made where missing, and appended to.
          on_died: Is told when it has ended by itself.
        """
        self.name = name
        self.log = log
        self._command = command_for("muster.local.serving", name, *arguments)
        self._environment = environment
        self._on_died = on_died
        self._ending = threading.Event()
        self._lock = threading.Lock()  # between a restart and an end
        self._process = self._spawn()

    @property
    def pid(self) -> int:
        """Its id, now."""
        return self._process.pid

    def poll(self) -> Optional[int]:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def keep_alive(self) -> None:
        """From now on starts it again whenever it dies."""
        threading.Thread(target=self._watch, name=f"watch-{self.name}", daemon=True).start()

    def terminate(self) -> None:
        """Asks it to end, for good."""
        with self._lock:
            self._ending.set()
            if self._process.poll() is None:
                self._process.terminate()

    def kill(self) -> None:
        """Ends it and all that it started, for good."""
        with self._lock:
            self._ending.set()
            self._kill_group()

    def wait(self, timeout: float) -> None:
        """Waits for the end and sees to it that nothing of the group is left."""
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
                stdin=subprocess.PIPE,  # its end tells the process that we are gone; nothing is ever written
                stdout=log,
                stderr=log,
                env=dict(self._environment),
                start_new_session=_POSIX,
            )

    def _kill_group(self) -> None:
        if not _POSIX:
            self._process.kill()
            return
        # The group may outlive its leader, and may be gone with it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _watch(self) -> None:
        troubles = 0
        while True:
            started = time.monotonic()
            code = self._process.wait()
            if self._ending.is_set():
                return
            troubles = 0 if time.monotonic() - started > _STEADY else troubles + 1
            pause = min(_FIRST_PAUSE * 2.0**troubles, _LONGEST_PAUSE)
            if self._on_died is not None:
                self._on_died(Died(self.name, code, pause, self.log))
            if self._ending.wait(pause):
                return
            with self._lock:
                if self._ending.is_set():
                    return
                self._kill_group()
                self._process = self._spawn()
