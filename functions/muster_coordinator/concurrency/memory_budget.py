"""Bounds the memory of concurrent runs, without letting a slow one block the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_PATIENCE = 2.0  # longest time that a run may delay others, in seconds
_BUDGET = 1 << 30  # bytes


class MemoryBudget:
    """Limiter that admits concurrent runs within a memory budget, and a run above the budget only alone.

    A run that takes longer than `patience` releases its share, and the next one starts beside it. So memory is bounded
    while runs are short, and one that never ends delays the others by `patience` at most, once.
    """

    def __init__(self, *, budget: int = _BUDGET, patience: float = _PATIENCE) -> None:
        self._budget = budget
        self._patience = patience
        self._free = threading.Condition()
        self._shares: dict[object, int] = {}

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Waits until a run of about `size` bytes may start, and holds its share while the body runs."""
        share = object()
        with self._free:
            self._free.wait_for(lambda: not self._shares or sum(self._shares.values()) + size <= self._budget)
            self._shares[share] = size
        late = threading.Timer(self._patience, self._give_back, [share])
        late.daemon = True
        late.start()
        try:
            yield
        finally:
            late.cancel()
            self._give_back(share)

    def _give_back(self, share: object) -> None:
        with self._free:
            if self._shares.pop(share, None) is not None:
                self._free.notify_all()
