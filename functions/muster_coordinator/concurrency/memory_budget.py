"""Bounds the memory of concurrent runs, without letting a slow run block the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_PATIENCE = 2.0  # seconds
_BUDGET = 1 << 30  # bytes


class MemoryBudget:
    """Limiter that admits concurrent runs within a memory budget, and a larger run alone.

    A run that takes longer than `patience` releases its share, and the next one starts beside it.
    So memory is bounded while runs are short, and a run that never ends delays the others once, by
    `patience` at most.
    """

    def __init__(self, *, budget: int = _BUDGET, patience: float = _PATIENCE) -> None:
        """Creates a limiter.

        Args:
          budget: Bytes that concurrent runs may use together.
          patience: Longest time that a run may delay others, in seconds.
        """
        self._budget = budget
        self._patience = patience
        self._released = threading.Condition()
        self._shares: dict[object, int] = {}

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Holds a share of `size` bytes while the body runs, after waiting until it is free."""
        share = object()
        with self._released:
            self._released.wait_for(lambda: not self._shares or sum(self._shares.values()) + size <= self._budget)
            self._shares[share] = size
        timer = threading.Timer(self._patience, self._release, [share])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            self._release(share)

    def _release(self, share: object) -> None:
        with self._released:
            if self._shares.pop(share, None) is not None:
                self._released.notify_all()
