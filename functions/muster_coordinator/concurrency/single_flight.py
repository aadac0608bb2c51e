"""Single-flight reads of blobs: concurrent downloads share one read and one copy in memory."""

from __future__ import annotations

from weakref import WeakValueDictionary

from muster_coordinator.concurrency.named_locks import NamedLocks
from muster_coordinator.ports import Blobs


class SingleFlightReader:
    """Reader of whole immutable blobs that coalesces concurrent reads of one blob.

    A blob stays in memory while any request reads or sends it. So memory grows with the number of
    different blobs that are being sent, never with the number of requests.
    """

    def __init__(self, blobs: Blobs, *, cache_last: bool) -> None:
        """Creates a reader.

        Args:
          blobs: The blobs.
          cache_last: Caches the blob that was read last. Clients that download one blob one after
            another, or in ranges, then cost one read of the store.
        """
        self._blobs = blobs
        self._cache_last = cache_last
        self._last: memoryview | None = None
        self._locks = NamedLocks()
        self._in_use: WeakValueDictionary[str, memoryview] = WeakValueDictionary()

    def read(self, name: str) -> memoryview:
        """Returns the blob's bytes. Raises `BlobNotFoundError`."""
        with self._locks.for_name(name):
            data = self._in_use.get(name)
            if data is None:
                self._last = None  # freed before the next blob is read, not after
                data = self._in_use[name] = self._blobs.read(name)
        if self._cache_last:
            self._last = data
        return data
