"""Marks tasks and their checkpoints: tags and the archive flag."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace

from muster.wire.messages import TaskView
from muster.wire.messages.tasks import MAX_TAGS
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator import queued_work
from muster_coordinator.domain import tasks as domain
from muster_coordinator.domain.tasks import Task, TransitionError
from muster_coordinator.state.platform import Platform
from muster_coordinator.use_cases.task_operations import TaskOperations


@dataclass(frozen=True)
class TaskMarks:
    """Marks of a deployment's tasks. Each is one compare-and-set of the task, and idempotent."""

    platform: Platform
    _: KW_ONLY
    operations: TaskOperations

    def tag(self, name: str, tag: str, *, version: int) -> TaskView:
        """Tags a checkpoint, which retention then keeps. A tag of that name moves.

        The version is checked before and after the write, since retention may remove it meanwhile;
        see `retention`. If it is gone, the tag is undone. A crash in between leaves a tag of a
        version that is not stored, and a repeat removes it.

        Raises:
          ProblemError: `not_found` if the version does not exist or is not stored any more;
            `conflict` if the task has `MAX_TAGS` others, or is being deleted.
        """
        self.operations.require_checkpoint(name, version)
        earlier = self.platform.task(name).value.tags.get(tag)
        self._change(name, lambda task: _tagged(task, tag, version))
        try:
            self.operations.require_checkpoint(name, version)
        except ProblemError:
            self._change(name, lambda task: _untagged(task, tag, version, earlier=earlier))
            raise
        return self.operations.get(name)

    def untag(self, name: str, tag: str) -> TaskView:
        """Removes a tag. Idempotent."""
        task = self._change(name, lambda task: _untagged(task, tag, task.tags.get(tag)))
        if task.current is not None and task.spec.policy.retention is not None:
            self.platform.enqueue(queued_work.sweep(task.current), task.current)
        return self.operations.get(name)

    def archive(self, name: str) -> TaskView:
        """Leaves an ended task out of lists by default. Idempotent."""
        self._change(name, lambda task: domain.archived(task, archived=True))
        return self.operations.get(name)

    def unarchive(self, name: str) -> TaskView:
        """Lists an archived task again. Idempotent."""
        self._change(name, lambda task: domain.archived(task, archived=False))
        return self.operations.get(name)

    def _change(self, name: str, change: Callable[[Task], Task]) -> Task:
        try:
            return self.platform.change_task(name, change)
        except TransitionError as error:
            raise ProblemError(ProblemType.CONFLICT, str(error)) from error


def _tagged(task: Task, tag: str, version: int) -> Task:
    domain.require_not_deleting(task, "tagged")
    if tag not in task.tags and len(task.tags) >= MAX_TAGS:
        raise TransitionError(f"Task {task.name} has {MAX_TAGS} tags, and no more are possible; delete one first")
    return replace(task, tags={**task.tags, tag: version})


def _untagged(task: Task, tag: str, version: int | None, *, earlier: int | None = None) -> Task:
    """Returns the task without a tag of this version, or with the tag's earlier version."""
    domain.require_not_deleting(task, "changed")
    if tag not in task.tags or task.tags[tag] != version:
        return task
    tags = {name: value for name, value in task.tags.items() if name != tag}
    return replace(task, tags=tags if earlier in (None, version) else {**tags, tag: earlier})
