"""What an operator does: make tasks, pause, resume, cancel and roll them back, and look at rounds and checkpoints.

Nothing here reads an update or a partial: an operator sees aggregates of committed rounds, and counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
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
from muster_coordinator.state.lifecycle import abandon_current, advance, join_population, leave_population
from muster_coordinator.state.plan_repository import PlanRepository
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.records import UnreadableError
from muster_coordinator.state.round_cache import tally_assignments

LOG = logging.getLogger(__name__)
PAGE = 100  # rounds in an answer, if the caller does not say
SMALL_GOAL = 20  # updates: a round with a smaller goal publishes its count only once it has ended
_ATTEMPTS = 4  # of a round that are read at once
_NAMED = 3  # tensors that a refusal names


@dataclass(frozen=True)
class TaskOperations:
    """Tasks, for operators."""

    platform: Platform
    plans: PlanRepository
    tensorflow_folds: bool = True  # whether what folds can load TensorFlow
    least_minimum: int = 1  # of a task: the deployment's floor

    def create(self, spec: TaskSpec) -> TaskView:
        """Creates a task and enqueues its first broadcast. A repeat with the same spec returns the existing task.

        Raises:
          ProblemError: `conflict` if another task has the name; `not_found` if the plan is unknown; `not_supported` if
            its fold requires TensorFlow and the aggregator has none; `invalid_request` if the policy bounds the norm of
            updates that have none, or is below the floor of the plan's author or of the deployment.
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
        """All tasks, by name. One that can't be read hides no other."""
        page = self.platform.tasks.page("tasks")
        views, unreadable = [], [*page.unreadable]
        for each in page.records:
            try:
                views.append(self._view(each.value))
            except UnreadableError as error:  # its round
                LOG.error("task %s is left out: %s", each.value.name, error)  # noqa: TRY400  no fault of the code
                unreadable.append(each.document.id)
        return TaskList(tasks=tuple(views), unreadable=tuple(sorted(unreadable)))

    def get(self, name: str) -> TaskView:
        """One task."""
        return self._view(self.platform.task(name).value)

    def pause(self, name: str) -> TaskView:
        """No new assignments and no new rounds; updates under way are taken."""
        return self._view(self._change(name, domain.pause))

    def resume(self, name: str) -> TaskView:
        """Goes on after a pause."""
        task = self._change(name, domain.resume)
        if task.status is TaskStatus.OPENING:
            self._open(task)
        elif task.current is not None:
            self.platform.enqueue(queued_work.close(task.current), task.current)
            advance(self.platform, name, plans=self.plans)
        return self.get(name)

    def cancel(self, name: str) -> TaskView:
        """Ends the task; the open round is abandoned, the checkpoints stay."""
        task = self._change(name, domain.cancel)
        abandon_current(self.platform, task, reason="cancelled")
        leave_population(self.platform, task)
        if task.current is not None:
            self.platform.enqueue(queued_work.sweep(task.current), task.current)
        return self.get(name)

    def rollback(self, name: str, *, version: int) -> TaskView:
        """Goes back to a checkpoint; the open round is abandoned and tried again from there."""
        checkpoint = self._checkpoint(name, version)
        task = self._change(name, lambda task: domain.rollback(task, checkpoint))
        abandon_current(self.platform, task, reason="rolled back")
        self._open(task)
        return self.get(name)

    def rounds(self, name: str, *, after: str | None = None, limit: int = PAGE) -> RoundList:
        """Returns a page of the task's attempts at rounds, oldest first. `after` is the `next` of the previous page."""
        self.platform.task(name)
        page = self.platform.rounds.page(names.rounds_path(name), after=after, limit=limit)
        views = tuple(self.round_view(each.value) for each in page.records)
        return RoundList(rounds=views, unreadable=page.unreadable, next=page.last)

    def result(self, name: str, number: int) -> memoryview:
        """The result of a committed round, as safetensors."""
        return self._shared.read(self._committed(name, number).result.name)

    def checkpoints(self, name: str) -> CheckpointList:
        """Returns all versions of the task's state, oldest first, without those of unreadable rounds."""
        task, found = self.platform.task(name).value, dict[int, Checkpoint]()
        if task.checkpoint is not None and not task.checkpoint.version:
            found[0] = task.checkpoint
        page = self.platform.rounds.page(names.rounds_path(name))
        for each in page.records:
            found.setdefault(each.value.terms.base.version, each.value.terms.base)
            if isinstance(each.value, Committed):
                found[each.value.key.number] = each.value.checkpoint
        views = tuple(_checkpoint_view(name, found[version]) for version in sorted(found))
        return CheckpointList(checkpoints=views, unreadable=page.unreadable)

    def checkpoint(self, name: str, version: int) -> memoryview:
        """A version of the task's state, as safetensors."""
        return self._shared.read(self._checkpoint(name, version).blob.name)

    @cached_property
    def _shared(self) -> SingleFlightReader:
        return SingleFlightReader(self.platform.blobs, keep_last=True)

    def _check_fold(self, manifest: PlanManifest) -> None:
        """Refuses now what the aggregator would fail at with the first updates, and at every repeat."""
        if self.tensorflow_folds or not manifest.folds_with_tensorflow:
            return
        paths = [rule.path for rule in manifest.folds if rule.kind is FoldKind.TENSORFLOW]
        named = ", ".join(paths[:_NAMED]) + (f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else "")
        raise ProblemError(
            ProblemType.NOT_SUPPORTED,
            f"Plan {manifest.name!r} folds {named} with TensorFlow, which this deployment's aggregator has not "
            "(MUSTER_TENSORFLOW_FOLDS is false): deploy the bundle aggregator-tensorflow and set it to true, or build the plan with "
            "an aggregation that is a sum, a maximum or a minimum",
        )

    def _check_floors(self, spec: TaskSpec, manifest: PlanManifest) -> None:
        """Refuses a policy below the plan's or the deployment's floor. Existing tasks and repeats are unaffected."""
        fields = list(violations(spec.policy, manifest))
        if spec.policy.minimum < self.least_minimum:
            least = self.least_minimum
            reason = f"is {spec.policy.minimum}, and this deployment makes no task below {least} (MUSTER_MINIMUM); use {least} or more"
            fields.append(FieldError(path="policy.minimum", reason=reason))
        if not fields:
            return
        found = self.platform.tasks.get(names.task_path(spec.name))
        if found is not None and found.value.spec == spec:
            return
        listed = "; ".join(f"{each.path} {each.reason}" for each in fields)
        raise ProblemError(ProblemType.INVALID_REQUEST, f"TaskSpec is not valid: {listed}", fields=tuple(fields))

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
        after: str | None = RoundKey(name, max(0, number - 1), 9999).id
        while after is not None:
            found = self.platform.documents.list(names.rounds_path(name), after=after, limit=_ATTEMPTS)
            after = found[-1].id if len(found) == _ATTEMPTS else None
            for document in found:
                # Only its own attempts are read: another round may be readable only by a newer version.
                if RoundKey.parse(name, document.id).number != number:
                    after = None
                elif isinstance(round_ := self.platform.rounds.read(document).value, Committed):
                    return round_
        raise ProblemError(ProblemType.NOT_FOUND, f"Round {number} of task {name} is not committed")

    def _checkpoint(self, name: str, version: int) -> Checkpoint:
        if version:
            return self._committed(name, version).checkpoint
        first = self.platform.round(RoundKey(name, 1, 0))
        if first is None:
            raise ProblemError(
                ProblemType.NOT_FOUND, f"Task {name} has no checkpoint yet; it opens when the committer has run"
            )
        return first.value.terms.base

    def _view(self, task: Task) -> TaskView:
        found = self.platform.round(task.current) if task.current is not None else None
        return TaskView(
            spec=task.spec,
            plan_name=task.plan_name,
            status=task.status,
            created_at=from_posix(task.created_at),
            checkpoint=task.checkpoint.version if task.checkpoint is not None else 0,
            sums_in_the_clear=task.sums_in_the_clear,
            current=None if found is None else self.round_view(found.value),
            note=task.note,
        )

    def round_view(self, round_: Round) -> RoundView:
        """Returns a round's view, without a small round's live count, which would show when one client contributed."""
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
