"""Counts of a round's assignments and updates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of a round's assignments and updates.

    Attributes:
      assigned: Assignments issued.
      reported: Updates that clients uploaded.
      failed: Assignments that clients gave back, by code, or by reason if there is no code.
      folded: Updates that were folded.
      dropped: Updates that were not folded, by reason.
      update_bytes: Bytes of the folded updates.
      clipped: Number of the folded updates that were clipped.
    """

    assigned: int = 0
    reported: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    folded: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    update_bytes: int = 0
    clipped: int = 0

    def plus(self, other: Tally) -> Tally:
        """Returns the sum of both tallies."""
        return Tally(
            assigned=self.assigned + other.assigned,
            reported=self.reported + other.reported,
            failed=_add(self.failed, other.failed),
            folded=self.folded + other.folded,
            dropped=_add(self.dropped, other.dropped),
            update_bytes=self.update_bytes + other.update_bytes,
            clipped=self.clipped + other.clipped,
        )


def _add(left: Mapping[str, int], right: Mapping[str, int]) -> dict[str, int]:
    return {key: left.get(key, 0) + right.get(key, 0) for key in sorted({*left, *right})}
