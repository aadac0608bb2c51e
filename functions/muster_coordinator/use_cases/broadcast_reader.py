"""The open rounds' broadcasts, as clients fetch them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.concurrency.cache import Cache
from muster_coordinator.domain.rounds import BlobRef
from muster_coordinator.ports import BlobNotFoundError
from muster_coordinator.state.encoded_copies import EncodedCopies, EncodedCopy
from muster_coordinator.state.platform import Platform

_MAX_CACHED_BROADCASTS = 1024


@dataclass(frozen=True)
class BroadcastReader:
    """Broadcasts, each read from the store once by an instance, however many clients fetch it.

    `seconds`: how long a reading of the round is trusted. Who fetches a broadcast just after its round has closed learns that at its upload.
    """

    platform: Platform
    seconds: float

    @cached_property
    def _open(self) -> Cache[tuple[str, int, str], BlobRef]:
        return Cache(max_entries=_MAX_CACHED_BROADCASTS, ttl=self.seconds, clock=self.platform.clock.now)

    @cached_property
    def _variants(self) -> EncodedCopies:
        return EncodedCopies(self.platform.blobs, keep_last=True)

    def find(self, task: str, number: int, sha256: str) -> BlobRef:
        """The broadcast of the task's open round, which has the `number` and a broadcast with the hash `sha256`.

        Raises:
          ProblemError: `round_closed`, if the round has gone on; `not_found`, if there is no such task.
        """
        return self._open.get_or_load((task, number, sha256), lambda: self._read_open(task, number, sha256))

    def _read_open(self, task: str, number: int, sha256: str) -> BlobRef:
        current = self.platform.task(task).value.current
        found = self.platform.round(current) if current is not None else None
        if found is None or found.value.key.number != number or found.value.terms.broadcast.sha256 != sha256:
            raise ProblemError(ProblemType.ROUND_CLOSED, f"Round {number} of task {task} is not open; check in again")
        return found.value.terms.broadcast

    def read(self, broadcast: BlobRef, accepted: Iterable[str] = ()) -> EncodedCopy:
        """Its bytes, in the first of the `accepted` encodings that there is.

        Raises:
          ProblemError: `round_closed`, if its round has gone on and the broadcast with it since it was found.
        """
        try:
            return self._variants.read(broadcast.name, accepted)
        except BlobNotFoundError:
            detail = "The round of this broadcast is not open any more; check in again"
            raise ProblemError(ProblemType.ROUND_CLOSED, detail) from None
