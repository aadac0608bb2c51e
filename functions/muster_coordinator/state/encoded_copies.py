"""Encoded copies of what clients download, made once and stored beside the original blob.

A copy is stored before any client learns the name of its blob, and neither ever changes. So a copy
that is missing beside an existing blob stays missing, and its absence may be cached for ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from muster.wire import encodings
from muster_coordinator.concurrency.cache import Cache
from muster_coordinator.concurrency.single_flight import SingleFlightReader
from muster_coordinator.domain.names import variant_name
from muster_coordinator.ports import BlobNotFoundError, Blobs

MAX_CACHED_ABSENCES = 1024  # names


@dataclass(frozen=True)
class EncodedCopy:
    """A blob's bytes in a content encoding, or unencoded if `encoding` is None."""

    data: memoryview
    encoding: str | None = None


@dataclass(frozen=True)
class EncodedCopies:
    """The encoded copies in a blob store, with reads that concurrent requests share.

    Attributes:
      blobs: The store.
      keep_last: See `SingleFlightReader`.
    """

    blobs: Blobs
    cache_last: bool = False
    _absent: Cache[str, bool] = field(default_factory=lambda: Cache(max_entries=MAX_CACHED_ABSENCES))

    @cached_property
    def _reader(self) -> SingleFlightReader:
        return SingleFlightReader(self.blobs, cache_last=self.cache_last)

    def make(self, name: str, data: bytes | memoryview) -> None:
        """Stores the encoded copies of the blob `name`, in each encoding that saves bytes.

        A repeat changes nothing: the first copy stays.

        Args:
          name: The blob's name.
          data: The blob's bytes.
        """
        for encoding in encodings.available():
            result = encodings.compress_if_smaller([data], [encoding])
            if result is not None:
                self.blobs.create(variant_name(name, encoding), [result[1]])

    def read(self, name: str, accepted: Iterable[str] = ()) -> EncodedCopy:
        """Returns the blob in the first of the `accepted` encodings that is stored, or unencoded.

        Raises:
          BlobNotFoundError: the blob does not exist.
        """
        missing = []
        for encoding in accepted:
            copy = variant_name(name, encoding)
            if copy in self._absent:
                continue
            try:
                return EncodedCopy(self._reader.read(copy), encoding)
            except BlobNotFoundError:
                missing.append(copy)
        data = self._reader.read(name)
        # Absences count only once the blob is known to exist: before, its copies may still be
        # written.
        for copy in missing:
            self._absent.put(copy, True)
        return EncodedCopy(data)
