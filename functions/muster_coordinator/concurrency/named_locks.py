"""Locks by name."""

from __future__ import annotations

import threading
from weakref import WeakValueDictionary


class NamedLocks:
    """One lock per name. A lock is dropped once no thread holds or awaits it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()

    def for_name(self, name: str) -> threading.Lock:
        """Returns the lock of `name`, the same one to all threads that use it at a time."""
        with self._guard:
            return self._locks.setdefault(name, threading.Lock())
