"""The event loop of a load, and the structured concurrency that it needs on Python 3.9."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Coroutine
from typing import Any, Callable, Optional, TypeVar

T = TypeVar("T")


class LoadError(RuntimeError):
    """Error raised when a load can't continue; the text names the request or the round, and the reason."""


class LoadLoop(asyncio.SelectorEventLoop):
    """Event loop whose time is POSIX seconds, and which can skip idle time.

    Time flows with the machine's monotonic clock. With `skip_idle`, a loop that has nothing to do moves its clock to
    its next timer instead of waiting, so that a load of hours takes as long as its work. That needs a coordinator
    whose clock is this loop and which is called without threads.

    Args:
      skip_idle: True to skip idle time.
    """

    def __init__(self, *, skip_idle: bool) -> None:
        self._offset = time.time() - time.monotonic()  # seconds
        super().__init__(_SkippingSelector(self._skip) if skip_idle else None)

    def time(self) -> float:
        """Returns POSIX seconds."""
        return time.monotonic() + self._offset

    now = time  # as `muster_coordinator.ports.Clock`

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Runs `main` to its end, cancels what it left behind, and closes the loop."""
        try:
            return self.run_until_complete(main)
        finally:
            tasks = asyncio.all_tasks(self)
            for task in tasks:
                task.cancel()
            self.run_until_complete(_settled(tasks))
            self.close()

    def _skip(self, seconds: float) -> None:
        self._offset += seconds


class _SkippingSelector(selectors.DefaultSelector):
    """Selector that calls `skip` with the seconds that it should wait."""

    def __init__(self, skip: Callable[[float], None]) -> None:
        super().__init__()
        self._skip = skip

    def select(self, timeout: Optional[float] = None) -> Any:
        if timeout is None:
            raise LoadError("The load stands still: nothing is due, and clients are left")
        self._skip(max(0.0, timeout))
        return super().select(0)


class TaskGroup:
    """Coroutines that end together: the first error cancels all others. (`asyncio.TaskGroup` needs Python 3.11.)"""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end: asyncio.Future[None] = self._loop.create_future()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._background: set[asyncio.Task[Any]] = set()

    def start(self, coroutine: Coroutine[Any, Any, T], *, background: bool = False) -> asyncio.Task[T]:
        """Starts a coroutine. The group does not wait for one in the background, but cancels it at its end."""
        task = self._loop.create_task(coroutine)
        (self._background if background else self._tasks).add(task)
        task.add_done_callback(self._ended)
        return task

    async def join(self) -> None:
        """Returns when all coroutines have ended, or raises the first error."""
        try:
            await self._end
        finally:
            left = self._tasks | self._background
            for task in left:
                task.cancel()
            await _settled(left)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if self._end.done():
            return
        if error is not None:
            self._end.set_exception(error)
        elif not self._tasks:
            self._end.set_result(None)


async def _settled(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
