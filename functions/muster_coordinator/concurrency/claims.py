"""Claims of work in this process, so that a second delivery of it does not repeat it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Claims:
    """Pieces of work in progress. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._in_progress: set[object] = set()

    @contextmanager
    def claim(self, work: object) -> Iterator[bool]:
        """Claims `work` during the body. Yields False if it is in progress already."""
        with self._lock:
            claimed = work not in self._in_progress
            self._in_progress.add(work)
        try:
            yield claimed
        finally:
            if claimed:
                with self._lock:
                    self._in_progress.discard(work)
