"""Phases of a round: `Collecting → Aggregating → Committed`, or `Abandoned`.

Each phase is a type with the data of that phase, and each function is a transition. A caller reads
the round, calls the function and writes the result by compare-and-set: of two concurrent callers
one fails, and reads again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal

from muster.wire.messages import TaskPolicy
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.tally import Tally

SLOTS_PER_SHARD = 500
MAX_SHARDS = 1000  # an instance reads the counters of all shards about once a second


@dataclass(frozen=True, slots=True)
class BlobRef:
    """Name, hash and size of a blob."""

    name: str
    sha256: str
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Origin:
    """State outside a task's own checkpoints that a round started from.

    Attributes:
      task: Task of the checkpoint, or None for a stored state.
      version: Version of the checkpoint, or None for a stored state.
      state: SHA-256 of the stored state in hex, or None for a checkpoint.
      leaves: Prefixes of the paths that were taken; the others are those of the plan's initial
        state. Empty if all were.
    """

    task: str | None = None
    version: int | None = None
    state: str | None = None
    leaves: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A version of the server state: 0 is the state at the task's start, n that after round n.

    Attributes:
      version: The version. The base of a round from outside the task has version 0, and the terms
        of the round name its `Origin`.
      blob: The state's blob.
      created_at: The time of its creation, in POSIX seconds.
      line: Number of committed rounds from version 0 along the chain of parents. None in a document
        of a version before 0.2; see `rounds_on_line`.
    """

    version: int
    blob: BlobRef
    created_at: float
    line: int | None = None

    @property
    def rounds_on_line(self) -> int:
        """Number of committed rounds from version 0 to this version, along the chain of parents.

        A version before 0.2 counted every round of the task.
        """
        return self.version if self.line is None else self.line


@dataclass(frozen=True, slots=True)
class Terms:
    """Terms of a round, fixed when it opens. Later changes of the task's policy do not affect them.

    Attributes:
      plan: SHA-256 of the plan.
      base: The checkpoint that the round starts from.
      broadcast: The broadcast's blob.
      goal: Number of updates that closes the round.
      minimum: Fewest updates that the round may release.
      cap: Most assignments that may be outstanding.
      chunk: Number of updates that are folded into one partial.
      shards: Number of shards.
      assignment_seconds: Seconds for which an assignment is valid.
      allow_non_finite: Whether updates may hold NaN or infinity.
      sums_in_the_clear: Whether the plan has sums that are computed in the clear.
      opened_at: The start of the round.
      deadline: The time at which the round closes or is abandoned.
      max_update_norm: Largest L2 norm of an update, or None.
      clip: Whether a larger update is clipped; otherwise it is dropped.
      expected_seconds: Duration of the last round, which paces the clients that wait for the next.
      graph_seconds: Longest time of one run of a graph, in seconds.
      max_update_age: Seconds after which an update is folded although its chunk is not full.
      origin: Where `base` comes from, or None if it is a checkpoint of the task itself.
      request: The request that the round answers; empty unless the task is driven.
    """

    plan: str
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
    expected_seconds: float | None = None
    # The documents of rounds that a version before 0.2 opened lack these.
    graph_seconds: float = 600.0
    max_update_age: float = 60.0
    origin: Origin | None = None
    request: str = ""

    @property
    def ticket_counters(self) -> int:
        """Number of counters that share the cap. A client's counter is independent of its shard."""
        return self.shards


@dataclass(frozen=True, slots=True)
class Collecting:
    """Phase in which clients are assigned and upload updates."""

    key: RoundKey
    terms: Terms
    phase: Literal["COLLECTING"] = "COLLECTING"


@dataclass(frozen=True, slots=True)
class Aggregating:
    """Phase in which updates are folded and committed. No update is accepted any more."""

    key: RoundKey
    terms: Terms
    closed_at: float
    phase: Literal["AGGREGATING"] = "AGGREGATING"


@dataclass(frozen=True, slots=True)
class Committed:
    """Final phase of a round that produced a checkpoint.

    `broadcast` is that of the next round, or None after the last. `tripped` are the guards that the
    result tripped. `worsened` counts the rounds in a row, up to this one, in which the metric
    `compared` got worse; see `guards.Verdict`. `stored` is False from just before retention deletes
    the blobs of the checkpoint and the result.
    """

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
    tripped: tuple[str, ...] = ()
    compared: str = ""
    worsened: int = 0
    stored: bool = True


@dataclass(frozen=True, slots=True)
class Abandoned:
    """Final phase of an attempt that produced nothing.

    The next attempt starts from the same checkpoint.
    """

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
    """Decision on a collecting round."""

    CONTINUE = "continue"
    AGGREGATE = "aggregate"
    ABANDON = "abandon"
    EXTEND = "extend"  # no client was assigned: the round's time starts again in the same attempt


def judge(
    round_: Collecting,
    *,
    updates: int,
    assigned: Callable[[], int],
    now: float,
    floor: int = 1,
    extensible: bool = True,
) -> RoundDecision:
    """Decides whether a collecting round continues, closes or is abandoned.

    Args:
      round_: The round.
      updates: Number of updates in manifests and listing together. Counters would be hints.
      assigned: Returns the number of assignments; called only if the decision depends on it.
      now: The time, in POSIX seconds.
      floor: Fewest updates that the plan's author allows in a result.
      extensible: Whether the round's time starts again if no client was assigned by its deadline.
    """
    terms = round_.terms
    minimum = max(terms.minimum, floor)
    if updates >= max(terms.goal, minimum):
        return RoundDecision.AGGREGATE
    if now < terms.deadline:
        return RoundDecision.CONTINUE
    if updates >= minimum:
        return RoundDecision.AGGREGATE
    return RoundDecision.ABANDON if updates or not extensible or assigned() else RoundDecision.EXTEND


def close(round_: Collecting, *, now: float) -> Aggregating:
    """Closes a round to updates."""
    return Aggregating(round_.key, round_.terms, closed_at=now)


def extend(round_: Collecting, *, now: float) -> Collecting:
    """Restarts the time of a round to which no client was assigned."""
    length = round_.terms.deadline - round_.terms.opened_at
    return replace(round_, terms=replace(round_.terms, opened_at=now, deadline=now + length))


def abandon(round_: Open, *, reason: str, tally: Tally, now: float) -> Abandoned:
    """Ends an attempt without a result."""
    return Abandoned(round_.key, round_.terms, ended_at=now, reason=reason, tally=tally)


@dataclass(frozen=True, slots=True)
class CommitResult:
    """Results of the computations of a commit. See `Committed`."""

    tally: Tally
    checkpoint: Checkpoint
    result: BlobRef
    broadcast: BlobRef | None
    metrics: Mapping[str, float]
    tripped: tuple[str, ...] = ()
    compared: str = ""
    worsened: int = 0


class BelowMinimumError(ValueError):
    """Error raised when a round with fewer folded updates than its minimum would be committed."""


def commit(round_: Aggregating, outcome: CommitResult, *, now: float, floor: int = 1) -> Committed:
    """Ends a round with a new checkpoint.

    Args:
      round_: The round.
      outcome: The results of the commit's computations.
      now: The time, in POSIX seconds.
      floor: Fewest updates that the plan's author allows in a result.

    Raises:
      BelowMinimumError: fewer updates than the round's minimum, or than `floor`, were folded.
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
        tripped=outcome.tripped,
        compared=outcome.compared,
        worsened=outcome.worsened,
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
    origin: Origin | None = None,
    request: str = "",
) -> Collecting:
    """Returns a round under the task's current policy, opening at `opens_at` (POSIX seconds).

    `origin` and `request` are those of the run that it belongs to, if the task is driven.
    """
    terms = Terms(
        plan=plan,
        base=base,
        broadcast=broadcast,
        goal=policy.goal,
        minimum=policy.minimum,
        cap=policy.cap,
        chunk=policy.chunk,
        shards=policy.shards or min(MAX_SHARDS, max(1, -(-policy.cap // SLOTS_PER_SHARD))),
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
        origin=origin,
        request=request,
    )
    return Collecting(key, terms)


def next_round(ended: Ended, policy: TaskPolicy, *, now: float, retries: bool = True) -> Collecting | None:
    """Returns the round that follows, or None after the last round of the task's line.

    After a commit it has the next number, and the broadcast of the commit. After an abandoned
    attempt it is the next attempt (epoch), with the same number, base and broadcast, or None if the
    task does not retry. The policy's `rounds` do not bound requested rounds.
    """
    terms, key = ended.terms, ended.key
    if isinstance(ended, Abandoned):
        if not retries:
            return None
        return open_round(
            replace(key, epoch=key.epoch + 1),
            policy,
            plan=terms.plan,
            base=terms.base,
            broadcast=terms.broadcast,
            sums_in_the_clear=terms.sums_in_the_clear,
            opens_at=now,
            expected_seconds=terms.expected_seconds,
            origin=terms.origin,
            request=terms.request,
        )
    if ended.broadcast is None or (not terms.request and ended.checkpoint.rounds_on_line >= policy.rounds):
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
        request=terms.request,
    )
