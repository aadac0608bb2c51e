"""The event loop of a load: its time is POSIX seconds, and it can skip idle time."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Any, Callable, Optional, TypeVar

T = TypeVar("T")


class LoadError(RuntimeError):
    """Error raised when a load can't continue; it names the request or round, and the reason."""


class LoadLoop(asyncio.SelectorEventLoop):
    """Event loop whose time is POSIX seconds, and which can skip idle time.

    Time flows with the machine's monotonic clock. With `skip_idle`, a loop that has nothing to do
    moves its clock to its next timer instead of waiting, so that a load of hours takes as long as
    its work. The coordinator must then use this clock, and be called on the loop's own thread.
    """

    def __init__(self, *, skip_idle: bool) -> None:
        self._offset = time.time() - time.monotonic()  # seconds
        super().__init__(_SkippingSelector(self._skip) if skip_idle else None)

    def time(self) -> float:
        """Returns POSIX seconds."""
        return time.monotonic() + self._offset

    now = time  # as a coordinator's clock

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Runs `main`, cancels what it left behind, and closes the loop."""
        try:
            return self.run_until_complete(main)
        finally:
            self.run_until_complete(_cancel(asyncio.all_tasks(self)))
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


async def run_beside(background: Awaitable[None], main: Awaitable[T]) -> T:
    """Runs `main` while `background` runs, which is cancelled afterwards. Its errors end `main`."""
    beside, task = asyncio.ensure_future(background), asyncio.ensure_future(main)
    try:
        await asyncio.wait({beside, task}, return_when=asyncio.FIRST_COMPLETED)
        if beside.done():
            beside.result()
        return await task
    finally:
        await _cancel({beside, task})


async def _cancel(tasks: Iterable[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
