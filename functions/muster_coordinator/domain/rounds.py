"""A round's life: `Collecting → Aggregating → Committed`, or `Abandoned`.

Each phase is a type of its own, with the data that only it has; each function is a transition. Whoever wants to make one
reads the round, calls the function and writes the outcome back with compare-and-set: of two who try, one fails and reads again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Literal

from muster.wire.messages import TaskPolicy
from muster_coordinator.domain.names import RoundKey

SLOTS_FOR_A_SHARD = 500
MOST_SHARDS = 1000  # an instance reads as many counters once a second


@dataclass(frozen=True, slots=True)
class BlobRef:
    """A blob and what it must hold."""

    name: str
    sha256: str
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A version of the server state: 0 is the initial one, n the state after round n."""

    version: int
    blob: BlobRef
    created_at: float  # POSIX seconds


@dataclass(frozen=True, slots=True)
class Terms:
    """What a round was opened with; none of it changes while the round lasts, whatever becomes of the task's policy."""

    plan: str  # SHA-256
    base: Checkpoint
    broadcast: BlobRef
    goal: int
    minimum: int
    cap: int
    chunk: int
    shards: int
    assignment_seconds: float
    allow_non_finite: bool
    sums_in_the_clear: bool
    opened_at: float  # POSIX seconds, as all times here
    deadline: float
    max_update_norm: float | None = None
    clip: bool = False
    expected_seconds: float | None = None  # how long the last round took: what waiting clients are told
    # Rounds that a version before 0.2 opened lack these.
    graph_seconds: float = 600.0
    max_update_age: float = 60.0

    @property
    def ticket_counters(self) -> int:
        """Over how many counters the cap is split: as many as there are shards, though a client's shard says nothing of its counter."""
        return self.shards


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of a round's assignments and updates."""

    assigned: int = 0
    reported: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    folded: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    update_bytes: int = 0
    clipped: int = 0  # of the folded ones

    def plus(self, other: Tally) -> Tally:
        """Both together."""
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


@dataclass(frozen=True, slots=True)
class Collecting:
    """Clients are assigned and upload."""

    key: RoundKey
    terms: Terms
    phase: Literal["COLLECTING"] = "COLLECTING"


@dataclass(frozen=True, slots=True)
class Aggregating:
    """No update is taken any more; what is in is being folded and committed."""

    key: RoundKey
    terms: Terms
    closed_at: float
    phase: Literal["AGGREGATING"] = "AGGREGATING"


@dataclass(frozen=True, slots=True)
class Committed:
    """The state has advanced. `broadcast` is the next round's, None after the last round."""

    key: RoundKey
    terms: Terms
    closed_at: float
    ended_at: float
    tally: Tally
    checkpoint: Checkpoint
    result: BlobRef
    broadcast: BlobRef | None
    metrics: Mapping[str, float]
    phase: Literal["COMMITTED"] = "COMMITTED"


@dataclass(frozen=True, slots=True)
class Abandoned:
    """Nothing of this attempt was computed or released; the next attempt starts from the same checkpoint."""

    key: RoundKey
    terms: Terms
    ended_at: float
    reason: str
    tally: Tally
    phase: Literal["ABANDONED"] = "ABANDONED"


Open = Collecting | Aggregating
Ended = Committed | Abandoned
Round = Open | Ended


class RoundDecision(Enum):
    """What to do with a round that collects."""

    GO_ON = "go on"
    AGGREGATE = "aggregate"
    ABANDON = "abandon"
    EXTEND = "extend"  # nobody has come at all: the clock starts again, and no attempt is used up


def judge(
    round_: Collecting, *, updates: int, assigned: Callable[[], int], now: float, floor: int = 1
) -> RoundDecision:
    """Decides whether a collecting round continues, closes or is abandoned.

    Args:
      round_: The round.
      updates: The number of updates in manifests and listing together (not the counters).
      assigned: Returns the number of assignments; called only if the verdict depends on it.
      now: POSIX seconds.
      floor: Fewest updates that the plan's author allows in a result, whatever the round's terms are.
    """
    terms = round_.terms
    minimum = max(terms.minimum, floor)
    if updates >= max(terms.goal, minimum):
        return RoundDecision.AGGREGATE
    if now < terms.deadline:
        return RoundDecision.GO_ON
    if updates >= minimum:
        return RoundDecision.AGGREGATE
    return RoundDecision.ABANDON if updates or assigned() else RoundDecision.EXTEND


def close(round_: Collecting, *, now: float) -> Aggregating:
    """Ends the collecting."""
    return Aggregating(round_.key, round_.terms, closed_at=now)


def extend(round_: Collecting, *, now: float) -> Collecting:
    """Starts the clock of a round to which nobody came again."""
    length = round_.terms.deadline - round_.terms.opened_at
    return replace(round_, terms=replace(round_.terms, opened_at=now, deadline=now + length))


def abandon(round_: Open, *, reason: str, tally: Tally, now: float) -> Abandoned:
    """Gives this attempt up."""
    return Abandoned(round_.key, round_.terms, ended_at=now, reason=reason, tally=tally)


@dataclass(frozen=True, slots=True)
class CommitResult:
    """What a commit computed."""

    tally: Tally
    checkpoint: Checkpoint
    result: BlobRef
    broadcast: BlobRef | None
    metrics: Mapping[str, float]


class BelowMinimumError(ValueError):
    """A round with fewer folded updates than its minimum was about to be committed."""


def commit(round_: Aggregating, outcome: CommitResult, *, now: float, floor: int = 1) -> Committed:
    """Ends the round with a new state.

    Raises:
      BelowMinimumError: fewer updates than the round's minimum, or the plan author's `floor`, were folded.
    """
    minimum = max(round_.terms.minimum, floor)
    if outcome.tally.folded < minimum:
        raise BelowMinimumError(f"{outcome.tally.folded} updates were folded, the minimum is {minimum}")
    return Committed(
        round_.key,
        round_.terms,
        closed_at=round_.closed_at,
        ended_at=now,
        tally=outcome.tally,
        checkpoint=outcome.checkpoint,
        result=outcome.result,
        broadcast=outcome.broadcast,
        metrics=outcome.metrics,
    )


def open_round(
    key: RoundKey,
    policy: TaskPolicy,
    *,
    plan: str,
    base: Checkpoint,
    broadcast: BlobRef,
    sums_in_the_clear: bool,
    opens_at: float,
    expected_seconds: float | None,
) -> Collecting:
    """A round under the task's present policy, opening at `opens_at`."""
    terms = Terms(
        plan=plan,
        base=base,
        broadcast=broadcast,
        goal=policy.goal,
        minimum=policy.minimum,
        cap=policy.cap,
        chunk=policy.chunk,
        shards=policy.shards or min(MOST_SHARDS, max(1, -(-policy.cap // SLOTS_FOR_A_SHARD))),
        assignment_seconds=policy.assignment_seconds,
        allow_non_finite=policy.allow_non_finite,
        sums_in_the_clear=sums_in_the_clear,
        opened_at=opens_at,
        deadline=opens_at + policy.round_seconds,
        max_update_norm=policy.max_update_norm,
        clip=policy.clip,
        expected_seconds=expected_seconds,
        graph_seconds=policy.graph_seconds,
        max_update_age=policy.max_update_age,
    )
    return Collecting(key, terms)


def next_round(ended: Ended, policy: TaskPolicy, *, now: float) -> Collecting | None:
    """The round that follows, or None when the task's rounds are done.

    After a commit it is the next number with the broadcast that the commit made; after an abandoned attempt the same number,
    checkpoint and broadcast bytes in the next epoch.
    """
    terms, key = ended.terms, ended.key
    if isinstance(ended, Abandoned):
        return open_round(
            replace(key, epoch=key.epoch + 1),
            policy,
            plan=terms.plan,
            base=terms.base,
            broadcast=terms.broadcast,
            sums_in_the_clear=terms.sums_in_the_clear,
            opens_at=now,
            expected_seconds=terms.expected_seconds,
        )
    if ended.broadcast is None or key.number >= policy.rounds:
        return None
    return open_round(
        RoundKey(key.task, key.number + 1, 0),
        policy,
        plan=terms.plan,
        base=ended.checkpoint,
        broadcast=ended.broadcast,
        sums_in_the_clear=terms.sums_in_the_clear,
        opens_at=max(now, terms.opened_at + policy.interval_seconds),
        expected_seconds=ended.ended_at - terms.opened_at,
    )
