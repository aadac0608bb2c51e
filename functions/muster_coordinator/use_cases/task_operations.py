"""Task operations: operators create, control and read tasks, and read rounds and checkpoints.

No operation reads an update or a partial. Operators see the aggregates of committed rounds, and
counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import cached_property

from muster.wire.manifest import FoldKind, PlanManifest
from muster.wire.messages import (
    CheckpointList,
    Phase,
    RoundList,
    RoundView,
    TaskList,
    TaskSpec,
    TaskStatus,
    TaskView,
)
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.times import from_posix
from muster_coordinator import queued_work
from muster_coordinator.concurrency.single_flight import SingleFlightReader
from muster_coordinator.domain import names
from muster_coordinator.domain import tasks as domain
from muster_coordinator.domain.metrics import counts_no_example
from muster_coordinator.domain.rounds import Abandoned, Committed, Round
from muster_coordinator.domain.tasks import Task, TransitionError
from muster_coordinator.domain.windows import unknown_zones
from muster_coordinator.ports import AlreadyExistsError, BlobNotFoundError
from muster_coordinator.state.bases import BaseResolver
from muster_coordinator.state.checkpoints import checkpoint, committed_round, newest_attempt, require_stored
from muster_coordinator.state.lifecycle import abandon_current, continue_task, join_population, leave_population
from muster_coordinator.state.plan_repository import PlanRepository
from muster_coordinator.state.platform import Platform, being_deleted
from muster_coordinator.state.records import UnreadableError
from muster_coordinator.state.reserved_names import check_name_is_free
from muster_coordinator.state.round_cache import tally_assignments
from muster_coordinator.use_cases.evaluation_checks import check_evaluation
from muster_coordinator.use_cases.lineage import list_checkpoints, round_base_view
from muster_coordinator.use_cases.policy_checks import floor_faults, norm_faults
from muster_coordinator.use_cases.run_views import current_run_view

LOG = logging.getLogger(__name__)
DEFAULT_PAGE_SIZE = 100  # default number of rounds on a page
SMALL_GOAL = 20  # updates; a round with a smaller goal publishes its count only after its end
_MAX_NAMED_TENSORS = 3  # in a refusal


@dataclass(frozen=True)
class TaskOperations:
    """Operations on a deployment's tasks.

    Attributes:
      tensorflow_folds: Whether the aggregator can load TensorFlow.
      least_minimum: The deployment's floor for the minimum of a task.
    """

    platform: Platform
    _: KW_ONLY
    plans: PlanRepository
    tensorflow_folds: bool = True
    least_minimum: int = 1

    def create(self, spec: TaskSpec) -> TaskView:
        """Creates a task and enqueues its first broadcast.

        A repeat with the same spec returns the existing task.

        Raises:
          ProblemError: `conflict` if another task has the name, or had it until recently;
            `not_found` if the plan is unknown; `not_supported` if its fold requires TensorFlow and
            the aggregator has none; `invalid_request` if the policy bounds the norm of updates
            that have none, is below the floor of the plan's author or of the deployment, or names
            an unknown time zone, or if an evaluation does not fit the task that it evaluates. As
            `BaseResolver.resolve` for the task's start.
        """
        check_name_is_free(self.platform, spec.name)
        manifest = self.plans.manifest(spec.plan)
        self._check_fold(manifest)
        for fault in norm_faults(spec.policy, manifest):
            detail = f"TaskSpec is not valid: {fault.path}: {fault.reason}"
            raise ProblemError(ProblemType.INVALID_REQUEST, detail, fields=(fault,))
        self._check_floors(spec, manifest)
        check_evaluation(self.platform, spec, plans=self.plans)
        task = Task(
            spec=spec,
            plan_name=manifest.name,
            sums_in_the_clear=manifest.sums_in_the_clear,
            status=TaskStatus.OPENING,
            created_at=self.platform.clock.now(),
        )
        self._check_start(task)
        try:
            self.platform.tasks.create(names.task_path(spec.name), task)
        except AlreadyExistsError:
            task = self.platform.task(spec.name).value
            if task.creating_spec != spec:
                raise ProblemError(
                    ProblemType.CONFLICT,
                    f"There is a task {spec.name!r} with another plan or policy; choose another name",
                ) from None
        if not task.ended:
            join_population(self.platform, task)
        if task.status is TaskStatus.OPENING:
            self.enqueue_opening(task)
        return self._view(task)

    def list(self, *, archived: bool = False) -> TaskList:
        """Returns the views of all readable tasks by name, and the names of the unreadable ones.

        Archived tasks are left out, unless `archived` is set.
        """
        page = self.platform.tasks.page("tasks")
        views, unreadable = [], [*page.unreadable]
        for record in page.records:
            if record.value.archived and not archived:
                continue
            try:
                views.append(self._view(record.value))
            except UnreadableError as error:  # of the task's round
                LOG.error("task %s is left out: %s", record.value.name, error)  # noqa: TRY400  no fault of the code
                unreadable.append(record.document.id)
        return TaskList(tasks=tuple(views), unreadable=tuple(sorted(unreadable)))

    def get(self, name: str) -> TaskView:
        """Returns the view of a task."""
        return self._view(self.platform.task(name).value)

    def pause(self, name: str) -> TaskView:
        """Stops new assignments and new rounds.

        Updates of existing assignments are still accepted.
        """
        return self._view(self._change(name, domain.pause))

    def resume(self, name: str) -> TaskView:
        """Resumes a paused task."""
        task = self._change(name, domain.resume)
        if task.status is TaskStatus.OPENING:
            self.enqueue_opening(task)
        elif task.current is not None:
            self.platform.enqueue(queued_work.close(task.current), task.current)
            continue_task(self.platform, name, plans=self.plans)
        return self.get(name)

    def cancel(self, name: str) -> TaskView:
        """Ends the task and abandons its open round. The checkpoints remain."""
        task = self._change(name, domain.cancel)
        abandon_current(self.platform, task, reason="cancelled")
        leave_population(self.platform, task)
        if task.current is not None:
            self.platform.enqueue(queued_work.sweep(task.current), task.current)
        return self.get(name)

    def rollback(self, name: str, *, version: int) -> TaskView:
        """Rolls the task back to a checkpoint.

        The open round is abandoned, and its next attempt starts from there. A driven task's run in
        progress ends, and by default the next run starts from there.
        """
        if self.platform.task(name).value.status is TaskStatus.DELETING:
            raise being_deleted(name)  # its checkpoints may be gone already
        target = checkpoint(self.platform, name, version)
        task = self._change(name, lambda task: domain.rollback(task, target))
        abandon_current(self.platform, task, reason="rolled back")
        if task.status is TaskStatus.OPENING:
            self.enqueue_opening(task)
        return self.get(name)

    def rounds(self, name: str, *, after: str | None = None, limit: int = DEFAULT_PAGE_SIZE) -> RoundList:
        """Returns a page of the task's attempts at rounds, oldest first.

        `after` is the `next` of the previous page.
        """
        self.platform.task(name)
        page = self.platform.rounds.page(names.rounds_path(name), after=after, limit=limit)
        views = tuple(self.round_view(record.value) for record in page.records)
        return RoundList(rounds=views, unreadable=page.unreadable, next=page.last)

    def round(self, name: str, number: int) -> RoundView:
        """Returns the newest attempt of a round. Raises `ProblemError` (`not_found`)."""
        return self.round_view(newest_attempt(self.platform, name, number))

    def result(self, name: str, number: int) -> memoryview:
        """Returns the result of a committed round, as safetensors."""
        blob = require_stored(committed_round(self.platform, name, number)).result.name
        return self._read(blob, f"The result of round {number} of task {name}")

    def checkpoints(self, name: str) -> CheckpointList:
        """Returns the versions of the task's state, oldest first, except of unreadable rounds."""
        return list_checkpoints(self.platform, self.platform.task(name).value)

    def checkpoint(self, name: str, version: int) -> memoryview:
        """Returns a version of the task's state, as safetensors."""
        blob = checkpoint(self.platform, name, version).blob.name
        return self._read(blob, f"Checkpoint {version} of task {name}")

    def _read(self, blob: str, what: str) -> memoryview:
        """Returns an output's bytes. Raises `ProblemError` (`not_found`) if it was deleted."""
        try:
            return self._blobs.read(blob)
        except BlobNotFoundError:
            raise ProblemError(ProblemType.NOT_FOUND, f"{what} is no longer stored") from None

    def require_checkpoint(self, name: str, version: int) -> None:
        """Raises `ProblemError` (`not_found`) if a version does not exist or is not stored."""
        checkpoint(self.platform, name, version)

    @cached_property
    def _blobs(self) -> SingleFlightReader:
        return SingleFlightReader(self.platform.blobs, cache_last=True)

    def _check_fold(self, manifest: PlanManifest) -> None:
        """Refuses a plan whose updates the aggregator can't fold.

        Raises:
          ProblemError: `not_supported` if the fold requires TensorFlow and the aggregator has none.
        """
        if self.tensorflow_folds or not manifest.folds_with_tensorflow:
            return
        paths = [rule.path for rule in manifest.folds if rule.kind is FoldKind.TENSORFLOW]
        more = len(paths) - _MAX_NAMED_TENSORS
        tensors = ", ".join(paths[:_MAX_NAMED_TENSORS]) + (f" and {more} more" if more > 0 else "")
        raise ProblemError(
            ProblemType.NOT_SUPPORTED,
            f"Plan {manifest.name!r} folds {tensors} with TensorFlow, which this deployment's aggregator does not have "
            "(MUSTER_TENSORFLOW_FOLDS is false): deploy the bundle aggregator-tensorflow and set it to true, or build "
            "the plan with an aggregation that is a sum, a maximum or a minimum",
        )

    def _check_floors(self, spec: TaskSpec, manifest: PlanManifest) -> None:
        """Refuses a policy with an unknown time zone, or below the plan's or deployment's floor.

        A repeat for an existing task is accepted.
        """
        floors = floor_faults(spec, manifest, least_minimum=self.least_minimum)
        fields = (*floors, *unknown_zones(spec.policy))
        if not fields:
            return
        existing = self.platform.tasks.get(names.task_path(spec.name))
        if existing is not None and existing.value.creating_spec == spec:
            return
        reasons = "; ".join(f"{field.path} {field.reason}" for field in fields)
        raise ProblemError(ProblemType.INVALID_REQUEST, f"TaskSpec is not valid: {reasons}", fields=fields)

    def _check_start(self, task: Task) -> None:
        """Refuses a start that does not exist or does not fit the plan.

        A repeat for an existing task is accepted, also after the source's deletion.
        """
        if task.spec.start is None or self.platform.tasks.get(names.task_path(task.name)) is not None:
            return
        BaseResolver(self.platform, plans=self.plans).resolve(task, task.spec.start)

    def enqueue_opening(self, task: Task) -> None:
        """Enqueues the computation of an opening task's broadcast."""
        self.platform.queue.enqueue(
            queued_work.open_task(task.name), name=f"open-{task.name}-{task.epoch}-{self.platform.randomness.nonce()}"
        )

    def _change(self, name: str, change: Callable[[Task], Task]) -> Task:
        try:
            return self.platform.change_task(name, change)
        except TransitionError as error:
            raise ProblemError(ProblemType.CONFLICT, str(error)) from error

    def _view(self, task: Task) -> TaskView:
        current = self.platform.round(task.current) if task.current is not None else None
        view = None if current is None else self.round_view(current.value)
        return TaskView(
            spec=task.spec,
            plan_name=task.plan_name,
            status=task.status,
            created_at=from_posix(task.created_at),
            checkpoint=task.checkpoint.version if task.checkpoint is not None else 0,
            line=task.checkpoint.rounds_on_line if task.checkpoint is not None else 0,
            sums_in_the_clear=task.sums_in_the_clear,
            current=view,
            note=task.note,
            tags=dict(task.tags),
            archived=task.archived,
            run=current_run_view(task, None if current is None else current.value, view),
        )

    def round_view(self, round_: Round) -> RoundView:
        """Returns a round's view.

        The count of a small open round is left out, since it would show when one client
        contributes.
        """
        ended = isinstance(round_, Committed | Abandoned)
        hidden = not ended and round_.terms.goal < SMALL_GOAL
        tally = round_.tally if isinstance(round_, Committed | Abandoned) else tally_assignments(self.platform, round_)
        terms = round_.terms
        return RoundView(
            task=round_.key.task,
            round=round_.key.number,
            epoch=round_.key.epoch,
            phase=Phase(round_.phase),
            opened_at=from_posix(terms.opened_at),
            deadline=from_posix(terms.deadline),
            ended_at=from_posix(round_.ended_at) if isinstance(round_, Committed | Abandoned) else None,
            goal=terms.goal,
            minimum=terms.minimum,
            cap=terms.cap,
            assigned=tally.assigned,
            reported=None if hidden else tally.reported,
            failed=dict(tally.failed),
            folded=tally.folded if ended else 0,
            dropped=dict(tally.dropped),
            clipped=tally.clipped if ended else 0,
            update_bytes=tally.update_bytes,
            broadcast_bytes=terms.broadcast.size,
            sums_in_the_clear=terms.sums_in_the_clear,
            reason=round_.reason if isinstance(round_, Abandoned) else "",
            metrics=_shown_metrics(round_),
            tripped=round_.tripped if isinstance(round_, Committed) else (),
            base=round_base_view(round_.key, terms),
            request=terms.request,
        )


def _shown_metrics(round_: Round) -> dict[str, float]:
    """Returns the metrics of a committed round; none if it counts no example."""
    if not isinstance(round_, Committed) or counts_no_example(round_.metrics):
        return {}
    return dict(round_.metrics)
