"""Outcomes of a client's cycle, and the events that `MusterClient` reports during it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Optional, Union

from muster.wire.messages import FailureCode, FailureReason, WaitReason


@dataclass(frozen=True)
class Contributed:
    """Outcome: the update was accepted. `retry_after`: seconds to the next check-in."""

    task: str
    round: int
    update_bytes: int
    retry_after: float


@dataclass(frozen=True)
class Waited:
    """Outcome: the coordinator had no work. `retry_after`: seconds to the next check-in."""

    reason: WaitReason
    retry_after: float


@dataclass(frozen=True)
class Missed:
    """Outcome: the round closed or the assignment expired before the update arrived.

    This is not a failure. The next check-in follows soon (`retry_after`, in seconds).
    """

    task: str
    round: int
    detail: str
    retry_after: float


@dataclass(frozen=True)
class Failed:
    """Outcome: the work failed or its update was refused, and the assignment was released.

    Attributes:
      task: The task.
      round: The round.
      reason: The reason, as reported to the coordinator.
      detail: The full description. It stays on the device: error texts may quote data.
      retry_after: Seconds to the next check-in.
      error: The exception that the data callback or the computation raised, if any.
      code: The cause, more exactly than the reason, as reported. None: not known.
    """

    task: str
    round: int
    reason: FailureReason
    detail: str
    retry_after: float
    error: Optional[Exception] = None
    code: Optional[FailureCode] = None


@dataclass(frozen=True)
class Unreached:
    """Outcome: the coordinator did not answer. The client retries after `retry_after` seconds.

    `task` and `round` name the assignment that the client holds, if any.
    """

    detail: str
    retry_after: float
    task: Optional[str] = None
    round: Optional[int] = None


@dataclass(frozen=True)
class Ineligible:
    """Outcome: the device may not work now, or the client was stopped.

    Attributes:
      detail: The reason.
      retry_after: Seconds until the next check.
      task: The task of the assignment that was released, if any.
      round: Its round.
      until: When the policy's budget allows the next contribution, if the budget is the reason.
    """

    detail: str
    retry_after: float
    task: Optional[str] = None
    round: Optional[int] = None
    until: Optional[datetime] = None


Outcome = Union[Contributed, Waited, Missed, Failed, Unreached, Ineligible]


@dataclass(frozen=True)
class PolicyNote:
    """Event: a note about the device's policy, such as a missing policy or a new budget file."""

    detail: str


@dataclass(frozen=True)
class Assigned:
    """Event: the coordinator assigned work, which starts now.

    Attributes:
      task: The task.
      round: The round.
      sums_in_the_clear: Whether the plan has sums that its author requested as secure, but that the
        coordinator can read.
      kind: The kind of the work: `train`, `evaluate` or `analytics`.
    """

    task: str
    round: int
    sums_in_the_clear: bool
    kind: str = "train"


@dataclass(frozen=True)
class Computed:
    """Event: the update is ready for upload. `seconds`: time of downloads, data and computation."""

    task: str
    round: int
    update_bytes: int
    seconds: float


@dataclass(frozen=True)
class Sending:
    """Event: progress of a direct upload. `sent` of `update_bytes` bytes are sent.

    `sent` can decrease when an interrupted upload resumes.
    """

    task: str
    round: int
    sent: int
    update_bytes: int


ClientEvent = Union[PolicyNote, Assigned, Computed, Sending, Outcome]


@dataclass(frozen=True)
class Summary:
    """Number of outcomes of each kind in a run."""

    contributed: int = 0
    missed: int = 0
    failed: int = 0
