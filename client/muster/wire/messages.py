"""The JSON messages between clients, operators and the coordinator. Times are RFC 3339, durations seconds, sizes bytes."""

from __future__ import annotations

import math
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Literal, Optional, Union

from pydantic import Field, model_validator

from muster.wire.base import CRC32C_PATTERN, ENROLMENT_PATTERN, NAME_PATTERN, SHA256_PATTERN, Answer, Message
from muster.wire.times import Seconds, Time

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Sha256 = Annotated[str, Field(pattern=SHA256_PATTERN)]
Crc32c = Annotated[str, Field(pattern=CRC32C_PATTERN)]  # big-endian, in base64: as Cloud Storage writes it


class WaitReason(str, Enum):
    """Why a client that checked in gets no work now."""

    NO_TASK = "no_task"  # the population has no task that runs
    ROUND_FULL = "round_full"  # every slot of the open round is taken
    BETWEEN_ROUNDS = "between_rounds"  # the round is being folded and committed, or the next is not due yet
    ALREADY_IN = "already_in"  # the client is done with the open round: it contributed, or gave its assignment back
    TASK_PAUSED = "task_paused"
    TOO_SOON = "too_soon"  # the client's last contribution is younger than the task's minimum separation
    OTHER = "other"  # a reason that this version does not know

    @classmethod
    def _missing_(cls, value: object) -> WaitReason | None:
        return cls.OTHER if isinstance(value, str) else None


class FailureReason(str, Enum):
    """Why a client gives an assignment back."""

    DATA = "data"  # the data callback failed or gave data that the plan does not take
    COMPUTATION = "computation"  # the plan's graph failed
    PLAN_REFUSED = "plan_refused"  # a hash, a signature, an operation or a local limit spoke against the plan
    CANCELLED = "cancelled"  # the device's owner or its system stopped the work
    OTHER = "other"


class CheckinRequest(Message):
    """A client asks for work.

    `client` names the client where the coordinator runs with open identity; it keeps the client to one contribution a
    round. `cookie` is what the last answer carried, handed back unread.
    """

    client: Optional[Annotated[str, Field(min_length=1, max_length=256)]] = None
    cookie: Optional[Annotated[str, Field(max_length=4096)]] = None


class Download(Answer):
    """Something to fetch, immutable under its hash. `url` is relative to the coordinator's."""

    url: str
    sha256: Sha256
    size: int


class Assignment(Answer):
    """Permission for one client to upload one update to one round, as `Authorization: Bearer <token>`.

    `direct_above`: updates of more bytes are uploaded directly to the store (`updates:start`); None: none are.
    `update_encodings`: the accepted content encodings of an update that is uploaded through the coordinator. Sizes are
    of the bytes before any encoding. `seconds`: validity of the assignment from this answer on, so that a device needs
    no correct clock. `goal` and `minimum`: those of the round. A coordinator before 0.2 does not send these three.
    """

    status: Literal["assigned"] = "assigned"
    task: Name
    round: int
    token: str
    expires_at: datetime
    seconds: Optional[float] = None
    goal: Optional[int] = None
    minimum: Optional[int] = None
    plan: Download
    broadcast: Download
    max_update_bytes: int
    direct_above: Optional[int] = None
    update_encodings: tuple[str, ...] = ()
    allow_non_finite: bool = False
    sums_in_the_clear: bool = False


class Wait(Answer):
    """No work now. The client checks in again after `retry_after` seconds, which are jittered already."""

    status: Literal["wait"] = "wait"
    reason: WaitReason
    retry_after: float
    cookie: Optional[str] = None


class CheckinResponse(Answer):
    """The answer to a check-in."""

    answer: Annotated[Union[Assignment, Wait], Field(discriminator="status")]


class Receipt(Answer):
    """An update or a report was taken; a repeat gets the same. `retry_after`: when to check in again, in seconds."""

    status: Literal["accepted", "reported"]
    task: Name
    round: int
    retry_after: float
    cookie: Optional[str] = None


class UploadStart(Message):
    """A client has an update for the store itself: `size` and `crc32c` are of the file that it will send, and of no other."""

    size: Annotated[int, Field(ge=1, le=5 << 40)]
    crc32c: Crc32c


class DirectUpload(Answer):
    """Where the update goes: to `url`, by `method`, with just these `headers`, and without the assignment's token.

    Not `resumable`: the whole file in one request. `resumable`: `url` is an upload session of Cloud Storage, which can be asked
    how much it has. Whoever knows `url` can bring that file, once; it is void after `expires_at`.
    """

    method: Literal["PUT"] = "PUT"
    url: str
    headers: dict[str, str]
    resumable: bool
    expires_at: datetime


class Report(Message):
    """What became of an assignment.

    `failed`: the client gives it back, with a `reason`, so that its slot is free at once. `uploaded`: its update is in the store.
    """

    outcome: Literal["failed", "uploaded"] = "failed"
    reason: Optional[FailureReason] = None
    detail: Annotated[str, Field(max_length=1000)] = ""

    @model_validator(mode="after")
    def _consistent(self) -> Report:
        if (self.outcome == "failed") is (self.reason is None):
            raise ValueError("a failure has a reason, and an upload has none")
        return self


class TaskPolicy(Message):
    """Policy of a task's rounds.

    Attributes:
      rounds: Number of rounds to commit.
      goal: Number of updates that closes a round.
      minimum: Least number of updates; with fewer at the deadline a round is abandoned, and nothing of it is computed
        or released. By default `goal`.
      over_selection: Slots for each update of the goal; the cap is `ceil(goal × over_selection)`.
      round_seconds: Time from a round's opening to its deadline.
      assignment_seconds: Time that a client has for its work and upload.
      chunk: Updates folded into one partial.
      shards: Groups of clients that are counted and folded apart; None: one for each 500 slots, and at most 1,000.
      interval_seconds: Least time from one round's opening to the next one's.
      starts_at: Time at which the first round opens; None: at once.
      separation_seconds: Least time from a client's contribution to its next assignment.
      allow_non_finite: Whether updates may hold NaN and infinity.
      max_update_norm: The largest L2 norm of an update's floating-point tensors, scalars left out; None: any.
      clip: An update above that norm is scaled down to it rather than dropped.
      max_update_age: Seconds after which a stored update is folded before its chunk is full, with at least one other
        update or onto an earlier partial.
      graph_seconds: Longest time of one run of one of the plan's graphs in the coordinator, in seconds. A graph that
        takes longer is stopped and pauses the task.
    """

    rounds: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    goal: Annotated[int, Field(ge=1, le=10_000_000)] = 10
    minimum: Annotated[int, Field(ge=1)] = 10
    over_selection: Annotated[float, Field(ge=1.0, le=10.0)] = 1.0
    round_seconds: Annotated[Seconds, Field(gt=0, le=30 * 86400)] = 600.0
    assignment_seconds: Annotated[Seconds, Field(gt=0, le=86400)] = 300.0
    chunk: Annotated[int, Field(ge=2, le=10_000)] = 32
    shards: Optional[Annotated[int, Field(ge=1, le=1000)]] = None
    interval_seconds: Annotated[float, Field(ge=0, le=366 * 86400)] = 0.0
    starts_at: Optional[Time] = None
    separation_seconds: Annotated[float, Field(ge=0, le=366 * 86400)] = 0.0
    allow_non_finite: bool = False
    max_update_norm: Optional[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = None
    clip: bool = False
    max_update_age: Annotated[float, Field(ge=1.0, le=30 * 86400)] = 60.0
    graph_seconds: Annotated[float, Field(ge=0.001, le=3000)] = 600.0

    @model_validator(mode="before")
    @classmethod
    def _minimum_is_the_goal(cls, data: Any) -> Any:
        """Sets a missing minimum to the goal, so that every stored policy states it for older coordinators too."""
        if isinstance(data, dict) and "minimum" not in data:
            goal = data.get("goal", cls.model_fields["goal"].default)
            return {**data, "minimum": goal if isinstance(goal, int) and goal >= 1 else 1}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> TaskPolicy:
        if self.minimum > self.goal:
            raise ValueError(
                f"minimum ({self.minimum}) is above goal ({self.goal}): no round could reach it by its goal"
            )
        if self.clip and self.max_update_norm is None:
            raise ValueError("clip is set and max_update_norm is not: there is nothing to clip to")
        return self

    @property
    def cap(self) -> int:
        """How many assignments may be outstanding or used in a round."""
        return math.ceil(self.goal * self.over_selection)


class TaskSpec(Message):
    """A task as an operator makes it."""

    name: Name
    population: Name
    plan: Sha256
    policy: TaskPolicy = TaskPolicy()


class TaskStatus(str, Enum):
    """Where a task stands."""

    OPENING = "opening"  # the first broadcast is being computed
    ACTIVE = "active"
    PAUSED = "paused"  # no new assignments; updates under way are taken
    COMPLETED = "completed"
    CANCELLED = "cancelled"


class Phase(str, Enum):
    """Where a round stands."""

    COLLECTING = "COLLECTING"
    AGGREGATING = "AGGREGATING"
    COMMITTED = "COMMITTED"
    ABANDONED = "ABANDONED"


class RoundView(Answer):
    """Round (one attempt of it), as shown to an operator. Counts and metrics are of the updates that were folded.

    `reported` counts the accepted updates. It is missing while a round with a goal below 20 is open, since it would
    show when one client contributed. `assigned` counts the assigned slots.
    """

    task: Name
    round: int
    epoch: int
    phase: Phase
    opened_at: datetime
    deadline: datetime
    ended_at: Optional[datetime] = None
    goal: int
    minimum: int
    cap: int
    assigned: int = 0
    reported: Optional[int] = None
    failed: dict[str, int] = Field(default_factory=dict)  # clients' reports, by reason
    folded: int = 0
    dropped: dict[str, int] = Field(default_factory=dict)  # updates left out of the fold, by reason
    clipped: int = 0  # of the folded updates, those scaled down to the task's bound
    update_bytes: int = 0
    broadcast_bytes: int = 0
    sums_in_the_clear: bool = False
    reason: str = ""  # why it was abandoned
    metrics: dict[str, float] = Field(default_factory=dict)  # the result's scalars, by path


class TaskView(Answer):
    """A task, as an operator sees it. `current` is the open round, or the last one."""

    spec: TaskSpec
    plan_name: str
    status: TaskStatus
    created_at: datetime
    checkpoint: int  # the newest version
    sums_in_the_clear: bool = False
    current: Optional[RoundView] = None
    note: str = ""  # what an operator should know: why the task can't go on


class TaskList(Answer):
    """All tasks, by name. `unreadable`: names of tasks that a newer version of the coordinator wrote."""

    tasks: tuple[TaskView, ...]
    unreadable: tuple[str, ...] = ()


class RoundList(Answer):
    """Page of a task's attempts, oldest first. `next` is the next page's `after`. `unreadable`: unreadable ones."""

    rounds: tuple[RoundView, ...]
    unreadable: tuple[str, ...] = ()
    next: Optional[str] = None


class CheckpointView(Answer):
    """A version of the server state; version 0 is the initial one, version n the state after round n."""

    version: int
    sha256: Sha256
    size: int
    created_at: datetime
    url: str


class CheckpointList(Answer):
    """Checkpoints of a task, oldest first. `unreadable`: unreadable rounds, whose checkpoints may be missing."""

    checkpoints: tuple[CheckpointView, ...]
    unreadable: tuple[str, ...] = ()


class AuditEntry(Answer):
    """One thing that an operator did, or wanted to do.

    Attributes:
      id: Ids sort by time.
      at: When it began.
      who: The operator: a key's name, or an e-mail address.
      role: The operator's role, `viewer` or `operator`.
      action: What, such as `task.pause`.
      subject: To what: a task's name, a plan's address.
      request: What was asked for.
      before: The subject just before.
      result: `done`; `failed`, with `problem`; `refused`, for want of a role; `unknown`, if the coordinator died meanwhile or is at
        it still: it may have taken effect.
      ended_at: When it was over.
      after: The subject just after.
      problem: The type of the problem that it ended with.
      detail: That problem's text.
    """

    id: str
    at: datetime
    who: str
    role: str
    action: str
    subject: str
    request: dict[str, Any] = Field(default_factory=dict)
    before: dict[str, Any] = Field(default_factory=dict)
    result: str
    ended_at: Optional[datetime] = None
    after: dict[str, Any] = Field(default_factory=dict)
    problem: str = ""
    detail: str = ""


class AuditList(Answer):
    """Page of the audit log, oldest first. `next` is the next page's `after`. `unreadable`: unreadable entries."""

    entries: tuple[AuditEntry, ...]
    unreadable: tuple[str, ...] = ()
    next: Optional[str] = None


EnrolmentId = Annotated[str, Field(pattern=ENROLMENT_PATTERN)]


class Revocation(Message):
    """An enrolment token to be good no more. `expires_at`: when it would have expired; without it, it stays listed for good."""

    id: EnrolmentId
    expires_at: Optional[Time] = None


class RevocationView(Answer):
    """A revoked token."""

    id: EnrolmentId
    revoked_at: datetime
    expires_at: Optional[datetime] = None


class RevocationList(Answer):
    """The revoked tokens, in the order of their revocation."""

    revocations: tuple[RevocationView, ...]


class Rollback(Message):
    """Go back to an earlier checkpoint; the open round is abandoned and tried again from there."""

    version: Annotated[int, Field(ge=0, le=999_999_999)]
