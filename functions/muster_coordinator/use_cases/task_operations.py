"""Task operations: operators create, control and read tasks, and read rounds and checkpoints.

No operation reads an update or a partial. Operators see the aggregates of committed rounds, and
counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import cached_property

from muster.runtime.norms import is_measured
from muster.wire.manifest import FoldKind, PlanManifest
from muster.wire.messages import (
    CheckpointList,
    CheckpointView,
    Phase,
    RoundList,
    RoundView,
    TaskList,
    TaskSpec,
    TaskStatus,
    TaskView,
)
from muster.wire.problems import FieldError, ProblemError, ProblemType
from muster.wire.times import from_posix
from muster_coordinator import queued_work
from muster_coordinator.concurrency.single_flight import SingleFlightReader
from muster_coordinator.domain import names
from muster_coordinator.domain import tasks as domain
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.release import violations
from muster_coordinator.domain.rounds import Abandoned, BlobRef, Checkpoint, Committed, Round
from muster_coordinator.domain.tasks import Task, TransitionError
from muster_coordinator.ports import AlreadyExistsError
from muster_coordinator.state.lifecycle import abandon_current, continue_task, join_population, leave_population
from muster_coordinator.state.plan_repository import PlanRepository
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.records import UnreadableError
from muster_coordinator.state.round_cache import tally_assignments
from muster_coordinator.use_cases.run_views import current_run_view

LOG = logging.getLogger(__name__)
DEFAULT_PAGE_SIZE = 100  # default number of rounds on a page
SMALL_GOAL = 20  # updates; a round with a smaller goal publishes its count only after its end
_ATTEMPTS_PAGE = 4  # attempts of a round that are read with one call
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
          ProblemError: `conflict` if another task has the name; `not_found` if the plan is unknown;
            `not_supported` if its fold requires TensorFlow and the aggregator has none;
            `invalid_request` if the policy bounds the norm of updates that have none, or is below
            the floor of the plan's author or of the deployment.
        """
        manifest = self.plans.manifest(spec.plan)
        self._check_fold(manifest)
        if spec.policy.max_update_norm is not None and not any(map(is_measured, manifest.update)):
            reason = "the plan's updates have no floating-point tensor of one dimension or more to bound; leave it out"
            raise ProblemError(
                ProblemType.INVALID_REQUEST,
                f"TaskSpec is not valid: policy.max_update_norm: {reason}",
                fields=(FieldError(path="policy.max_update_norm", reason=reason),),
            )
        self._check_floors(spec, manifest)
        task = Task(
            spec=spec,
            plan_name=manifest.name,
            sums_in_the_clear=manifest.sums_in_the_clear,
            status=TaskStatus.OPENING,
            created_at=self.platform.clock.now(),
        )
        try:
            self.platform.tasks.create(names.task_path(spec.name), task)
        except AlreadyExistsError:
            task = self.platform.task(spec.name).value
            if task.spec != spec:
                raise ProblemError(
                    ProblemType.CONFLICT,
                    f"There is a task {spec.name!r} with another plan or policy; choose another name",
                ) from None
        if not task.ended:
            join_population(self.platform, task)
        if task.status is TaskStatus.OPENING:
            self._open(task)
        return self._view(task)

    def list(self) -> TaskList:
        """Returns the views of all readable tasks by name, and the names of the unreadable ones."""
        page = self.platform.tasks.page("tasks")
        views, unreadable = [], [*page.unreadable]
        for record in page.records:
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
            self._open(task)
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
        checkpoint = self._checkpoint(name, version)
        task = self._change(name, lambda task: domain.rollback(task, checkpoint))
        abandon_current(self.platform, task, reason="rolled back")
        if task.status is TaskStatus.OPENING:
            self._open(task)
        return self.get(name)

    def rounds(self, name: str, *, after: str | None = None, limit: int = DEFAULT_PAGE_SIZE) -> RoundList:
        """Returns a page of the task's attempts at rounds, oldest first.

        `after` is the `next` of the previous page.
        """
        self.platform.task(name)
        page = self.platform.rounds.page(names.rounds_path(name), after=after, limit=limit)
        views = tuple(self.round_view(record.value) for record in page.records)
        return RoundList(rounds=views, unreadable=page.unreadable, next=page.last)

    def result(self, name: str, number: int) -> memoryview:
        """Returns the result of a committed round, as safetensors."""
        return self._blobs.read(self._committed(name, number).result.name)

    def checkpoints(self, name: str) -> CheckpointList:
        """Returns the versions of the task's state, oldest first, except of unreadable rounds."""
        task, by_version = self.platform.task(name).value, dict[int, Checkpoint]()
        initial = task.initial or task.checkpoint
        if initial is not None and not initial.version:
            by_version[0] = initial
        page = self.platform.rounds.page(names.rounds_path(name))
        for record in page.records:
            round_ = record.value
            if round_.terms.origin is None:
                by_version.setdefault(round_.terms.base.version, round_.terms.base)
            if isinstance(round_, Committed):
                by_version[round_.key.number] = round_.checkpoint
        views = tuple(_checkpoint_view(name, by_version[version]) for version in sorted(by_version))
        return CheckpointList(checkpoints=views, unreadable=page.unreadable)

    def checkpoint(self, name: str, version: int) -> memoryview:
        """Returns a version of the task's state, as safetensors."""
        return self._blobs.read(self._checkpoint(name, version).blob.name)

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
        """Refuses a policy below the plan's or the deployment's floor.

        A repeat for an existing task is accepted.
        """
        # The policy's rounds do not bound a driven task; `:run` checks the author's bound.
        fields = [
            field for field in violations(spec.policy, manifest) if not (spec.driven and field.path == "policy.rounds")
        ]
        if spec.policy.minimum < self.least_minimum:
            least = self.least_minimum
            reason = (
                f"is {spec.policy.minimum}, and this deployment makes no task below {least} (MUSTER_MINIMUM); "
                f"use {least} or more"
            )
            fields.append(FieldError(path="policy.minimum", reason=reason))
        if not fields:
            return
        existing = self.platform.tasks.get(names.task_path(spec.name))
        if existing is not None and existing.value.spec == spec:
            return
        reasons = "; ".join(f"{field.path} {field.reason}" for field in fields)
        raise ProblemError(ProblemType.INVALID_REQUEST, f"TaskSpec is not valid: {reasons}", fields=tuple(fields))

    def _open(self, task: Task) -> None:
        self.platform.queue.enqueue(
            queued_work.open_task(task.name), name=f"open-{task.name}-{task.epoch}-{self.platform.randomness.nonce()}"
        )

    def _change(self, name: str, change: Callable[[Task], Task]) -> Task:
        try:
            return self.platform.change_task(name, change)
        except TransitionError as error:
            raise ProblemError(ProblemType.CONFLICT, str(error)) from error

    def _committed(self, name: str, number: int) -> Committed:
        self.platform.task(name)
        """Returns a committed round. Raises `ProblemError` (`not_found`) if it is not committed."""
        after: str | None = RoundKey(name, max(0, number - 1), 9999).id
        while after is not None:
            documents = self.platform.documents.list(names.rounds_path(name), after=after, limit=_ATTEMPTS_PAGE)
            after = documents[-1].id if len(documents) == _ATTEMPTS_PAGE else None
            for document in documents:
                # Only attempts of this round are parsed: another round may be readable only by a
                # newer version.
                if RoundKey.parse(name, document.id).number != number:
                    after = None
                elif isinstance(round_ := self.platform.rounds.read(document).value, Committed):
                    return round_
        raise ProblemError(ProblemType.NOT_FOUND, f"Round {number} of task {name} is not committed")

    def _checkpoint(self, name: str, version: int) -> Checkpoint:
        if version:
            return self._committed(name, version).checkpoint
        initial = self.platform.task(name).value.initial
        if initial is not None:
            return initial
        first = self.platform.round(RoundKey(name, 1, 0))
        if first is None:
            raise ProblemError(
                ProblemType.NOT_FOUND, f"Task {name} has no checkpoint yet; it opens when the committer has run"
            )
        return first.value.terms.base

    def _view(self, task: Task) -> TaskView:
        current = self.platform.round(task.current) if task.current is not None else None
        view = None if current is None else self.round_view(current.value)
        return TaskView(
            spec=task.spec,
            plan_name=task.plan_name,
            status=task.status,
            created_at=from_posix(task.created_at),
            checkpoint=task.checkpoint.version if task.checkpoint is not None else 0,
            sums_in_the_clear=task.sums_in_the_clear,
            current=view,
            note=task.note,
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
            metrics=dict(round_.metrics) if isinstance(round_, Committed) else {},
            request=terms.request,
        )


def _checkpoint_view(task: str, checkpoint: Checkpoint) -> CheckpointView:
    blob: BlobRef = checkpoint.blob
    return CheckpointView(
        version=checkpoint.version,
        sha256=blob.sha256,
        size=blob.size,
        created_at=from_posix(checkpoint.created_at),
        url=f"/v1/tasks/{task}/checkpoints/{checkpoint.version}",
    )
