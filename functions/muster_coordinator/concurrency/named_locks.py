"""A lock for each of many names."""

from __future__ import annotations

import threading
from weakref import WeakValueDictionary


class NamedLocks:
    """Lets one thread at a time do what a name stands for. A name's lock is gone when nobody holds it or waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()

    def of(self, name: str) -> threading.Lock:
        """The lock of `name`."""
        with self._lock:
            return self._turns.setdefault(name, threading.Lock())
