"""What one turn of a client came to, and what happens on the way there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Optional, Union

from muster.wire.messages import FailureReason, WaitReason


@dataclass(frozen=True)
class Contributed:
    """The update was accepted. `retry_after`: seconds to the next check-in, as the coordinator wants it."""

    task: str
    round: int
    update_bytes: int
    retry_after: float


@dataclass(frozen=True)
class Waited:
    """There was no work. `retry_after`: seconds to the next check-in, as the coordinator wants it."""

    reason: WaitReason
    retry_after: float


@dataclass(frozen=True)
class Missed:
    """The round closed, or the assignment ran out, before the update was in. Nothing is wrong; the next check-in is soon."""

    task: str
    round: int
    detail: str
    retry_after: float


@dataclass(frozen=True)
class Failed:
    """The work could not be done, or its update was refused, and the assignment was given back.

    Attributes:
      task: The task.
      round: The round.
      reason: What the coordinator was told.
      detail: What went wrong, in full; the coordinator gets no words of foreign errors, which may quote data.
      retry_after: Seconds to the next check-in.
      error: The exception that the data callback or the computation raised, if it was one.
    """

    task: str
    round: int
    reason: FailureReason
    detail: str
    retry_after: float
    error: Optional[Exception] = None


@dataclass(frozen=True)
class Unreached:
    """Lack of a coordinator's answer. The client resumes its phase after `retry_after` seconds.

    `task` and `round` are those of the assignment that it holds, if any.
    """

    detail: str
    retry_after: float
    task: Optional[str] = None
    round: Optional[int] = None


@dataclass(frozen=True)
class Ineligible:
    """Refusal of the device to work now, or its stop. A held assignment was given back: `task`, `round`.

    `retry_after`: seconds until the next check. `until`: when the budget of its policy is free again, if that is the
    reason.
    """

    detail: str
    retry_after: float
    task: Optional[str] = None
    round: Optional[int] = None
    until: Optional[datetime] = None


Outcome = Union[Contributed, Waited, Missed, Failed, Unreached, Ineligible]


@dataclass(frozen=True)
class PolicyNote:
    """Note about the device's policy at the start of a run: that it is missing, or that its budget is empty."""

    detail: str


@dataclass(frozen=True)
class Assigned:
    """Work was assigned and is about to start."""

    task: str
    round: int
    sums_in_the_clear: bool


@dataclass(frozen=True)
class Computed:
    """The work is done and its update is about to be uploaded. `seconds`: data, downloads and computation together."""

    task: str
    round: int
    update_bytes: int
    seconds: float


@dataclass(frozen=True)
class Sending:
    """A large update is on its way straight to the store. Of its `update_bytes`, `sent` have left; fewer again after a break."""

    task: str
    round: int
    sent: int
    update_bytes: int


ClientEvent = Union[PolicyNote, Assigned, Computed, Sending, Outcome]


@dataclass(frozen=True)
class Summary:
    """What a run came to: how many outcomes of each kind."""

    contributed: int = 0
    missed: int = 0
    failed: int = 0
