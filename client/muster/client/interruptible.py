"""Runs calls that may not end in a separate thread, so that the caller can stop waiting.

Python runs signal handlers in the main thread, between bytecode instructions: native code in the
main thread would delay Ctrl-C. So the data callback and a plan's `work` run here, one after
another, in one daemon thread for each calling thread. An object that is bound to a thread, such as
a database connection, works in all calls of that thread.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from typing import Callable, Generic, Optional, TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.05  # between polls of `stop` and `timed_out`
_CANCEL_SECONDS = 0.25  # that a canceled call has to end


class CallStoppedError(Exception):
    """Error raised when the `stop` event is set before the call has ended."""


class CallTimeoutError(Exception):
    """Error raised when the call exceeds its time limit."""


class InterruptibleCall(Generic[T]):
    """Call in another thread.

    Args:
      function: The function to call. Its argument is the event that cancels the call.
    """

    def __init__(self, function: Callable[[threading.Event], T]) -> None:
        self._function: Optional[Callable[[threading.Event], T]] = function
        self._context = contextvars.copy_context()
        self._results: list[T] = []
        self._error: Optional[BaseException] = None
        self._done = threading.Event()
        self.cancel = threading.Event()

    @property
    def running(self) -> bool:
        """Returns whether the call is queued or running."""
        return not self._done.is_set()

    def run(self) -> None:
        """Calls the function and stores its result or exception."""
        try:
            if self._function is not None:
                self._results.append(self._context.run(self._function, self.cancel))
        except BaseException as error:  # noqa: BLE001  the caller's thread raises it again
            self._error = error
        finally:
            self._function = None
            self._done.set()

    def result(self, *, stop: Optional[threading.Event], timed_out: Optional[Callable[[], bool]]) -> T:
        """Waits for the end of the call and returns its result.

        Args:
          stop: Ends the wait when set.
          timed_out: Returns whether the time limit is reached; None: no limit.

        Raises:
          CallStoppedError: `stop` was set.
          CallTimeoutError: the time limit was reached.
          BaseException: raised by the call, or by a signal handler during the wait, which cancels
            the call.
        """
        try:
            while not self._done.wait(_POLL_SECONDS):
                if stop is not None and stop.is_set():
                    raise CallStoppedError  # noqa: TRY301
                if timed_out is not None and timed_out():
                    raise CallTimeoutError  # noqa: TRY301
        except BaseException as error:
            self.cancel.set()
            if isinstance(error, (CallStoppedError, CallTimeoutError)):
                self._done.wait(_CANCEL_SECONDS)
            raise
        if stop is not None and stop.is_set():
            raise CallStoppedError
        if self._error is not None:
            raise self._error
        return self._results.pop()


class _CallThread:
    """Daemon thread that runs calls until this object is garbage-collected."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Optional[InterruptibleCall[object]]] = queue.SimpleQueue()
        self._last: Optional[InterruptibleCall[object]] = None
        self._thread = threading.Thread(target=_serve, args=(self._calls,), name="muster-work", daemon=True)
        self._thread.start()

    def __del__(self) -> None:
        self._calls.put(None)

    @property
    def free(self) -> bool:
        """Returns whether it can run a call now: not in a forked child, where threads are gone."""
        return self._thread.is_alive() and (self._last is None or not self._last.running)

    def submit(self, call: InterruptibleCall[object]) -> None:
        self._last = call
        self._calls.put(call)


def _serve(calls: queue.SimpleQueue[Optional[InterruptibleCall[object]]]) -> None:
    while True:
        call = calls.get()
        if call is None:
            return
        call.run()
        del call  # releases its result, which may be a large update


_LOCAL = threading.local()


def start(function: Callable[[threading.Event], T]) -> InterruptibleCall[T]:
    """Starts a call in the worker thread of the calling thread."""
    thread: Optional[_CallThread] = getattr(_LOCAL, "thread", None)
    if thread is None or not thread.free:
        thread = _LOCAL.thread = _CallThread()
    call = InterruptibleCall(function)
    thread.submit(call)  # type: ignore[arg-type]
    return call
