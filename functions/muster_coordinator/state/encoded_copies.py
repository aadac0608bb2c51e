"""Encoded copies of what clients download: made once, where they are worth it, beside the blob that they are of.

A copy is there before anybody learns of its blob, and neither ever changes. So an instance that has found none need not look again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from muster.wire import encodings
from muster_coordinator.concurrency.single_flight import SingleFlightReader
from muster_coordinator.domain.names import variant_name
from muster_coordinator.ports import BlobNotFoundError, Blobs

_KEPT = 1024  # names that an instance remembers


@dataclass(frozen=True)
class EncodedCopy:
    """A blob's bytes in an encoding; None: as they are."""

    data: memoryview
    encoding: str | None = None


@dataclass(frozen=True)
class EncodedCopies:
    """The encoded copies in a blob store, which requests share. `keep_last`: see `SingleFlightReader`."""

    blobs: Blobs
    keep_last: bool = False
    _absent: dict[str, None] = field(default_factory=dict)

    @cached_property
    def _shared(self) -> SingleFlightReader:
        return SingleFlightReader(self.blobs, keep_last=self.keep_last)

    def make(self, name: str, data: bytes | memoryview) -> None:
        """Stores the copies of the blob `name`, which has the bytes `data`. Safe to repeat: the first copy stands."""
        for encoding in encodings.available():
            found = encodings.compressed([data], [encoding])
            if found is not None:
                self.blobs.create(variant_name(name, encoding), [found[1]])

    def read(self, name: str, accepted: Iterable[str] = ()) -> EncodedCopy:
        """The blob in the first of `accepted` that there is, or as it is. Raises `BlobNotFoundError`."""
        missing = []
        for encoding in accepted:
            copy = variant_name(name, encoding)
            if copy in self._absent:
                continue
            try:
                return EncodedCopy(self._shared.read(copy), encoding)
            except BlobNotFoundError:
                missing.append(copy)
        data = self._shared.read(name)
        # Only now that the blob is known to be there: before that its copies may be yet to come.
        for copy in missing:
            if len(self._absent) >= _KEPT:
                self._absent.pop(next(iter(self._absent)), None)
            self._absent[copy] = None
        return EncodedCopy(data)
