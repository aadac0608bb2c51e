"""Task runs: operators run rounds of driven tasks on request, and complete such tasks.

A run is started by three writes. The order makes the request an idempotency key:

1. Compare-and-set of the task from idle to opening, with the run. Of several requests one wins.
2. Creation of the request's document, by which a repeat is recognized once another run has replaced
   this one in the task.
3. The message for the committer, which opens the first round.

A crash after the first write loses nothing: the task still has the run, and whichever comes first
(a repeat, or the start of another run) creates the document. A tick repeats the message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

from muster.wire.manifest import PlanManifest
from muster.wire.messages import RunRequest, RunView, TaskStatus, TaskView
from muster.wire.problems import FieldError, ProblemError, ProblemType
from muster_coordinator import queued_work
from muster_coordinator.domain import names
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.release import effective_policy, may_commit
from muster_coordinator.domain.rounds import Committed, Round
from muster_coordinator.domain.runs import MAX_NUMBER, complete, is_last_round, require_startable, start
from muster_coordinator.domain.tasks import Run, Task, TransitionError
from muster_coordinator.ports import ConflictError
from muster_coordinator.state.bases import BaseResolver
from muster_coordinator.state.lifecycle import abandon_current, continue_task, leave_population
from muster_coordinator.state.plan_repository import PlanRepository
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.records import Versioned
from muster_coordinator.state.round_keys import next_round_key
from muster_coordinator.use_cases.run_views import run_view
from muster_coordinator.use_cases.task_operations import TaskOperations

_MAX_ATTEMPTS = 20  # of a compare-and-set among a handful of writers
_PAGE = 50  # attempts that are read with one call
_RETRY_OPENING = 1.0  # seconds; version 0 is stored by then


@dataclass(frozen=True)
class TaskRuns:
    """Runs of a deployment's driven tasks.

    Attributes:
      bases: Resolves the bases that requests name.
      operations: The operations on tasks, whose views of rounds and tasks are returned.
    """

    platform: Platform
    _: KW_ONLY
    plans: PlanRepository
    bases: BaseResolver
    operations: TaskOperations

    def run(self, name: str, request: RunRequest) -> RunView:
        """Starts a run, or returns the one that the request started before.

        Raises:
          ProblemError: `conflict` if the task is not idle, or the request had other arguments
            before; `invalid_request` if the goal or the rounds violate the task's or the author's
            bounds; `not_found` if there is no such task or base; `unavailable` if version 0 is not
            stored yet.
        """
        for _ in range(_MAX_ATTEMPTS):
            record = self._settled(name, request.request)
            run = self._find(record.value, request.request)
            if run is not None:
                _require_same(run, request)
                return self._open(run, name)
            try:
                return self._open(self._start(record, request), name)
            except ConflictError:
                continue  # another writer was faster, perhaps with the same request
        raise ProblemError(
            ProblemType.UNAVAILABLE, f"Task {name!r} is being changed by others; try again", retry_after=1.0
        )

    def get(self, name: str, request: str) -> RunView:
        """Returns the run that a request started. Raises `ProblemError` (`not_found`)."""
        task = self.platform.task(name).value
        run = self._find(task, request)
        if run is None:
            raise ProblemError(ProblemType.NOT_FOUND, f"Task {name} has no run {request!r}; `:run` starts one")
        return self._view(task, run)

    def complete(self, name: str) -> TaskView:
        """Ends an idle driven task. Idempotent.

        Raises:
          ProblemError: `conflict` if the task is not driven, was cancelled, or has a run in
            progress.
        """
        self._settled(name, "")
        try:
            task = self.platform.change_task(name, complete)
        except TransitionError as error:
            raise ProblemError(ProblemType.CONFLICT, str(error)) from error
        abandon_current(self.platform, task, reason="completed")  # left open by an interrupted rollback
        leave_population(self.platform, task)
        if task.current is not None:
            self.platform.enqueue(queued_work.sweep(task.current), task.current)
        return self.operations.get(name)

    def _settled(self, name: str, request: str) -> Versioned[Task]:
        """Returns the task, after its run was ended if its last round is committed.

        The committer does that right after the commit, unless its process is killed. A run of
        `request` is left alone.
        """
        record = self.platform.task(name)
        task = record.value
        if not task.running or task.status is not TaskStatus.ACTIVE or _request(task) == request:
            return record
        current = None if task.current is None else self.platform.round(task.current)
        if current is None or not isinstance(current.value, Committed) or not is_last_round(task, current.value):
            return record
        continue_task(self.platform, name, plans=self.plans)
        return self.platform.task(name)

    def _find(self, task: Task, request: str) -> Run | None:
        """Returns the run that a request started, or None.

        The task is read before the document: a run that the task does not have any more has one.
        """
        if task.run is not None and _request(task) == request:
            return task.run
        record = self.platform.runs.get(names.request_path(task.name, request))
        return None if record is None else record.value

    def _start(self, record: Versioned[Task], request: RunRequest) -> Run:
        """Starts a run by compare-and-set.

        Raises:
          ConflictError: another writer was faster.
          ProblemError: as `run`.
        """
        task = record.value
        self._require_startable(task, request)
        manifest = self.plans.manifest(task.spec.plan)
        goal = _goal(task, request, manifest)
        base = self.bases.resolve(task, request.base)
        abandon_current(self.platform, task, reason="rolled back")  # left open by an interrupted rollback
        first = next_round_key(self.platform, task).number
        run = Run(
            request=request.request,
            first=first,
            rounds=request.rounds,
            goal=goal,
            base=base.checkpoint,
            origin=base.origin,
            asked=request,
        )
        _check_last(task, run, manifest)
        if task.run is not None:
            self._ensure_document(task.name, task.run)
        self.platform.tasks.replace(record, start(task, run))
        return run

    def _require_startable(self, task: Task, request: RunRequest) -> None:
        if task.spec.evaluates is not None:
            raise ProblemError(
                ProblemType.CONFLICT,
                f"Task {task.name} evaluates task {task.spec.evaluates.task}, whose commits request its rounds; "
                "create a driven task to run rounds on request",
            )
        if task.driven and task.status is TaskStatus.OPENING and task.checkpoint is None:
            raise ProblemError(
                ProblemType.UNAVAILABLE,
                f"Task {task.name} is opening: its version 0 is being stored; repeat the request",
                retry_after=_RETRY_OPENING,
            )
        try:
            require_startable(task, request.request)
        except TransitionError as error:
            raise ProblemError(ProblemType.CONFLICT, str(error)) from error

    def _open(self, run: Run, name: str) -> RunView:
        """Ensures the request's document and, until the run has opened, the committer's message.

        The message has one name for each run, so repeats of the request enqueue it once.
        """
        self._ensure_document(name, run)
        task = self.platform.task(name).value
        if task.status is TaskStatus.OPENING and task.run == run:
            created = hashlib.sha256(f"{task.created_at}/{run.request}".encode()).hexdigest()[:16]
            self.platform.queue.enqueue(queued_work.open_task(name), name=f"open-{name}-run-{created}")
        return self._view(task, run)

    def _ensure_document(self, name: str, run: Run) -> None:
        path = names.request_path(name, run.request)
        if self.platform.runs.get(path) is None:
            self.platform.runs.ensure(path, run)

    def _view(self, task: Task, run: Run) -> RunView:
        newest = self._newest_attempt(task, run)
        return run_view(task, run, newest, None if newest is None else self.operations.round_view(newest))

    def _newest_attempt(self, task: Task, run: Run) -> Round | None:
        """Returns the newest attempt of a run, or None if none has opened."""
        if _request(task) == run.request and task.current is not None:
            current = self.platform.round(task.current)
            if current is not None and current.value.terms.request == run.request:
                return current.value
        last = list(self._attempts(task.name, run, first=run.last))
        if last and isinstance(last[-1], Committed):
            return last[-1]
        newest = None
        for newest in self._attempts(task.name, run, first=run.first):  # noqa: B007  the last one is returned
            pass
        return newest

    def _attempts(self, name: str, run: Run, *, first: int) -> Iterator[Round]:
        """Yields the run's attempts from round `first` on, oldest first.

        Attempts of a cancelled run may precede those of the first round.
        """
        after: str | None = RoundKey(name, first - 1, 9999).id
        has_begun = False
        while after is not None:
            page = self.platform.rounds.page(names.rounds_path(name), after=after, limit=_PAGE)
            for record in page.records:
                if record.value.terms.request == run.request:
                    has_begun = True
                    yield record.value
                elif has_begun or record.value.key.number > first:
                    return
            after = page.last


def _request(task: Task) -> str | None:
    """Returns the request of the task's newest run."""
    return None if task.run is None else task.run.request


def _goal(task: Task, request: RunRequest, manifest: PlanManifest) -> int:
    """Returns the goal of a run's rounds.

    Raises:
      ProblemError: `invalid_request` if it is below the minimum of the task or the plan's author.
    """
    policy = effective_policy(task.spec.policy, manifest)
    if request.goal is None:
        return policy.goal
    if request.goal < policy.minimum:
        reason = (
            f"is {request.goal}, and no round of task {task.name} may have a result of fewer than {policy.minimum} "
            f"updates (its minimum); use {policy.minimum} or more"
        )
        raise _invalid("goal", reason)
    return request.goal


def _check_last(task: Task, run: Run, manifest: PlanManifest) -> None:
    """Refuses a run that exceeds the rounds that the plan's author, or the coordinator, allows."""
    most = MAX_NUMBER if manifest.release is None else manifest.release.max_rounds or MAX_NUMBER
    if run.last <= MAX_NUMBER and may_commit(run.last, manifest):
        return
    by = "the plan's author" if most < MAX_NUMBER else "the coordinator"
    left = max(0, most - run.first + 1)
    fix = f"use {left} or fewer" if left else "create another task"
    reason = (
        f"is {run.rounds}, and {by} allows a task at most {most} rounds, of which {run.first - 1} are used "
        f"in task {task.name}; {fix}"
    )
    raise _invalid("rounds", reason)


def _require_same(run: Run, request: RunRequest) -> None:
    """Refuses a repeat of a request with other arguments. Raises `ProblemError` (`conflict`)."""
    if run.asked is None or run.asked == request:
        return
    before, now = run.asked.to_dict(), request.to_dict()
    other = sorted(field for field in before.keys() | now.keys() if before.get(field) != now.get(field))
    raise ProblemError(
        ProblemType.CONFLICT,
        f"Request {request.request!r} has started a run with another {' and '.join(other)}; "
        "repeat it as it was, or use another request",
    )


def _invalid(field: str, reason: str) -> ProblemError:
    return ProblemError(
        ProblemType.INVALID_REQUEST,
        f"RunRequest is not valid: {field} {reason}",
        fields=(FieldError(path=field, reason=reason),),
    )
