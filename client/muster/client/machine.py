"""The client as a state machine without I/O: which phase follows on what happened, and what that means to the outside.

    Idle ── assignment ──▶ Working ── update ──▶ Uploading ── receipt ──▶ Idle
      ▲ wait                  └── failure ──▶ Reporting ◀── refusal ──┘      │
      └───────────────────────────────────────┴──────────────────────────────┘

Time and chance come in as arguments. `muster.client.client` does what each phase asks for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional, Union

from muster.client.outcomes import Contributed, Failed, Missed, Outcome, Unreached, Waited
from muster.transport.body import TensorBody
from muster.transport.failures import MAX_WAIT, bounded_wait
from muster.wire.messages import Assignment, CheckinResponse, FailureReason, Receipt, Report, Wait
from muster.wire.problems import ProblemError, ProblemType

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds, where the coordinator does not say
_TRIES = 6  # of one step of an assignment, each with its own quick repeats: about a minute in all

_OVER = frozenset(
    {
        ProblemType.ROUND_CLOSED,
        ProblemType.ASSIGNMENT_EXPIRED,
        ProblemType.ASSIGNMENT_INVALID,
        ProblemType.NOT_FOUND,
        ProblemType.CONFLICT,
    }
)
_TEMPORARY = frozenset(
    {ProblemType.UNAVAILABLE, ProblemType.RATE_LIMITED, ProblemType.INTERNAL, ProblemType.UPDATE_TRUNCATED}
)


@dataclass(frozen=True)
class Idle:
    """Between assignments; checks in next. `troubles`: check-ins in a row that got no answer."""

    cookie: Optional[str] = None
    troubles: int = 0


@dataclass(frozen=True)
class Working:
    """Fetches and computes next. `tries`: how often that has failed for want of an answer."""

    cookie: Optional[str]
    assignment: Assignment
    tries: int = 0


@dataclass(frozen=True)
class Uploading:
    """Uploads next."""

    cookie: Optional[str]
    assignment: Assignment
    body: TensorBody
    tries: int = 0


@dataclass(frozen=True)
class Reporting:
    """Gives the assignment back next."""

    cookie: Optional[str]
    assignment: Assignment
    failure: WorkFailed

    @property
    def report(self) -> Report:
        """Returns the report to the coordinator: reason and kind of error, without text, which may quote data."""
        return Report(reason=self.failure.reason, detail=self.failure.kind)


Phase = Union[Idle, Working, Uploading, Reporting]


@dataclass(frozen=True)
class Worked:
    """The work gave an update."""

    body: TensorBody


@dataclass(frozen=True)
class WorkFailed:
    """Failure of the work.

    Attributes:
      reason: The reason reported to the coordinator.
      detail: The full reason; it stays on the device.
      kind: The kind of error, from a closed list (`muster.client.kinds`); reported to the coordinator.
      error: The exception behind it.
    """

    reason: FailureReason
    detail: str
    kind: str = ""
    error: Optional[Exception] = None


@dataclass(frozen=True)
class NoAnswer:
    """Lack of an answer from a coordinator. `retry_after`: seconds to wait, if another server's answer has them."""

    detail: str
    retry_after: Optional[float] = None


Event = Union[CheckinResponse, Worked, WorkFailed, Receipt, ProblemError, NoAnswer]


@dataclass(frozen=True)
class Step:
    """The next phase, and what the turn came to if it is over."""

    phase: Phase
    outcome: Optional[Outcome] = None


def step(phase: Phase, happened: Event, *, randomness: float) -> Step:
    """Returns the step that follows an event.

    Args:
      phase: The client's phase.
      happened: The outcome of the phase's task.
      randomness: In [0, 1): jitter for the pauses that the coordinator did not set.

    Raises:
      ProblemError: a coordinator refused a check-in, for a reason that waiting does not change.
    """
    if isinstance(phase, Idle):
        return _after_checkin(phase, happened, randomness)
    if isinstance(happened, Worked):
        return Step(Uploading(phase.cookie, phase.assignment, happened.body))
    if isinstance(happened, WorkFailed):
        return Step(Reporting(phase.cookie, phase.assignment, happened))
    if isinstance(happened, Receipt):
        return _after_receipt(phase, happened)
    if isinstance(phase, Reporting):
        # The report only frees the slot sooner than its expiry would; it is not worth a second outage.
        return _give_up(phase, phase.failure, _pause(_retry_after(happened), 0, randomness))
    return _after_trouble(phase, happened, randomness)


def _after_checkin(phase: Idle, happened: Event, randomness: float) -> Step:
    if isinstance(happened, CheckinResponse):
        answer = happened.answer
        if isinstance(answer, Wait):
            return Step(Idle(answer.cookie or phase.cookie), Waited(answer.reason, _wait(answer.retry_after)))
        return Step(Working(phase.cookie, answer))
    if isinstance(happened, ProblemError) and happened.type not in _TEMPORARY:
        raise happened
    pause = _pause(_retry_after(happened), phase.troubles, randomness)
    return Step(replace(phase, troubles=phase.troubles + 1), Unreached(_text(happened), pause))


def _after_receipt(phase: Union[Working, Uploading, Reporting], receipt: Receipt) -> Step:
    idle = Idle(receipt.cookie or phase.cookie)
    if isinstance(phase, Uploading):
        return Step(idle, Contributed(receipt.task, receipt.round, len(phase.body), _wait(receipt.retry_after)))
    if isinstance(phase, Reporting):
        return replace(_give_up(phase, phase.failure, _wait(receipt.retry_after)), phase=idle)
    raise AssertionError(f"a receipt in phase {type(phase).__name__}")


def _after_trouble(phase: Union[Working, Uploading], happened: Event, randomness: float) -> Step:
    assignment = phase.assignment
    if isinstance(happened, ProblemError) and happened.type in _OVER:
        return Step(
            Idle(phase.cookie), Missed(assignment.task, assignment.round, happened.detail, _FIRST_PAUSE * randomness)
        )
    if isinstance(happened, ProblemError) and happened.type not in _TEMPORARY:
        reason = FailureReason.PLAN_REFUSED if isinstance(phase, Working) else FailureReason.COMPUTATION
        failure = WorkFailed(reason, happened.detail, kind=happened.type.value)
        return Step(Reporting(phase.cookie, assignment, failure))
    if phase.tries + 1 >= _TRIES:
        return Step(Reporting(phase.cookie, assignment, WorkFailed(FailureReason.OTHER, _text(happened))))
    pause = _pause(_retry_after(happened), phase.tries, randomness)
    outcome = Unreached(_text(happened), pause, assignment.task, assignment.round)
    return Step(replace(phase, tries=phase.tries + 1), outcome)


def _give_up(phase: Reporting, failure: WorkFailed, retry_after: float) -> Step:
    assignment = phase.assignment
    outcome = Failed(
        assignment.task, assignment.round, failure.reason, failure.detail, retry_after=retry_after, error=failure.error
    )
    return Step(Idle(phase.cookie), outcome)


def _retry_after(happened: Event) -> Optional[float]:
    if not isinstance(happened, (ProblemError, NoAnswer)):
        return None
    return bounded_wait(happened.retry_after, at_most=MAX_WAIT)


def _wait(seconds: float) -> float:
    """Returns an answer's seconds until the next check-in, within bounds."""
    return bounded_wait(seconds, at_most=MAX_WAIT) or 0.0


def _text(happened: Event) -> str:
    return happened.detail if isinstance(happened, (ProblemError, NoAnswer)) else str(happened)


def _pause(told: Optional[float], troubles: int, randomness: float) -> float:
    """Seconds: what the coordinator said and up to a quarter more, or a growing time of our own, half of it by chance."""
    if told is not None:
        return told * (1 + randomness / 4)
    return float(min(_FIRST_PAUSE * 2 ** min(troubles, 10), _LONGEST_PAUSE)) * (1 + randomness) / 2
