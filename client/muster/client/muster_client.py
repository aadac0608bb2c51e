"""The client: checks in, works, uploads. Keeps nothing that it could not lose; every step may be repeated."""

from __future__ import annotations

import contextlib
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, Optional, Union

import requests

from muster.wire.manifest import PlanManifest
from muster.wire.messages import Assignment, CheckinRequest, CheckinResponse, FailureReason, Receipt, Report
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.signatures import need_cryptography, parse_signers

from . import machine
from .body import TensorBody
from .direct import DirectSender
from .limits import INELIGIBLE_PAUSE, Leave, LimitError, Limits
from .local_data import DataCallback, WorkContext, bind, not_finite
from .machine import Happening, Idle, NoAnswer, Reporting, Uploading, Worked, WorkFailed, Working
from .outcomes import (
    Assigned,
    Computed,
    Contributed,
    Event,
    Failed,
    Ineligible,
    Missed,
    Outcome,
    PolicyNote,
    Sending,
    Summary,
)
from .plans import PlanStore, RuntimeFactory, tensorflow_runtime
from .policy import ClientPolicy
from .policy_guard import PolicyGuard
from .transport import Transport, UnreachableError

if TYPE_CHECKING:
    from typing_extensions import Self


class MusterClient:
    """One client of one population.

    Not for several threads at once. Several clients of one process are several instances; they may share a session.

    Args:
      url: The coordinator's address, or a transport to it.
      population: The population to check in to.
      data: Gives the client's data, in a form that `muster.runtime.Runtime.work` takes, anew for each assignment:
        `data()` or `data(context)` with a `WorkContext`.
      client_id: Who this client is; the coordinator takes one contribution a round from it. None: a fresh random name.
        It counts only where the coordinator knows clients by nothing better.
      token: What shows the coordinator who this client is, where it wants to know: an enrolment or OpenID Connect token,
        or a function that gives one, called before each check-in, for tokens that are renewed.
      session: The `requests` session to use, if not one of its own.
      cache: A folder where plans and the last broadcasts are kept, over restarts; several clients may share it. None: loaded plans are
        kept in memory, and nothing else.
      on_event: Is told of every event, from within the calls of `run_once` and `run`.
      runtime_factory: Makes what runs a plan, if not TensorFlow.
      trusted_signers: Public keys (`ed25519:…`). A plan that none of them has signed is refused before its graph is looked at;
        empty: the coordinator is trusted with what runs here.
      limits: What an assignment may take of this device.
      policy: What the data's owner allows, or the TOML file that says so; see `ClientPolicy`. The stricter of its sizes and `limits`
        holds. None: the coordinator decides which plans run here and what leaves.
      eligible: Asked before a check-in and between the phases of an assignment, which is given back on a no.

    Raises:
      ProblemError: `invalid_request`, if `url` is none.
      ValueError: `trusted_signers` holds something that is no key.
      ImportError: there are trusted signers, and `cryptography` is not installed.
      PolicyFileError: the policy's file is not valid.
      BudgetError: the file of the policy's budget can't be used.
      TypeError: `data` is no function of at most one argument.
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
        on_event: Optional[Callable[[Event], None]] = None,
        runtime_factory: Optional[RuntimeFactory] = None,
        trusted_signers: Iterable[str] = (),
        limits: Optional[Limits] = None,
        policy: Union[ClientPolicy, str, Path, None] = None,
        eligible: Optional[Callable[[], bool]] = None,
    ) -> None:
        signers = parse_signers(trusted_signers)
        if signers:
            need_cryptography()
        self._guard = PolicyGuard(policy)
        self.population = population
        # Without a name of its own, a client whose check-in is repeated would count as two.
        self.client_id = client_id or secrets.token_hex(16)
        self._transport = url if isinstance(url, Transport) else Transport(url, session=session)
        self._token = token
        self._data = bind(data)
        self._plans = PlanStore(
            self._transport,
            folder=None if cache is None else Path(cache),
            runtime_factory=runtime_factory or tensorflow_runtime,
            trusted_signers=signers,
            vouch=self._guard.vouch,
        )
        self._limits = self._guard.limits(limits)
        self._eligible = eligible
        self._on_event = on_event
        self._phase: machine.Phase = Idle()
        self._sender: Optional[DirectSender] = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    @property
    def notes(self) -> tuple[PolicyNote, ...]:
        """What is to be said at the start about the device's policy; `run` tells it."""
        return tuple(map(PolicyNote, self._guard.notes))

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    def run_once(self, *, stop: Optional[threading.Event] = None) -> Outcome:
        """One turn: a check-in and all that it leads to, or what is left of a turn that was interrupted by an outage.

        Waits for nothing but answers and the computation; the outcome says when the next turn is due.

        Args:
          stop: When set, ends the turn after the phase under way; an assignment is then given back.

        Raises:
          ProblemError: the check-in was refused for a reason that waiting does not change, or TensorFlow is missing.
          KeyboardInterrupt: passed on, after the assignment was given back.
        """
        leave = Leave(self._eligible, stop)
        try:
            while True:
                refused = leave.refused()
                if refused is not None and not isinstance(self._phase, Reporting):
                    return self._break_off(refused)
                pause = self._guard.before_checkin() if isinstance(self._phase, Idle) else None
                if pause is not None:
                    outcome = Ineligible(pause.detail, pause.retry_after, until=pause.until)
                    self._tell(outcome)
                    return outcome
                moved = machine.step(self._phase, self._act(), chance=random.random())  # noqa: S311
                self._phase = moved.phase
                if not isinstance(moved.phase, Uploading):
                    self._end_sending()
                if moved.outcome is not None:
                    self._tell(moved.outcome)
                    return moved.outcome
        except (KeyboardInterrupt, SystemExit):
            self._give_back(FailureReason.CANCELLED)
            raise

    def run(self, *, stop: Optional[threading.Event] = None, rounds: Optional[int] = None) -> Summary:
        """Turn after turn, waiting between them as long as the coordinator says.

        Args:
          stop: Ends the run when set: a wait at once, a turn after the phase under way.
          rounds: Ends the run after so many contributions; None: never.

        Raises:
          ProblemError: see `run_once`.
        """
        stop = threading.Event() if stop is None else stop
        counts: Counter[type[Outcome]] = Counter()
        for note in self.notes:
            self._tell(note)
        while not stop.is_set():
            outcome = self.run_once(stop=stop)
            counts[type(outcome)] += 1
            if counts[Contributed] == rounds or stop.wait(outcome.retry_after):
                break
        if stop.is_set():
            self._give_back(FailureReason.CANCELLED)
        return Summary(contributed=counts[Contributed], missed=counts[Missed], failed=counts[Failed])

    def _act(self) -> Happening:
        """Does what the phase asks for."""
        phase = self._phase
        try:
            if isinstance(phase, Idle):
                return self._check_in(phase.cookie)
            if isinstance(phase, Working):
                return self._work(phase.assignment)
            if isinstance(phase, Uploading):
                return self._upload(phase.assignment, phase.body)
            return self._report(phase.assignment, phase.report)
        except UnreachableError as error:
            return NoAnswer(str(error))
        except ProblemError as problem:
            return problem

    def _check_in(self, cookie: Optional[str]) -> CheckinResponse:
        request = CheckinRequest(client=self.client_id, cookie=cookie)
        response = self._transport.call(
            "POST",
            f"/v1/populations/{self.population}:checkin",
            message=request,
            answer=CheckinResponse,
            token=self._token() if callable(self._token) else self._token,
        )
        if isinstance(response.answer, Assignment):
            answer = response.answer
            self._tell(Assigned(answer.task, answer.round, answer.sums_in_the_clear))
        return response

    def _work(self, assignment: Assignment) -> Happening:
        try:
            return self._limited(assignment)
        except LimitError as error:
            return error.failure

    def _limited(self, assignment: Assignment) -> Happening:
        """The work. Raises `LimitError`, where it goes over a limit."""
        started = time.monotonic()
        self._guard.on_assignment(assignment)
        self._limits.check_download(assignment)

        def check(manifest: PlanManifest) -> None:
            self._guard.on_plan(manifest, sha256=assignment.plan.sha256)
            self._limits.check_plan(manifest)

        try:
            plan, worker = self._plans.get(assignment.plan, check=check)
        except ImportError as error:
            self._give_back(FailureReason.OTHER)
            detail = f"This client can't run plans ({error}): install muster-fl[tensorflow]"
            raise SetupError(detail) from error
        broadcast = self._plans.broadcast(assignment)
        context = WorkContext(assignment.task, assignment.round, plan.manifest.name)
        try:
            data = self._data(context)
        except Exception as error:  # noqa: BLE001  it is the owner's code: whatever it raises is reported, and the loop goes on
            return _failure(FailureReason.DATA, "The data callback", error)
        left = self._limits.seconds_left(started, time.monotonic())
        bounds: dict[str, Any] = {} if left is None else {"seconds": left}
        bounds.update(self._guard.before_work(assignment))
        try:
            update = worker.work(data, broadcast, **bounds)
        except ProblemError as problem:
            self._limits.seconds_left(started, time.monotonic())
            return WorkFailed(_judge(problem), problem.detail, told=problem.detail, error=problem)
        except Exception as error:  # noqa: BLE001  reading the data, which is the owner's code too, happens in here
            return _failure(FailureReason.DATA, "Reading the data", error)
        return self._checked(assignment, update, started)

    def _checked(self, assignment: Assignment, update: dict[str, Any], started: float) -> Happening:
        self._limits.seconds_left(started, time.monotonic())
        name = None if assignment.allow_non_finite else not_finite(update)
        if name is not None:
            detail = f"Tensor {name} of the update holds NaN or infinity, which task {assignment.task} does not allow"
            return WorkFailed(FailureReason.COMPUTATION, detail, told=detail)
        body = TensorBody(update)
        if len(body) > assignment.max_update_bytes:
            detail = f"The update has {len(body)} bytes; task {assignment.task} takes {assignment.max_update_bytes}"
            return WorkFailed(FailureReason.COMPUTATION, detail, told=detail)
        self._limits.check_update(len(body))
        self._guard.before_upload(assignment, update)
        self._tell(Computed(assignment.task, assignment.round, len(body), time.monotonic() - started))
        return Worked(body)

    def _upload(self, assignment: Assignment, body: TensorBody) -> Receipt:
        if assignment.direct_above is not None and len(body) > assignment.direct_above:
            # Kept over repeats of this phase, which then go on where the last one broke off.
            if self._sender is None or self._sender.token != assignment.token:
                self._sender = self._direct(assignment, body)
            if self._sender.send():
                return self._report(assignment, Report(outcome="uploaded"))
        try:
            encoded = body.encoded(assignment.update_encodings)
            return self._transport.upload("/v1/updates", encoded, answer=Receipt, token=assignment.token)
        except ProblemError as problem:
            # Something on the way, or an older instance, takes no such thing after all.
            if problem.type is not ProblemType.ENCODING_NOT_SUPPORTED:
                raise
        return self._transport.upload("/v1/updates", body, answer=Receipt, token=assignment.token)

    def _direct(self, assignment: Assignment, body: TensorBody) -> DirectSender:
        def tell(sent: int) -> None:
            self._tell(Sending(assignment.task, assignment.round, sent, len(body)))

        return DirectSender(self._transport, assignment, body, tell=tell)

    def _end_sending(self) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.abandon()

    def _report(self, assignment: Assignment, report: Report, *, attempts: Optional[int] = None) -> Receipt:
        return self._transport.call(
            "POST", "/v1/updates:report", message=report, answer=Receipt, token=assignment.token, attempts=attempts
        )

    def _break_off(self, why: str) -> Ineligible:
        """Ends the turn between two phases."""
        phase = self._phase
        self._give_back(FailureReason.CANCELLED)
        if isinstance(phase, (Working, Uploading)):
            task, number = phase.assignment.task, phase.assignment.round
            outcome = Ineligible(f"{why}; the assignment was given back", INELIGIBLE_PAUSE, task, number)
        else:
            outcome = Ineligible(why, INELIGIBLE_PAUSE)
        self._tell(outcome)
        return outcome

    def _give_back(self, reason: FailureReason) -> None:
        """Hands an assignment back on the way out, in one attempt: it would run out by itself."""
        phase, self._phase = self._phase, Idle(self._phase.cookie)
        self._end_sending()
        if isinstance(phase, (Working, Uploading, Reporting)):
            with contextlib.suppress(ProblemError, UnreachableError):
                self._report(phase.assignment, Report(reason=reason), attempts=1)

    def _tell(self, event: Event) -> None:
        if self._on_event is not None:
            self._on_event(event)


class SetupError(RuntimeError):
    """This installation can't do the work at all; the text says what to install."""


def _failure(reason: FailureReason, what: str, error: Exception) -> WorkFailed:
    name = type(error).__name__
    # The coordinator learns the error's kind alone: its text may quote the data.
    return WorkFailed(reason, f"{what} failed: {name}: {error}", told=f"{what} failed: {name}", error=error)


_REASONS = {ProblemType.PLAN_INVALID: FailureReason.PLAN_REFUSED, ProblemType.INVALID_REQUEST: FailureReason.DATA}


def _judge(problem: ProblemError) -> FailureReason:
    return _REASONS.get(problem.type, FailureReason.COMPUTATION)
