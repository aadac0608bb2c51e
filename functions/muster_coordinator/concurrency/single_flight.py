"""Blobs that many download at once: read once, and in memory once, however many there are."""

from __future__ import annotations

from weakref import WeakValueDictionary

from muster_coordinator.concurrency.named_locks import NamedLocks
from muster_coordinator.ports import Blobs


class SingleFlightReader:
    """Reads of whole blobs that never change under their names.

    Whoever asks for a blob that another request still reads or sends gets the same bytes. With `keep_last` those of the blob that was
    asked for last stay, so that clients who come one after another, or for a large blob in parts, cost one read of the store. So the
    memory is that of the blobs that are being sent, or of one; never that of the requests.
    """

    def __init__(self, blobs: Blobs, *, keep_last: bool) -> None:
        self._blobs = blobs
        self._keep_last = keep_last
        self._last: memoryview | None = None
        self._turns = NamedLocks()
        self._held: WeakValueDictionary[str, memoryview] = WeakValueDictionary()

    def read(self, name: str) -> memoryview:
        """The blob's bytes. Raises `BlobNotFoundError`."""
        with self._turns.of(name):
            found = self._held.get(name)
            if found is None:
                self._last = None  # before the next one is read, rather than after it
                found = self._held[name] = self._blobs.read(name)
        if self._keep_last:
            self._last = found
        return found
