"""Runs independent store calls concurrently on networked stores, and one by one on local ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import TypeVar

from muster_coordinator.state.platform import Platform

_MAX_PREFETCHED = 4 << 20  # bytes; blobs of large models are not prefetched, to save memory

T = TypeVar("T")
R = TypeVar("R")


def map_concurrently(platform: Platform, call: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Returns the result of `call` for each item, in order, from up to `at_once` threads.

    The first error is raised once all running calls have ended. Each call runs in a copy of the
    caller's context, so that its log lines name the request.
    """
    arguments = list(items)
    if platform.at_once == 1 or len(arguments) < 2:  # noqa: PLR2004
        return [call(argument) for argument in arguments]
    contexts = [copy_context() for _ in arguments]  # a context can't be entered by two threads
    with ThreadPoolExecutor(min(platform.at_once, len(arguments)), "at-once") as pool:
        return list(pool.map(lambda context, argument: context.run(call, argument), contexts, arguments))


@contextmanager
def prefetch(
    platform: Platform, names: Sequence[str], *, size: int, limit: int | None = None, into: memoryview | None = None
) -> Iterator[Callable[[str], memoryview]]:
    """Yields a reader for `names` (each once, in order) that prefetches the next few blobs.

    Args:
      platform: The ports. `at_once` bounds the number of concurrent reads.
      names: The blobs.
      size: Bytes of the largest blob. At most 4 MB are prefetched.
      limit: See `Blobs.read`. The reader raises its errors for the blob that they concern.
      into: See `Blobs.read`; used only where nothing is prefetched. The caller must be done with a
        blob before it reads the next.
    """
    count = min(platform.at_once - 1, _MAX_PREFETCHED // max(1, size), len(names))
    if count < 1:
        yield partial(platform.blobs.read, limit=limit, into=into)
        return
    pool = ThreadPoolExecutor(count, "prefetch")
    remaining = iter(names)
    reads: dict[str, Future[memoryview]] = {}

    def start_next() -> None:
        name = next(remaining, None)
        if name is not None:
            reads[name] = pool.submit(copy_context().run, partial(platform.blobs.read, name, limit=limit))

    def read(name: str) -> memoryview:
        pending = reads.pop(name)
        start_next()
        return pending.result()

    for _ in range(count):
        start_next()
    try:
        yield read
    finally:
        pool.shutdown(cancel_futures=True)
