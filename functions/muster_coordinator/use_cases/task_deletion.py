"""Task deletion: an operator marks an ended task, whose data `task_purge` then deletes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from muster.wire.messages import TaskStatus, TaskView
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.times import from_posix
from muster_coordinator.domain import names, tasks
from muster_coordinator.domain.rounds import Committed
from muster_coordinator.domain.tasks import Task, TransitionError
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.reserved_names import deletions
from muster_coordinator.use_cases.audit_log import task_state
from muster_coordinator.use_cases.task_operations import TaskOperations
from muster_coordinator.use_cases.task_purge import TaskPurge

_MAX_COUNTED = 10_000  # rounds whose blobs are counted for the audit log
_PAGE = 500  # documents


@dataclass(frozen=True)
class TaskDeletion:
    """Deletion of tasks, as an operator requests it."""

    platform: Platform
    _: KW_ONLY
    task_operations: TaskOperations
    task_purge: TaskPurge

    def delete(self, name: str) -> TaskView:
        """Marks an ended task for deletion, and enqueues the deletion of its data. Idempotent.

        The mark is the only write that must not be lost: each tick enqueues the work of a marked
        task again.

        Raises:
          ProblemError: `not_found`; `conflict` if the task has not ended, or if another task needs
            its checkpoints.
        """
        task = self.platform.task(name).value
        try:
            if tasks.delete(task) != task:
                self._check_dependents(task)
            self.platform.change_task(name, tasks.delete)
        except TransitionError as error:
            raise ProblemError(ProblemType.CONFLICT, str(error)) from error
        view = self.task_operations.get(name)
        self.task_purge.enqueue(name)
        return view

    def audited_state(self, name: str) -> Mapping[str, Any]:
        """Returns the task's state for the audit log, with the numbers of its documents and blobs.

        The numbers are those that the records of an existing task refer to (of its first 10,000
        attempts), or that were deleted with a deleted task.
        """
        stored = self.platform.tasks.get(names.task_path(name))
        if stored is not None:
            return {**task_state(self.platform, name), **self._count(stored.value)}
        deleted = deletions(self.platform).get(names.deleted_path(name))
        if deleted is None:
            return {}
        deletion = deleted.value
        until = from_posix(deletion.until).isoformat(timespec="seconds")
        numbers = {"documents": deletion.documents, "blobs": deletion.blobs}
        return {"status": "deleted", **numbers, "name_reserved_until": until}

    def _count(self, task: Task) -> dict[str, int]:
        blobs = set() if task.checkpoint is None else {task.checkpoint.blob.name}
        rounds, after = 0, None
        while rounds < _MAX_COUNTED:
            page = self.platform.rounds.page(names.rounds_path(task.name), after=after, limit=_PAGE)
            rounds += len(page.records) + len(page.unreadable)
            for record in page.records:
                blobs.add(record.value.terms.base.blob.name)
                if isinstance(record.value, Committed):
                    blobs |= {record.value.checkpoint.blob.name, record.value.result.name}
            if page.last is None:
                break
            after = page.last
        requests = len(self.platform.documents.list(names.requests_path(task.name), limit=_MAX_COUNTED))
        return {"documents": 1 + rounds + requests, "blobs": len(blobs)}

    def _check_dependents(self, task: Task) -> None:
        """Raises `ProblemError` (`conflict`) if another task still needs the task's checkpoints."""
        for record in self.platform.tasks.page("tasks").records:
            other = record.value
            reason = None if other.ended else _dependence(other, task.name)
            if reason is not None:
                raise ProblemError(
                    ProblemType.CONFLICT,
                    f"Task {task.name} can't be deleted: task {other.name} {reason}. Wait for it, or cancel it first "
                    f"(`muster task cancel {other.name}`)",
                )


def _dependence(task: Task, name: str) -> str | None:
    """Returns why a task needs the checkpoints of the task `name`, or None if it does not.

    A round that has opened needs them no more: it has a copy of its base.
    """
    spec = task.spec
    if spec.evaluates is not None and spec.evaluates.task == name:
        return f"evaluates its checkpoints, and is {task.status.value}"
    if task.checkpoint is None and spec.start is not None and spec.start.task == name:
        return "starts from a checkpoint of it, and has not opened yet"
    origin = None if task.run is None or task.status is not TaskStatus.OPENING else task.run.origin
    if origin is not None and origin.task == name:
        return "is opening a round that starts from a checkpoint of it"
    return None
