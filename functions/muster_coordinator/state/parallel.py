"""Calls to the stores that need not wait for one another: several at once where a call crosses a network, one by one where it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from muster_coordinator.state.platform import Platform

_READ_AHEAD = 4 << 20  # bytes: small models are read ahead, large ones would take the memory of several

T = TypeVar("T")
R = TypeVar("R")


def map_concurrently(platform: Platform, call: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """What `call` gives for each of `items`, in their order. The first error is raised once all calls under way have ended."""
    wanted = list(items)
    if platform.at_once == 1 or len(wanted) < 2:  # noqa: PLR2004
        return [call(item) for item in wanted]
    with ThreadPoolExecutor(min(platform.at_once, len(wanted)), "at-once") as pool:
        return list(pool.map(call, wanted))


@contextmanager
def prefetch(
    platform: Platform, names: Sequence[str], *, size: int, limit: int | None = None, into: memoryview | None = None
) -> Iterator[Callable[[str], memoryview]]:
    """Gives what reads the blobs `names`, each once and in this order, while the next few are already on their way.

    Args:
      platform: Has the blobs, and says how many calls may be under way.
      names: The blobs.
      size: Bytes of the largest of them. No more than 4 MB are read ahead of the blob that is asked for.
      limit: See `Blobs.read`, whose errors are raised by the call that asks for the blob.
      into: See `Blobs.read`, where nothing is read ahead; for whoever has done with a blob when it asks for the next.
    """
    count = min(platform.at_once - 1, _READ_AHEAD // max(1, size), len(names))
    if count < 1:
        yield partial(platform.blobs.read, limit=limit, into=into)
        return
    pool = ThreadPoolExecutor(count, "read-ahead")
    coming = iter(names)
    started: dict[str, Future[memoryview]] = {}

    def start() -> None:
        name = next(coming, None)
        if name is not None:
            started[name] = pool.submit(platform.blobs.read, name, limit=limit)

    def read(name: str) -> memoryview:
        asked = started.pop(name)
        start()
        return asked.result()

    for _ in range(count):
        start()
    try:
        yield read
    finally:
        pool.shutdown(cancel_futures=True)
