"""Runs calls that may not end in a separate thread, so that the caller can stop waiting.

A signal's handler runs in the main thread and only between Python's own instructions: a main thread inside native code
would not notice Ctrl-C. So the data callback and a plan's `work` run here, one after another in one daemon thread for
each calling thread. Objects that are bound to a thread, such as a database connection, can rely on that.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from typing import Callable, Generic, Optional, TypeVar

T = TypeVar("T")

_LOOK = 0.05  # seconds between polls of `stop` and of the time
_GRACE = 0.25  # seconds that a call has to end once it is cancelled


class CallStoppedError(Exception):
    """Error raised when the `stop` event is set before the call has ended."""


class CallTimeoutError(Exception):
    """Error raised when the call exceeds its time limit."""


class Call(Generic[T]):
    """Call in another thread.

    Args:
      function: What to call. It receives the event that cancels it.
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
        """Makes the call and stores its result or exception."""
        try:
            if self._function is not None:
                self._results.append(self._context.run(self._function, self.cancel))
        except BaseException as error:  # noqa: BLE001  the caller's thread raises it again
            self._error = error
        finally:
            self._function = None
            self._done.set()

    def result(self, *, stop: Optional[threading.Event], until: Optional[Callable[[], bool]]) -> T:
        """Waits for the end of the call and returns its result.

        Args:
          stop: Ends the wait when set.
          until: Returns whether the time limit is reached.

        Raises:
          CallStoppedError: `stop` was set.
          CallTimeoutError: the time limit was reached.
          BaseException: raised by the call, or by a signal handler meanwhile, in which case the call is canceled.
        """
        try:
            while not self._done.wait(_LOOK):
                if stop is not None and stop.is_set():
                    raise CallStoppedError  # noqa: TRY301
                if until is not None and until():
                    raise CallTimeoutError  # noqa: TRY301
        except BaseException as error:
            self.cancel.set()
            if isinstance(error, (CallStoppedError, CallTimeoutError)):
                self._done.wait(_GRACE)
            raise
        if stop is not None and stop.is_set():
            raise CallStoppedError
        if self._error is not None:
            raise self._error
        return self._results.pop()


class _CallThread:
    """Daemon thread that runs calls until this object is garbage-collected."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Optional[Call[object]]] = queue.SimpleQueue()
        self._last: Optional[Call[object]] = None
        self._thread = threading.Thread(target=_serve, args=(self._calls,), name="muster-work", daemon=True)
        self._thread.start()

    def __del__(self) -> None:
        self._calls.put(None)

    @property
    def free(self) -> bool:
        """Returns whether it can run a call now. False in a forked child, since threads do not survive a fork."""
        return self._thread.is_alive() and (self._last is None or not self._last.running)

    def submit(self, call: Call[object]) -> None:
        self._last = call
        self._calls.put(call)


def _serve(calls: queue.SimpleQueue[Optional[Call[object]]]) -> None:
    while True:
        call = calls.get()
        if call is None:
            return
        call.run()
        del call  # releases its result, which may be a large update


_OF_THREAD = threading.local()


def start(function: Callable[[threading.Event], T]) -> Call[T]:
    """Starts a call in the worker thread of the calling thread."""
    thread: Optional[_CallThread] = getattr(_OF_THREAD, "thread", None)
    if thread is None or not thread.free:
        thread = _OF_THREAD.thread = _CallThread()
    call = Call(function)
    thread.submit(call)  # type: ignore[arg-type]
    return call
