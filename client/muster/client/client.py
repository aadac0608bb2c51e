"""Drives the client state machine: requests, local work and waits.

A client is stateless: it can be killed at any moment, and every request may be repeated.
"""

from __future__ import annotations

import contextlib
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Callable, Optional, Union

import requests

from muster.client import machine
from muster.client.direct_upload import DirectUploader
from muster.client.identity import Attributes, check_attributes, check_client_id, check_population
from muster.client.interruptible import CallStoppedError
from muster.client.limits import BUSY_PAUSE, INELIGIBLE_PAUSE, STOPPED, Limits, StopConditions, validity_seconds
from muster.client.local_data import DataCallback, accept_context
from muster.client.machine import Event, Idle, NoAnswer, Reporting, Uploading, Working
from muster.client.outcomes import (
    Assigned,
    ClientEvent,
    Contributed,
    Failed,
    Ineligible,
    Missed,
    Outcome,
    PolicyNote,
    Sending,
    Summary,
)
from muster.client.plans import PlanStore, RuntimeFactory, tensorflow_runtime
from muster.client.policy import ClientPolicy
from muster.client.policy_guard import PolicyGuard
from muster.client.work import AssignmentWork, Validity
from muster.transport.body import TensorBody
from muster.transport.failures import ConfigurationError, ForeignAnswerError, UnreachableError
from muster.transport.http import Transport
from muster.wire.messages import (
    Assignment,
    CheckinRequest,
    CheckinResponse,
    FailureCode,
    FailureReason,
    Receipt,
    Report,
)
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.signatures import need_cryptography, parse_signers

if TYPE_CHECKING:
    from typing_extensions import Self

_HURRIED_REPORT_SECONDS = 0.5  # time-out of an interrupted client's last report
_ENCODING_REFUSED = 415


class MusterClient:
    """Client of one population.

    Not thread-safe. Use one instance for each client in a process; instances may share a session.

    Args:
      url: The coordinator's address, or a transport to it.
      population: The population to check in to.
      data: Returns the client's data, in a form that `muster.runtime.Runtime.work` accepts. It is
        called for each assignment as `data()`, or as `data(context)` with a `WorkContext`. It runs
        in a worker thread, so that an interrupt need not wait for it: open database connections
        inside it.
      client_id: This client's identity, if identity is self-asserted; the coordinator accepts one
        contribution per round from it. None: a new random name.
      token: Bearer token of this client, if the coordinator authenticates clients: an enrolment or
        OpenID Connect token, or a function that returns one. The function is called before each
        check-in, for tokens that are renewed.
      session: The `requests` session to use; None: a new one.
      cache: A folder that caches plans and the last broadcasts over restarts; several clients may
        share it. None: only loaded plans are cached, in memory.
      on_event: Called with every event, from within `run_once` and `run`.
      runtime_factory: Creates the runtime of a plan; the default uses TensorFlow.
      trusted_signers: Public keys (`ed25519:…`). A plan that none of them has signed is refused
        before its graph is parsed; empty: plans need no signature.
      limits: Limits of an assignment on this device.
      policy: The policy of the data's owner, or its TOML file; see `ClientPolicy`. The stricter of
        its sizes and `limits` applies. None: the coordinator decides which plans run here and what
        leaves the device.
      attributes: What this client states at its check-ins for the eligibility rules of tasks, such
        as `{"app_version": "2.10.1"}`. None: nothing. The coordinator uses them for the answer and
        stores none of them. A coordinator before 0.2 refuses a check-in with attributes.
      eligible: Returns whether the device may work now. It is called before a check-in and between
        the phases of an assignment, which is released if it returns False.

    Raises:
      ProblemError: `invalid_request`, if `url` is not a valid address.
      ValueError: `population`, `client_id` or `attributes` is not valid, or `trusted_signers` holds
        an invalid key.
      ImportError: there are trusted signers, and `cryptography` is not installed.
      PolicyFileError: the policy's file is not valid.
      BudgetError: the file of the policy's budget can't be used.
      TypeError: `data` is not a function of at most one argument.
    """

    def __init__(
        self,
        url: Union[str, Transport],
        population: str,
        data: DataCallback,
        *,
        client_id: Optional[str] = None,
        token: Union[str, Callable[[], str], None] = None,
        session: Optional[requests.Session] = None,
        cache: Union[str, Path, None] = None,
        on_event: Optional[Callable[[ClientEvent], None]] = None,
        runtime_factory: Optional[RuntimeFactory] = None,
        trusted_signers: Iterable[str] = (),
        limits: Optional[Limits] = None,
        policy: Union[ClientPolicy, str, Path, None] = None,
        attributes: Optional[Attributes] = None,
        eligible: Optional[Callable[[], bool]] = None,
    ) -> None:
        signers = parse_signers(trusted_signers)
        if signers:
            need_cryptography()
        self._guard = PolicyGuard(policy)
        self.population = check_population(population)
        # A stable name: otherwise a repeated check-in would count as a second client.
        self.client_id = secrets.token_hex(16) if client_id is None else check_client_id(client_id)
        self._attributes = check_attributes(attributes or {})
        self._transport = url if isinstance(url, Transport) else Transport(url, session=session)
        self._token = token
        self._plans = PlanStore(
            self._transport,
            folder=None if cache is None else Path(cache),
            runtime_factory=runtime_factory or tensorflow_runtime,
            trusted_signers=signers,
            check_signatures=self._guard.on_signatures,
        )
        self._work = AssignmentWork(
            self._plans,
            accept_context(data),
            limits=self._guard.limits(limits),
            guard=self._guard,
            on_computed=self._emit,
        )
        self._validity = Validity(0.0)
        self._eligible = eligible
        self._on_event = on_event
        self._phase: machine.Phase = Idle()
        self._upload_session: Optional[DirectUploader] = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    @property
    def notes(self) -> tuple[PolicyNote, ...]:
        """Returns the notes about the device's policy; `run` reports them at its start."""
        return tuple(map(PolicyNote, self._guard.notes))

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    @property
    def working(self) -> bool:
        """Returns whether an abandoned data callback or an abandoned work is still running."""
        return self._work.running

    def run_once(self, *, stop: Optional[threading.Event] = None) -> Outcome:
        """Runs one cycle from check-in to receipt, or resumes one that an outage interrupted.

        Waits only for answers and the computation. `outcome.retry_after` is the time until the next
        cycle.

        Args:
          stop: When set, ends the data callback and the work at once, and any other phase when it
            completes. The assignment is then released.

        Raises:
          ProblemError: the coordinator refused the check-in for a reason that waiting does not
            change.
          ConfigurationError: this machine's proxy or certificate settings prevent requests.
          SetupError: TensorFlow is missing.
          KeyboardInterrupt: re-raised after the assignment was released.
        """
        conditions = StopConditions(self._eligible, stop)
        if isinstance(self._phase, Idle) and self._work.running:
            outcome = Ineligible("The work of an earlier assignment has not ended yet", BUSY_PAUSE)
            self._emit(outcome)
            return outcome
        try:
            while True:
                reason = conditions.reason_to_stop()
                if reason is not None and not isinstance(self._phase, Reporting):
                    return self._stop_cycle(reason)
                pause = self._guard.before_checkin() if isinstance(self._phase, Idle) else None
                if pause is not None:
                    outcome = Ineligible(pause.detail, pause.retry_after, until=pause.until)
                    self._emit(outcome)
                    return outcome
                step = machine.step(self._phase, self._run_phase(stop), randomness=random.random())  # noqa: S311
                self._phase = step.phase
                if not isinstance(step.phase, Uploading):
                    self._end_upload()
                if step.outcome is not None:
                    self._emit(step.outcome)
                    return step.outcome
        except CallStoppedError:
            return self._stop_cycle(STOPPED)
        except (KeyboardInterrupt, SystemExit):
            self._release_assignment(FailureReason.CANCELLED, seconds=_HURRIED_REPORT_SECONDS)
            raise

    def run(self, *, stop: Optional[threading.Event] = None, rounds: Optional[int] = None) -> Summary:
        """Runs cycles, with the waits that the coordinator requires between them.

        Args:
          stop: Ends the run when set: a wait at once, a cycle as `run_once` does.
          rounds: Ends the run after this number of contributions; None: no limit.

        Raises:
          ProblemError: see `run_once`.
        """
        stop = threading.Event() if stop is None else stop
        counts: Counter[type[Outcome]] = Counter()
        for note in self.notes:
            self._emit(note)
        try:
            while not stop.is_set():
                outcome = self.run_once(stop=stop)
                counts[type(outcome)] += 1
                if counts[Contributed] == rounds or stop.wait(outcome.retry_after):
                    break
        except (KeyboardInterrupt, SystemExit):
            # The client may hold an assignment over an outage.
            self._release_assignment(FailureReason.CANCELLED, seconds=_HURRIED_REPORT_SECONDS)
            raise
        if stop.is_set():
            self._release_assignment(FailureReason.CANCELLED, seconds=_HURRIED_REPORT_SECONDS)
        return Summary(contributed=counts[Contributed], missed=counts[Missed], failed=counts[Failed])

    def _run_phase(self, stop: Optional[threading.Event]) -> Event:
        """Does the request or the work of the current phase and returns its result."""
        phase = self._phase
        try:
            if isinstance(phase, Idle):
                return self._check_in(phase.cookie)
            if isinstance(phase, Working):
                return self._do_work(phase.assignment, stop)
            if isinstance(phase, Uploading):
                return self._upload(phase.assignment, phase.body)
            return self._report(phase.assignment, phase.report)
        except ConfigurationError:
            raise
        except UnreachableError as error:
            return NoAnswer(f"{error}. {error.fix}" if error.fix else str(error), error.retry_after)
        except ProblemError as problem:
            return problem

    def _check_in(self, cookie: Optional[str]) -> CheckinResponse:
        request = CheckinRequest(client=self.client_id, cookie=cookie, attributes=self._attributes)
        dates: list[Optional[datetime]] = []
        response = self._transport.call(
            "POST",
            f"/v1/populations/{self.population}:checkin",
            message=request,
            answer=CheckinResponse,
            token=self._token() if callable(self._token) else self._token,
            on_date=dates.append,
        )
        if isinstance(response.answer, Assignment):
            answer = response.answer
            self._validity = Validity(time.monotonic(), validity_seconds(answer, dates[-1]))
            self._emit(Assigned(answer.task, answer.round, answer.sums_in_the_clear, answer.kind))
        return response

    def _do_work(self, assignment: Assignment, stop: Optional[threading.Event]) -> Event:
        try:
            return self._work.do(assignment, self._validity, stop=stop)
        except ImportError as error:
            self._release_assignment(FailureReason.OTHER)
            detail = f"This client can't run plans ({error}): install muster-fl[tensorflow]"
            raise SetupError(detail) from error

    def _upload(self, assignment: Assignment, body: TensorBody) -> Receipt:
        if assignment.direct_above is not None and len(body) > assignment.direct_above:
            # Reused over retries of this phase, which resume the interrupted upload.
            if self._upload_session is None or self._upload_session.token != assignment.token:
                self._upload_session = self._new_direct_upload(assignment, body)
            if self._upload_session.send():
                return self._report(assignment, Report(outcome="uploaded"))
        encoded = body.encoded(assignment.update_encodings)
        try:
            return self._transport.upload("/v1/updates", encoded, answer=Receipt, token=assignment.token)
        except (ProblemError, ForeignAnswerError) as error:
            # A proxy or an older instance rejects encoded bodies.
            if error.status != _ENCODING_REFUSED or encoded.encoding is None:
                raise
        return self._transport.upload("/v1/updates", body, answer=Receipt, token=assignment.token)

    def _new_direct_upload(self, assignment: Assignment, body: TensorBody) -> DirectUploader:
        def on_progress(sent: int) -> None:
            self._emit(Sending(assignment.task, assignment.round, sent, len(body)))

        return DirectUploader(self._transport, assignment, body, on_progress=on_progress)

    def _end_upload(self, *, seconds: Optional[float] = None) -> None:
        sender, self._upload_session = self._upload_session, None
        if sender is not None:
            sender.abandon(seconds=seconds)

    def _report(
        self,
        assignment: Assignment,
        report: Report,
        *,
        attempts: Optional[int] = None,
        seconds: Optional[float] = None,
    ) -> Receipt:
        """Sends a report, and repeats it without its code if the coordinator refuses that."""

        def send(message: Report) -> Receipt:
            return self._transport.call(
                "POST",
                "/v1/updates:report",
                message=message,
                answer=Receipt,
                token=assignment.token,
                attempts=attempts,
                seconds=seconds,
            )

        try:
            return send(report)
        except ProblemError as problem:
            # Coordinators before 0.2 refuse the unknown field.
            if report.code is None or problem.type is not ProblemType.INVALID_REQUEST:
                raise
        return send(report.model_copy(update={"code": None}))

    def _stop_cycle(self, reason: str) -> Ineligible:
        """Ends the cycle between two phases and releases the assignment."""
        phase = self._phase
        self._release_assignment(
            FailureReason.CANCELLED, seconds=_HURRIED_REPORT_SECONDS if reason == STOPPED else None
        )
        if isinstance(phase, (Working, Uploading)):
            task, number = phase.assignment.task, phase.assignment.round
            outcome = Ineligible(f"{reason}; the assignment was released", INELIGIBLE_PAUSE, task, number)
        else:
            outcome = Ineligible(reason, INELIGIBLE_PAUSE)
        self._emit(outcome)
        return outcome

    def _release_assignment(self, reason: FailureReason, *, seconds: Optional[float] = None) -> None:
        """Reports the assignment as failed, in one attempt: without a report it would expire.

        Args:
          reason: The reported reason.
          seconds: Time-out of the connection and of each read; None: the transport's default.
        """
        phase, self._phase = self._phase, Idle(self._phase.cookie)
        if isinstance(phase, (Working, Uploading, Reporting)):
            with contextlib.suppress(ProblemError, UnreachableError):
                code = FailureCode.OWNER_CANCELLED if reason is FailureReason.CANCELLED else None
                self._report(phase.assignment, Report(reason=reason, code=code), attempts=1, seconds=seconds)
        self._end_upload(seconds=seconds)

    def _emit(self, event: ClientEvent) -> None:
        if self._on_event is not None:
            self._on_event(event)


class SetupError(RuntimeError):
    """Error raised when a library that the work needs is missing; the text states the fix."""
