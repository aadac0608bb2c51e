"""The coordinator's cache: bounded, thread-safe, with an optional time to live (TTL)."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Entry(Generic[V]):
    """A cached value.

    Attributes:
      value: The value.
      stored_at: The time in POSIX seconds; 0.0 in a cache without a TTL.
    """

    value: V
    stored_at: float


class Cache(Generic[K, V]):
    """Cache of at most `max_entries` values by key, which evicts the oldest entry first.

    With a TTL an entry is valid only while `0 <= now - stored_at < ttl`. The lower bound makes the
    cache safe against a clock that is set back: an entry from the future is invalid, and does not
    live until the clock has caught up. Expired entries are dropped at the next access to any key,
    so a secret does not stay in memory for much longer than the TTL of a cache in use.

    Every operation takes amortized constant time. No operation holds the lock while a value is
    loaded, so two threads that miss the same key at once may both load it.
    """

    def __init__(self, *, max_entries: int, ttl: float | None = None, clock: Callable[[], float] | None = None) -> None:
        """Creates an empty cache.

        Args:
          max_entries: Most entries that the cache holds.
          ttl: Seconds for which an entry is valid; 0 disables the cache, None means for ever.
          clock: Returns the time in POSIX seconds, which may jump. Required with a TTL.

        Raises:
          ValueError: `max_entries` is not positive, or a TTL has no clock.
        """
        if max_entries < 1:
            raise ValueError(f"max_entries is {max_entries}; it must be at least 1")
        if ttl is not None and clock is None:
            raise ValueError("A cache with a TTL needs a clock")
        self._max_entries = max_entries
        self._ttl = ttl
        self._clock: Callable[[], float] = clock if ttl is not None and clock is not None else lambda: 0.0
        self._lock = threading.Lock()
        self._entries: OrderedDict[K, Entry[V]] = OrderedDict()  # in the order in which they were stored

    def get(self, key: K) -> V | None:
        """Returns the cached value, or None. Where None is a value too, use `get_or_load`."""
        with self._lock:
            entry = self._valid_entry(key)
        return None if entry is None else entry.value

    def get_or_load(self, key: K, load: Callable[[], V]) -> V:
        """Returns the cached value, or loads and caches it.

        The time of a loaded entry is that before the load: it is never served for longer than the
        TTL after its load began.

        Args:
          key: The key.
          load: Returns the value. Its exceptions pass through, and are not cached.

        Returns:
          The value. If another thread has stored one during the load, that one, so that all threads
          share one object.
        """
        with self._lock:
            entry = self._valid_entry(key)
        if entry is not None:
            return entry.value
        started_at = self._clock()
        loaded = Entry(load(), started_at)
        with self._lock:
            entry = self._valid_entry(key)
            if entry is None:
                entry = self._store(key, loaded)
        return entry.value

    def put(self, key: K, value: V) -> None:
        """Caches a value as of now, in place of the one that is cached."""
        entry = Entry(value, stored_at=self._clock())
        with self._lock:
            self._store(key, entry)

    def discard(self, key: K) -> None:
        """Removes an entry, if there is one."""
        with self._lock:
            self._entries.pop(key, None)

    def clear(self) -> None:
        """Removes all entries."""
        with self._lock:
            self._entries.clear()

    def entries(self) -> dict[K, Entry[V]]:
        """Returns a copy of all entries in memory, oldest first, expired ones included."""
        with self._lock:
            return dict(self._entries)

    def __contains__(self, key: K) -> bool:
        """Returns whether the key has a valid entry. It may be gone at the next call."""
        with self._lock:
            return self._valid_entry(key) is not None

    def __len__(self) -> int:
        """Returns the number of entries in memory, expired ones included."""
        with self._lock:
            return len(self._entries)

    def _valid_entry(self, key: K) -> Entry[V] | None:
        """Returns the key's valid entry, if any, and drops expired ones. Needs the lock."""
        now = self._clock()
        while self._entries and not self._is_valid(next(iter(self._entries.values())), now):
            self._entries.popitem(last=False)
        entry = self._entries.get(key)
        return entry if entry is not None and self._is_valid(entry, now) else None

    def _is_valid(self, entry: Entry[V], now: float) -> bool:
        return self._ttl is None or 0 <= now - entry.stored_at < self._ttl

    def _store(self, key: K, entry: Entry[V]) -> Entry[V]:
        """Stores an entry as the newest, and evicts the oldest. Needs the lock."""
        if self._ttl is None or self._ttl > 0:
            self._entries[key] = entry
            self._entries.move_to_end(key)
            if len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)
        return entry
