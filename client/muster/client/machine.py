"""State machine of a client, without I/O: `(phase, event) -> (next phase, outcome)`.

    Idle ── assignment ──▶ Working ── update ──▶ Uploading ── receipt ──▶ Idle
      ▲ wait                  └── failure ──▶ Reporting ◀── refusal ──┘      │
      └───────────────────────────────────────┴──────────────────────────────┘

Times and randomness are arguments. `muster.client.client` does the I/O of each phase.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional, Union

from muster.client.failure_codes import code_of_refusal
from muster.client.outcomes import Contributed, Failed, Missed, Outcome, Unreached, Waited
from muster.transport.body import TensorBody
from muster.transport.failures import MAX_WAIT, bounded_wait
from muster.wire.messages import Assignment, CheckinResponse, FailureCode, FailureReason, Receipt, Report, Wait
from muster.wire.problems import ProblemError, ProblemType

_MIN_PAUSE, _MAX_PAUSE = 1.0, 60.0  # seconds of back-off if the coordinator sets none
# Attempts at one phase of an assignment. Each has its own fast retries, so this takes about a
# minute.
_MAX_TRIES = 6

_ROUND_IS_OVER = frozenset(
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
    """Phase between assignments; checks in next.

    Attributes:
      cookie: The opaque value of the last receipt or wait, which the next check-in sends back.
      failed_checkins: Consecutive check-ins without an answer; sets the back-off.
    """

    cookie: Optional[str] = None
    failed_checkins: int = 0


@dataclass(frozen=True)
class Working:
    """Phase with an assignment; fetches and computes next. `tries`: failed attempts so far."""

    cookie: Optional[str]
    assignment: Assignment
    tries: int = 0


@dataclass(frozen=True)
class Uploading:
    """Phase with a finished update; uploads next. `tries`: failed attempts so far."""

    cookie: Optional[str]
    assignment: Assignment
    body: TensorBody
    tries: int = 0


@dataclass(frozen=True)
class Reporting:
    """Phase after a failure; reports it next, which releases the assignment."""

    cookie: Optional[str]
    assignment: Assignment
    failure: WorkFailed

    @property
    def report(self) -> Report:
        """Returns the report for the coordinator. It holds no error text, which may quote data."""
        return Report(reason=self.failure.reason, code=self.failure.code, detail=self.failure.kind)


Phase = Union[Idle, Working, Uploading, Reporting]


@dataclass(frozen=True)
class Worked:
    """Event of finished work: `body` is the update."""

    body: TensorBody


@dataclass(frozen=True)
class WorkFailed:
    """Event of failed work.

    Attributes:
      reason: The reason reported to the coordinator.
      detail: The full reason; it stays on the device.
      kind: The kind of error, from a closed list (`muster.client.kinds`); reported too.
      error: The exception behind it.
      code: The cause, more exactly than the reason; reported too. None: not known.
    """

    reason: FailureReason
    detail: str
    kind: str = ""
    error: Optional[Exception] = None
    code: Optional[FailureCode] = None


@dataclass(frozen=True)
class NoAnswer:
    """Event of a request without a coordinator's answer.

    Attributes:
      detail: The cause, for the log.
      retry_after: Seconds to wait, if another server answered and named them.
    """

    detail: str
    retry_after: Optional[float] = None


Event = Union[CheckinResponse, Worked, WorkFailed, Receipt, ProblemError, NoAnswer]


@dataclass(frozen=True)
class Step:
    """Result of a transition: the next phase, and the outcome if the cycle is complete."""

    phase: Phase
    outcome: Optional[Outcome] = None


def step(phase: Phase, event: Event, *, randomness: float) -> Step:
    """Returns the transition that `event` causes in `phase`.

    Args:
      phase: The client's phase.
      event: The result of the phase's work or request.
      randomness: Jitter for pauses, in [0, 1).

    Raises:
      ProblemError: the coordinator refused a check-in for a reason that waiting does not change.
    """
    if isinstance(phase, Idle):
        return _after_checkin(phase, event, randomness)
    if isinstance(event, Worked):
        return Step(Uploading(phase.cookie, phase.assignment, event.body))
    if isinstance(event, WorkFailed):
        return Step(Reporting(phase.cookie, phase.assignment, event))
    if isinstance(event, Receipt):
        return _after_receipt(phase, event)
    if isinstance(phase, Reporting):
        # A report only frees the slot before the assignment expires, so a failed one is not
        # retried.
        return _give_up(phase, phase.failure, _pause(_retry_after(event), 0, randomness))
    return _after_failure(phase, event, randomness)


def _after_checkin(phase: Idle, event: Event, randomness: float) -> Step:
    if isinstance(event, CheckinResponse):
        answer = event.answer
        if isinstance(answer, Wait):
            return Step(Idle(answer.cookie or phase.cookie), Waited(answer.reason, _wait(answer.retry_after)))
        return Step(Working(phase.cookie, answer))
    if isinstance(event, ProblemError) and event.type not in _TEMPORARY:
        raise event
    pause = _pause(_retry_after(event), phase.failed_checkins, randomness)
    return Step(replace(phase, failed_checkins=phase.failed_checkins + 1), Unreached(_text(event), pause))


def _after_receipt(phase: Union[Working, Uploading, Reporting], receipt: Receipt) -> Step:
    idle = Idle(receipt.cookie or phase.cookie)
    if isinstance(phase, Uploading):
        return Step(idle, Contributed(receipt.task, receipt.round, len(phase.body), _wait(receipt.retry_after)))
    if isinstance(phase, Reporting):
        return replace(_give_up(phase, phase.failure, _wait(receipt.retry_after)), phase=idle)
    raise AssertionError(f"unexpected receipt in phase {type(phase).__name__}")


def _after_failure(phase: Union[Working, Uploading], event: Event, randomness: float) -> Step:
    assignment = phase.assignment
    if isinstance(event, ProblemError) and event.type in _ROUND_IS_OVER:
        return Step(
            Idle(phase.cookie), Missed(assignment.task, assignment.round, event.detail, _MIN_PAUSE * randomness)
        )
    if isinstance(event, ProblemError) and event.type not in _TEMPORARY:
        reason = FailureReason.PLAN_REFUSED if isinstance(phase, Working) else FailureReason.COMPUTATION
        failure = WorkFailed(reason, event.detail, kind=event.type.value, code=code_of_refusal(event))
        return Step(Reporting(phase.cookie, assignment, failure))
    if phase.tries + 1 >= _MAX_TRIES:
        return Step(Reporting(phase.cookie, assignment, WorkFailed(FailureReason.OTHER, _text(event))))
    pause = _pause(_retry_after(event), phase.tries, randomness)
    outcome = Unreached(_text(event), pause, assignment.task, assignment.round)
    return Step(replace(phase, tries=phase.tries + 1), outcome)


def _give_up(phase: Reporting, failure: WorkFailed, retry_after: float) -> Step:
    assignment = phase.assignment
    outcome = Failed(
        assignment.task,
        assignment.round,
        failure.reason,
        failure.detail,
        retry_after=retry_after,
        error=failure.error,
        code=failure.code,
    )
    return Step(Idle(phase.cookie), outcome)


def _retry_after(event: Event) -> Optional[float]:
    if not isinstance(event, (ProblemError, NoAnswer)):
        return None
    return bounded_wait(event.retry_after, at_most=MAX_WAIT)


def _wait(seconds: float) -> float:
    """Returns the coordinator's seconds until the next check-in, within bounds."""
    return bounded_wait(seconds, at_most=MAX_WAIT) or 0.0


def _text(event: Event) -> str:
    return event.detail if isinstance(event, (ProblemError, NoAnswer)) else str(event)


def _pause(retry_after: Optional[float], failures: int, randomness: float) -> float:
    """Returns the pause: `retry_after` plus up to 25 %, or exponential back-off with jitter."""
    if retry_after is not None:
        return retry_after * (1 + randomness / 4)
    return float(min(_MIN_PAUSE * 2 ** min(failures, 10), _MAX_PAUSE)) * (1 + randomness) / 2
