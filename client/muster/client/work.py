"""Does the work of one assignment: fetches plan and broadcast, reads the data, runs the plan, checks the update."""

from __future__ import annotations

import inspect
import threading
import time
from dataclasses import dataclass
from typing import Any, Callable, Optional

from muster.client import interruptible
from muster.client.interruptible import CallStoppedError, CallTimeoutError
from muster.client.kinds import kind_of
from muster.client.limits import LimitError, Limits
from muster.client.local_data import WorkContext, not_finite
from muster.client.machine import Event, Worked, WorkFailed
from muster.client.outcomes import Computed
from muster.client.plans import PlanStore, Worker
from muster.client.policy_guard import PolicyGuard
from muster.transport.body import TensorBody
from muster.wire.manifest import PlanManifest
from muster.wire.messages import Assignment, FailureReason
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import Array

_SLACK = 1.0  # seconds that work may take beyond its time, to end by itself


@dataclass(frozen=True)
class Validity:
    """Arrival of an assignment, on a monotonic clock, and the seconds for which it is valid; None: unknown."""

    since: float
    seconds: Optional[float] = None


class _DataError(Exception):
    """Error raised from the exception of the data callback."""


class AssignmentWork:
    """Worker for assignments, within the device's limits and the assignment's validity.

    Args:
      plans: The store of plans, workers and broadcasts.
      data: Returns the client's data for a context.
      limits: The device's limits.
      guard: The device's policy.
      tell: Receives `Computed`.
    """

    def __init__(
        self,
        plans: PlanStore,
        data: Callable[[WorkContext], Any],
        limits: Limits,
        guard: PolicyGuard,
        tell: Callable[[Computed], None],
    ) -> None:
        self._plans = plans
        self._data = data
        self._limits = limits
        self._guard = guard
        self._tell = tell
        self._call: Optional[interruptible.Call[dict[str, Array]]] = None

    @property
    def running(self) -> bool:
        """Returns whether a data callback or a plan's work that the client abandoned is still running."""
        return self._call is not None and self._call.running

    def do(self, assignment: Assignment, validity: Validity, *, stop: Optional[threading.Event]) -> Event:
        """Returns the update, or the reason for its absence.

        Args:
          assignment: The assignment.
          validity: Its validity.
          stop: Ends the work when set.

        Raises:
          ProblemError: the coordinator refused, or the plan is not valid.
          UnreachableError: a download got no answer of a coordinator.
          ImportError: the worker's libraries are not installed.
          CallStoppedError: `stop` was set.
        """
        try:
            return self._limited(assignment, validity, stop)
        except LimitError as error:
            return error.failure

    def _limited(self, assignment: Assignment, validity: Validity, stop: Optional[threading.Event]) -> Event:
        self._guard.on_assignment(assignment)
        self._limits.check_download(assignment)

        def check(manifest: PlanManifest) -> None:
            self._guard.on_plan(manifest, sha256=assignment.plan.sha256)
            self._limits.check_plan(manifest)

        plan, worker = self._plans.get(assignment.plan, check=check)
        broadcast = self._plans.broadcast(assignment)
        context = WorkContext(assignment.task, assignment.round, plan.manifest.name)
        try:
            update = self._compute(assignment, context, worker, broadcast, validity, stop=stop)
        except _DataError as error:
            return _failure(FailureReason.DATA, "The data callback", error.__cause__)
        except ProblemError as problem:
            self._check_time(validity)
            return WorkFailed(_judge(problem), problem.detail, kind=kind_of(problem), error=problem)
        except CallTimeoutError as error:
            raise self._limits.too_long(valid=validity.seconds) from error
        except (LimitError, CallStoppedError):
            raise
        except Exception as error:  # noqa: BLE001  data is read in here, which runs the owner's code
            return _failure(FailureReason.DATA, "Reading the data", error)
        self._check_time(validity)
        return self._checked(assignment, update, validity)

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
            if cancel.is_set():  # the client has abandoned the callback: nothing runs, and nothing is spent
                raise CallStoppedError
            more = {"seconds": self._check_time(validity), "stop": cancel, **self._guard.before_work(assignment)}
            return worker.work(data, broadcast, **_taken(worker.work, more))

        left = self._check_time(validity)
        until = None if left is None else time.monotonic() + left + _SLACK
        self._call = interruptible.start(compute)
        return self._call.result(stop=stop, until=None if until is None else lambda: time.monotonic() > until)

    def _check_time(self, validity: Validity) -> Optional[float]:
        """Returns the seconds left. Raises `LimitError` if there are none."""
        return self._limits.seconds_left(validity.since, time.monotonic(), valid=validity.seconds)

    def _checked(self, assignment: Assignment, update: dict[str, Array], validity: Validity) -> Event:
        name = None if assignment.allow_non_finite else not_finite(update)
        if name is not None:
            detail = f"Tensor {name} of the update holds NaN or infinity, which task {assignment.task} does not allow"
            return WorkFailed(FailureReason.COMPUTATION, detail, kind=ProblemType.UPDATE_NOT_FINITE.value)
        body = TensorBody(update)
        if len(body) > assignment.max_update_bytes:
            detail = f"The update has {len(body)} bytes; task {assignment.task} takes {assignment.max_update_bytes}"
            return WorkFailed(FailureReason.COMPUTATION, detail, kind=ProblemType.TOO_LARGE.value)
        self._limits.check_update(len(body))
        self._guard.before_upload(assignment, update)
        seconds = time.monotonic() - validity.since
        self._tell(Computed(assignment.task, assignment.round, len(body), seconds))
        return Worked(body)


def _taken(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Returns those of `arguments` that are given and that `function` accepts by name."""
    parameters = inspect.signature(function).parameters.values()
    names = {item.name for item in parameters if item.kind in (item.KEYWORD_ONLY, item.POSITIONAL_OR_KEYWORD)}
    every = any(item.kind is item.VAR_KEYWORD for item in parameters)
    return {name: value for name, value in arguments.items() if value is not None and (every or name in names)}


def _failure(reason: FailureReason, what: str, error: Optional[BaseException]) -> WorkFailed:
    found = error if isinstance(error, Exception) else Exception(what)
    return WorkFailed(reason, f"{what} failed: {type(found).__name__}: {found}", kind=kind_of(found), error=found)


_REASONS = {ProblemType.PLAN_INVALID: FailureReason.PLAN_REFUSED, ProblemType.INVALID_REQUEST: FailureReason.DATA}


def _judge(problem: ProblemError) -> FailureReason:
    return _REASONS.get(problem.type, FailureReason.COMPUTATION)
