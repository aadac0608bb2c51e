"""Ends a command on Ctrl-C and SIGTERM within a second, even inside native code.

A signal raises `KeyboardInterrupt` in the main thread, which then has a grace period to end in
order. Python runs handlers only between its own instructions, so a main thread inside native code
does not notice. The C part of the handler, however, writes the signal's number to a socket at once
(`signal.set_wakeup_fd`). A thread reads it there, and ends the process if it still runs after the
grace period, or at a second signal. Only native code that never releases the global interpreter
lock blocks both.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Callable, Optional, Union

from muster.cli.failures import INTERRUPTED

_GRACE_SECONDS = 0.9  # from the first signal to the end of the process
_NAMES = ("SIGINT", "SIGTERM", "SIGBREAK")  # SIGBREAK exists on Windows only
_CLOSED = b"\0"

Handler = Union[Callable[[int, Optional[FrameType]], Any], int, None]


class Interrupts:
    """Signal handlers of one command.

    Attributes:
      numbers: Numbers of the signals.
      interrupted: Whether a signal has arrived.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self.numbers = {int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name)}
        self._before: dict[int, Handler] = {}
        self._reading, self._writing = socket.socketpair()
        self._wakeup = -1

    def install(self) -> None:
        """Installs the handlers. An ignored SIGINT stays ignored: the parent handles Ctrl-C."""
        self._writing.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        for number in self.numbers:
            if number != signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._interrupt)
        threading.Thread(target=self._watch, name="muster-interrupts", daemon=True).start()

    def restore(self) -> None:
        """Restores the previous handlers."""
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if not self.interrupted:
            self._writing.send(_CLOSED)

    def _interrupt(self, _number: int, _frame: Optional[FrameType]) -> None:
        if self.interrupted:
            os._exit(INTERRUPTED)
        self.interrupted = True
        raise KeyboardInterrupt

    def _watch(self) -> None:
        """Ends the process after the grace period of the first signal, or at the second one."""
        signals = 0
        while True:
            try:
                numbers = self._reading.recv(64)
            except socket.timeout:
                os._exit(INTERRUPTED)
            if _CLOSED in numbers or not numbers:
                self._reading.close()
                self._writing.close()
                return
            signals += sum(number in self._before for number in numbers)
            if signals > 1:
                os._exit(INTERRUPTED)
            if signals:
                self._reading.settimeout(_GRACE_SECONDS)


_INSTALLED: list[Interrupts] = []
_FORKING = threading.local()


def _hold_signals() -> None:
    """Blocks signals during a fork, since a child would write them to this process's thread."""
    numbers = {number for interrupts in _INSTALLED for number in interrupts.numbers}
    _FORKING.mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers) if numbers else None


def _release_signals() -> None:
    mask = getattr(_FORKING, "mask", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _restore_in_child() -> None:
    """Restores the previous handlers in a forked child, such as one of a data callback."""
    while _INSTALLED:
        interrupts = _INSTALLED.pop()
        interrupts.interrupted = True  # so the child writes nothing to the parent's thread
        interrupts.restore()
    _release_signals()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_signals, after_in_parent=_release_signals, after_in_child=_restore_in_child)


@contextlib.contextmanager
def interruptible(*, stuck: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Raises `KeyboardInterrupt` in the block on Ctrl-C and SIGTERM, and ends a blocked process.

    Does nothing outside the main thread, since no other thread receives signals.

    Args:
      stuck: Returns whether a thread runs that can't be stopped. If so, the process ends without
        waiting for it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupts = Interrupts()
    interrupts.install()
    _INSTALLED.append(interrupts)
    try:
        yield
    finally:
        if interrupts in _INSTALLED:
            _INSTALLED.remove(interrupts)
        interrupts.restore()
        if interrupts.interrupted and stuck():
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(INTERRUPTED)
