"""Thread-safe cache of the last few values."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Cache of the values of the last `size` keys. If two threads miss at once, both make the value; the first wins."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._values: dict[K, V] = {}

    def __contains__(self, key: K) -> bool:
        """Returns whether the key's value is cached."""
        with self._lock:
            return key in self._values

    def get(self, key: K, make: Callable[[], V]) -> V:
        """Returns the cached value, or adds the result of `make`, whose exceptions pass through and are not cached."""
        with self._lock:
            if key in self._values:
                return self._values[key]
        made = make()
        with self._lock:
            while key not in self._values and len(self._values) >= self._size:
                del self._values[next(iter(self._values))]
            return self._values.setdefault(key, made)
