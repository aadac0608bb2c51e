"""Deletion of a task: the reservation of its name, and what a late request may still write.

A deleted task's name is reserved, because a new task of that name would have the same round keys.
Until then a client may upload with an assignment of the deleted task, or finish a direct upload,
and the new task would count it as its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

# Seconds after its end in which a request may still write to a round. A function's request takes at
# most 3600, and may have read the round just before it ended.
LATE_WRITES_TIME = 7200.0
# Seconds for which Cloud Storage accepts the bytes of a direct upload that was started in time.
SESSION_TIME = 7 * 86400.0
# Bytes of an update above which a direct upload may be a session.
SESSION_ABOVE = 16 << 20
CLOCK_SKEW = 300.0  # seconds that the clock of an instance may be ahead of another's
MAX_LATE_ROUNDS = 10_000  # attempts whose late documents are deleted


@dataclass(frozen=True, slots=True)
class LateWrites:
    """Places to which a request may still write that read the task before its deletion.

    Attributes:
      task: The task's name.
      population: The task's population.
      rounds: Ids of the attempts that ended shortly before the deletion, in order.
      purge_at: Time, in POSIX seconds, after which no such request is left.
    """

    task: str
    population: str
    rounds: tuple[str, ...] = ()
    purge_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Deletion:
    """Deletion of a task, which reserves its name.

    Attributes:
      until: Time, in POSIX seconds, until which the name is reserved.
      late: What to delete a second time, or None once that is done. Only it names the task.
      documents: Number of deleted documents. A crash may leave out those of one call.
      blobs: Number of deleted blobs, likewise.
    """

    until: float
    late: LateWrites | None
    documents: int = 0
    blobs: int = 0

    def reserves(self, now: float) -> bool:
        """Returns whether no task may be created under the name yet."""
        return self.late is not None or now < self.until

    def extended(self, late: LateWrites, *, until: float, documents: int = 0, blobs: int = 0) -> Deletion:
        """Returns the deletion with further attempts and counts. Neither time gets earlier."""
        rounds: Iterable[str] = () if self.late is None else self.late.rounds
        purge_at = late.purge_at if self.late is None else max(self.late.purge_at, late.purge_at)
        newest = tuple(sorted({*rounds, *late.rounds}))[-MAX_LATE_ROUNDS:]
        return Deletion(
            until=max(self.until, until),
            late=replace(late, rounds=newest, purge_at=purge_at),
            documents=self.documents + documents,
            blobs=self.blobs + blobs,
        )

    def purged(self) -> Deletion:
        """Returns the deletion once late writes are deleted too. It no longer names the task."""
        return replace(self, late=None)


def reservation_seconds(assignment_seconds: float, *, sessions: bool) -> float:
    """Returns the seconds for which the name of a task is reserved after its deletion.

    An assignment is issued until the task has ended for all instances, is valid for
    `assignment_seconds`, and an upload with it may then take as long as a request.

    Args:
      assignment_seconds: Longest validity of an assignment of the task.
      sessions: Whether clients may have started direct uploads in sessions.
    """
    return max(assignment_seconds, SESSION_TIME if sessions else 0.0) + LATE_WRITES_TIME + CLOCK_SKEW
