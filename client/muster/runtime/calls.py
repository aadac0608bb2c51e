"""Runs calls that end after a time limit, at an event or at Ctrl-C, even while TensorFlow is busy.

TensorFlow blocks a thread until its graph has run, and Python delivers signals only to the main
thread, between its instructions. So a graph runs in a daemon thread, and its caller waits where
signals reach it. A call that must end cancels the graph; a kernel that can't be canceled is
abandoned with its thread, and the caller continues.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable, Generic, Optional, TypeVar, cast

from muster.wire.problems import TimeLimitError

_Result = TypeVar("_Result")
_abandoned: list[threading.Event] = []  # one for each abandoned call, set when the call ends
_POLL_INTERVAL = 0.05  # seconds between polls of the caller's event, and of signals on Windows
_GRACE_PERIOD = 0.25  # seconds for a canceled graph to end by itself


class CancelledError(Exception):
    """Error raised when the caller's event ends a call before its graph has run."""


class Cancellation:
    """Cancellation signal of a running call.

    Attributes:
      until: The monotonic time of the call's limit; None: no limit.
      seconds: The limit itself.
    """

    def __init__(self, *, seconds: Optional[float] = None) -> None:
        self.seconds = seconds
        self.until = None if seconds is None else time.monotonic() + seconds
        self._lock = threading.Lock()
        self._cancelled = False
        self._callbacks: list[Callable[[], None]] = []

    @property
    def cancelled(self) -> bool:
        """Returns whether the call is canceled."""
        return self._cancelled

    def remaining(self) -> Optional[float]:
        """Returns the seconds until the limit, at least 0.0; None if there is no limit."""
        return None if self.until is None else max(0.0, self.until - time.monotonic())

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Registers a callback for the cancellation, called at once if the call is canceled.

        It must not block.
        """
        with self._lock:
            if not self._cancelled:
                self._callbacks.append(callback)
                return
        callback()

    def release(self) -> bool:
        """Unregisters the callbacks. Returns whether the call has not been canceled."""
        with self._lock:
            self._callbacks = []
            return not self._cancelled

    def cancel(self) -> None:
        """Cancels the call."""
        with self._lock:
            self._cancelled = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


class _Running(Generic[_Result]):
    """Function in a separate thread, with its outcome."""

    def __init__(self, function: Callable[[Cancellation], _Result], cancellation: Cancellation, *, name: str) -> None:
        self._function = function
        self.cancellation = cancellation
        self.done = threading.Event()
        self.error: Optional[BaseException] = None
        self.result: Optional[_Result] = None
        threading.Thread(target=self._run, name=f"muster {name}", daemon=True).start()

    def _run(self) -> None:
        try:
            self.result = self._function(self.cancellation)
        except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
            self.error = error
        finally:
            self.done.set()

    def abandon(self) -> None:
        """Cancels the function and waits briefly for its end."""
        # In a separate thread: closing a session may wait for a kernel that is stuck in it.
        threading.Thread(target=self.cancellation.cancel, name="muster cancel", daemon=True).start()
        if not self.done.wait(_GRACE_PERIOD):
            _abandoned.append(self.done)


def abandoned_calls() -> int:
    """Returns the number of abandoned calls of this process that are still running.

    Each occupies a processor until its graph ends, perhaps forever: TensorFlow can't interrupt a
    loop within a `tf.function`. A server process should then be replaced; a process that exits
    should call `os._exit`, which does not wait for threads.
    """
    _abandoned[:] = [done for done in _abandoned if not done.is_set()]
    return len(_abandoned)


def run_in_thread(
    function: Callable[[Cancellation], _Result],
    *,
    name: str,
    seconds: Optional[float] = None,
    stop: Optional[threading.Event] = None,
) -> _Result:
    """Runs a function in a daemon thread and waits for it.

    Args:
      function: Receives the call's `Cancellation`, which it should observe.
      name: The plan's stage, for messages.
      seconds: The limit; None: none.
      stop: Ends the call when it is set.

    Returns:
      The result of the function.

    Raises:
      TimeLimitError: the limit was reached.
      CancelledError: `stop` was set.
      BaseException: raised by the function, or by a signal handler during the wait.
    """
    if stop is not None and stop.is_set():
        raise cancelled_error(name)
    running = _Running(function, Cancellation(seconds=seconds), name=name)
    try:
        early_end = _wait(running, stop, name=name)
    except BaseException:  # raised by a signal handler, mostly KeyboardInterrupt
        running.abandon()
        raise
    if early_end is not None:
        running.abandon()
        raise early_end
    if running.error is not None:
        raise running.error
    return cast(_Result, running.result)


def _wait(running: _Running[_Result], stop: Optional[threading.Event], *, name: str) -> Optional[Exception]:
    """Waits for the end of a call.

    Returns the error that ended it early, or None if it ended by itself.
    """
    cancellation = running.cancellation
    while True:
        remaining = cancellation.remaining()
        if running.done.wait(_POLL_INTERVAL if remaining is None else min(_POLL_INTERVAL, remaining)):
            return None
        if stop is not None and stop.is_set():
            return cancelled_error(name)
        if remaining == 0.0:
            return time_limit_error(name, cancellation.seconds)


@contextmanager
def hold_lock(lock: threading.Lock, *, name: str, stop: Optional[threading.Event] = None) -> Iterator[None]:
    """Holds a lock during a `with` block. Signals and `stop` interrupt the wait for it.

    Raises:
      CancelledError: `stop` was set while another call held the lock.
    """
    while not lock.acquire(timeout=_POLL_INTERVAL):
        if stop is not None and stop.is_set():
            raise cancelled_error(name)
    try:
        yield
    finally:
        lock.release()


def time_limit_error(name: str, seconds: Optional[float]) -> TimeLimitError:
    """Returns the error of a stage that has reached its time limit."""
    return TimeLimitError(f"The plan's {name} took longer than it may ({seconds:g} s) and was stopped")


def cancelled_error(name: str) -> CancelledError:
    """Returns the error of a stage that its caller has stopped."""
    return CancelledError(f"The plan's {name} was stopped before it had a result")
