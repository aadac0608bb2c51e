"""Work of one assignment: fetch plan and broadcast, read data, run the plan, check the update."""

from __future__ import annotations

import inspect
import threading
import time
from dataclasses import dataclass
from typing import Any, Callable, Optional

from muster.client import interruptible
from muster.client.failure_codes import code_of_data, code_of_work
from muster.client.interruptible import CallStoppedError, CallTimeoutError
from muster.client.kinds import kind_of
from muster.client.limits import LimitError, Limits
from muster.client.local_data import WorkContext, name_of_non_finite
from muster.client.machine import Event, Worked, WorkFailed
from muster.client.outcomes import Computed
from muster.client.plans import PlanStore, Worker
from muster.client.policy_guard import PolicyGuard
from muster.transport.body import TensorBody
from muster.wire.manifest import PlanManifest
from muster.wire.messages import Assignment, FailureCode, FailureReason
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import Array

_GRACE_SECONDS = 1.0  # added to the time limit, so that the work can end by itself


@dataclass(frozen=True)
class Validity:
    """Time for which an assignment is valid.

    Attributes:
      since: The arrival of the assignment, in seconds of the monotonic clock.
      seconds: Seconds for which it is valid; None: unknown.
    """

    since: float
    seconds: Optional[float] = None


class _DataError(Exception):
    """Error raised from the exception of the data callback."""


class AssignmentWork:
    """Runner of assignments, within the device's limits and the assignment's validity.

    Args:
      plans: The store of plans, workers and broadcasts.
      data: Returns the client's data for a context.
      limits: The device's limits.
      guard: The device's policy.
      on_computed: Called with `Computed` when an update is ready.
    """

    def __init__(
        self,
        plans: PlanStore,
        data: Callable[[WorkContext], Any],
        *,
        limits: Limits,
        guard: PolicyGuard,
        on_computed: Callable[[Computed], None],
    ) -> None:
        self._plans = plans
        self._data = data
        self._limits = limits
        self._guard = guard
        self._on_computed = on_computed
        self._call: Optional[interruptible.InterruptibleCall[dict[str, Array]]] = None

    @property
    def running(self) -> bool:
        """Returns whether an abandoned data callback or an abandoned work is still running."""
        return self._call is not None and self._call.running

    def do(self, assignment: Assignment, validity: Validity, *, stop: Optional[threading.Event]) -> Event:
        """Returns the update, or the failure of the work.

        Args:
          assignment: The assignment.
          validity: Its validity.
          stop: Ends the work when set.

        Raises:
          ProblemError: the coordinator refused, or the plan is not valid.
          UnreachableError: the coordinator did not answer a download.
          ImportError: the worker's libraries are not installed.
          CallStoppedError: `stop` was set.
        """
        try:
            return self._do_within_limits(assignment, validity, stop)
        except LimitError as error:
            return error.failure

    def _do_within_limits(self, assignment: Assignment, validity: Validity, stop: Optional[threading.Event]) -> Event:
        self._guard.on_assignment(assignment)
        self._limits.check_download(assignment)

        def check(manifest: PlanManifest) -> None:
            self._guard.on_plan(manifest, sha256=assignment.plan.sha256)
            self._limits.check_plan(manifest)

        plan, worker = self._plans.get(assignment.plan, check=check)
        broadcast = self._plans.broadcast(assignment)
        context = WorkContext(
            assignment.task, assignment.round, plan.manifest.name, kind=assignment.kind, selector=assignment.selector
        )
        try:
            update = self._compute(assignment, context, worker, broadcast, validity, stop=stop)
        except _DataError as error:
            return _failure("The data callback", error.__cause__)
        except ProblemError as problem:
            self._check_time(validity)
            reason, code = _reason_of(problem), code_of_work(problem)
            return WorkFailed(reason, problem.detail, kind=kind_of(problem), error=problem, code=code)
        except CallTimeoutError as error:
            raise self._limits.too_long(valid=validity.seconds) from error
        except (LimitError, CallStoppedError):
            raise
        except Exception as error:  # noqa: BLE001  lazy data sets run the owner's code in here
            return _failure("Reading the data", error)
        self._check_time(validity)
        return self._checked_update(assignment, update, validity)

    def _compute(
        self,
        assignment: Assignment,
        context: WorkContext,
        worker: Worker,
        broadcast: dict[str, Array],
        validity: Validity,
        *,
        stop: Optional[threading.Event],
    ) -> dict[str, Array]:
        def compute(cancel: threading.Event) -> dict[str, Array]:
            try:
                data = self._data(context)
            except Exception as error:
                raise _DataError from error
            if cancel.is_set():  # the client has abandoned this call: spend no budget
                raise CallStoppedError
            options = {"seconds": self._check_time(validity), "stop": cancel, **self._guard.before_work(assignment)}
            return worker.work(data, broadcast, **_accepted_arguments(worker.work, options))

        seconds_left = self._check_time(validity)
        deadline = None if seconds_left is None else time.monotonic() + seconds_left + _GRACE_SECONDS
        self._call = interruptible.start(compute)
        return self._call.result(stop=stop, timed_out=None if deadline is None else lambda: time.monotonic() > deadline)

    def _check_time(self, validity: Validity) -> Optional[float]:
        """Returns the seconds left. Raises `LimitError` if there are none."""
        return self._limits.seconds_left(validity.since, time.monotonic(), valid=validity.seconds)

    def _checked_update(self, assignment: Assignment, update: dict[str, Array], validity: Validity) -> Event:
        name = None if assignment.allow_non_finite else name_of_non_finite(update)
        if name is not None:
            detail = f"Tensor {name} of the update holds NaN or infinity, which task {assignment.task} does not allow"
            kind, code = ProblemType.UPDATE_NOT_FINITE.value, FailureCode.DATA_NOT_FINITE
            return WorkFailed(FailureReason.COMPUTATION, detail, kind=kind, code=code)
        body = TensorBody(update)
        if len(body) > assignment.max_update_bytes:
            detail = f"The update has {len(body)} bytes; task {assignment.task} takes {assignment.max_update_bytes}"
            kind, code = ProblemType.TOO_LARGE.value, FailureCode.LIMITS_SIZE
            return WorkFailed(FailureReason.COMPUTATION, detail, kind=kind, code=code)
        self._limits.check_update(len(body))
        self._guard.before_upload(assignment, update)
        seconds = time.monotonic() - validity.since
        self._on_computed(Computed(assignment.task, assignment.round, len(body), seconds))
        return Worked(body)


def _accepted_arguments(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns the `arguments` that are not None and that `function` accepts by name."""
    parameters = inspect.signature(function).parameters.values()
    names = {item.name for item in parameters if item.kind in (item.KEYWORD_ONLY, item.POSITIONAL_OR_KEYWORD)}
    accepts_any = any(item.kind is item.VAR_KEYWORD for item in parameters)
    return {name: value for name, value in arguments.items() if value is not None and (accepts_any or name in names)}


def _failure(step: str, error: Optional[BaseException]) -> WorkFailed:
    """Returns the failure of a step that reads the client's data."""
    cause = error if isinstance(error, Exception) else Exception(step)
    detail = f"{step} failed: {type(cause).__name__}: {cause}"
    return WorkFailed(FailureReason.DATA, detail, kind=kind_of(cause), error=cause, code=code_of_data(cause))


_REASONS = {ProblemType.PLAN_INVALID: FailureReason.PLAN_REFUSED, ProblemType.INVALID_REQUEST: FailureReason.DATA}


def _reason_of(problem: ProblemError) -> FailureReason:
    return _REASONS.get(problem.type, FailureReason.COMPUTATION)
