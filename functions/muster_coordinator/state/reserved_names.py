"""Names of deleted tasks, which no task may have yet."""

from __future__ import annotations

from pydantic import TypeAdapter

from muster.wire.messages import TaskStatus
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.times import from_posix
from muster_coordinator.domain import names
from muster_coordinator.domain.deletions import Deletion
from muster_coordinator.state.platform import Platform, being_deleted
from muster_coordinator.state.records import RecordRepository

_DELETION: TypeAdapter[Deletion] = TypeAdapter(Deletion)


def deletions(platform: Platform) -> RecordRepository[Deletion]:
    """Returns the repository of deletions, by `names.deleted_path`."""
    return RecordRepository(platform.documents, _DELETION)


def check_name_is_free(platform: Platform, task: str) -> None:
    """Checks that a task may be created under a name, or exists and is not being deleted.

    A deletion reserves the name before it deletes the task. So a task that is missing here, and
    whose name is not reserved afterwards, has not just been deleted.

    Raises:
      ProblemError: `conflict` if the name is reserved, or its task is being deleted.
    """
    existing = platform.tasks.get(names.task_path(task))
    if existing is not None:
        if existing.value.status is TaskStatus.DELETING:
            raise being_deleted(task)
        return
    stored = deletions(platform).get(names.deleted_path(task))
    if stored is not None and stored.value.reserves(platform.clock.now()):
        until = from_posix(stored.value.until).isoformat(timespec="seconds")
        raise ProblemError(
            ProblemType.CONFLICT,
            f"The name {task!r} is reserved until {until}: a task of that name was deleted, and clients may still "
            "upload to it. Choose another name, or create the task after that time",
        )
