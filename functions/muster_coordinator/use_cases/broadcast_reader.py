"""The broadcast reader serves the broadcasts of open rounds to clients."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
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
    """Reader of broadcasts. An instance reads each one from the store once for all clients.

    `seconds` is the TTL of a cached round. A client that fetches a broadcast right after its round
    has closed gets the refusal at its upload.
    """

    platform: Platform
    _: KW_ONLY
    seconds: float

    @cached_property
    def _cached(self) -> Cache[tuple[str, int, str], BlobRef]:
        return Cache(max_entries=_MAX_CACHED_BROADCASTS, ttl=self.seconds, clock=self.platform.clock.now)

    @cached_property
    def _copies(self) -> EncodedCopies:
        return EncodedCopies(self.platform.blobs, cache_last=True)

    def find(self, task: str, number: int, sha256: str) -> BlobRef:
        """Returns the broadcast of the task's open round.

        Args:
          task: The task's name.
          number: The round's number.
          sha256: The broadcast's hash, as in the assignment.

        Raises:
          ProblemError: `round_closed` if the task's open round is another one; `not_found` if the
            task is unknown.
        """
        return self._cached.get_or_load((task, number, sha256), lambda: self._read_open(task, number, sha256))

    def _read_open(self, task: str, number: int, sha256: str) -> BlobRef:
        current = self.platform.task(task).value.current
        record = self.platform.round(current) if current is not None else None
        if record is None or record.value.key.number != number or record.value.terms.broadcast.sha256 != sha256:
            raise ProblemError(ProblemType.ROUND_CLOSED, f"Round {number} of task {task} is not open; check in again")
        return record.value.terms.broadcast

    def read(self, broadcast: BlobRef, accepted: Iterable[str] = ()) -> EncodedCopy:
        """Returns the broadcast's bytes, in the first of the `accepted` encodings that is stored.

        Raises:
          ProblemError: `round_closed` if the broadcast was deleted after its round since `find`
            returned it.
        """
        try:
            return self._copies.read(broadcast.name, accepted)
        except BlobNotFoundError:
            detail = "The round of this broadcast is no longer open; check in again"
            raise ProblemError(ProblemType.ROUND_CLOSED, detail) from None
