"""A task's life: it opens (its first broadcast is computed), is active or paused, and ends completed or cancelled."""

from __future__ import annotations

from dataclasses import dataclass, replace

from muster.wire.messages import TaskSpec, TaskStatus
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import Checkpoint

ENDED = (TaskStatus.COMPLETED, TaskStatus.CANCELLED)


class TransitionError(ValueError):
    """The task's status does not allow what was asked; the text says why."""


@dataclass(frozen=True, slots=True)
class Task:
    """Task. `number` and `epoch` name its current round once there is one; `checkpoint` is the newest.

    While the status is `opening`, `restore` is the checkpoint to open from; None: the plan's initial state.
    `pause_once_open`: it was rolled back while paused, and is paused again once its broadcast is computed.
    """

    spec: TaskSpec
    plan_name: str
    sums_in_the_clear: bool
    status: TaskStatus
    created_at: float  # POSIX seconds
    number: int = 0
    epoch: int = 0
    checkpoint: Checkpoint | None = None
    restore: Checkpoint | None = None
    note: str = ""
    pause_once_open: bool = False

    @property
    def name(self) -> str:
        """The task's name."""
        return self.spec.name

    @property
    def current(self) -> RoundKey | None:
        """The open round, or the last one; None before the first."""
        return RoundKey(self.name, self.number, self.epoch) if self.number else None

    @property
    def stopped(self) -> bool:
        """Whether it was paused because it can't go on, as `note` says: nothing is tried again before it is resumed."""
        return self.status is TaskStatus.PAUSED and bool(self.note)

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in ENDED


def at_round(task: Task, key: RoundKey, checkpoint: Checkpoint) -> Task:
    """The task with `key` as its current round; an older round changes nothing, and a repeat neither."""
    if (key.number, key.epoch) < (task.number, task.epoch):
        return task
    return replace(task, number=key.number, epoch=key.epoch, checkpoint=checkpoint)


def opened(task: Task, key: RoundKey, checkpoint: Checkpoint) -> Task:
    """The task with its first broadcast computed (or, after a rollback, the one it starts again from)."""
    status = TaskStatus.PAUSED if task.pause_once_open else TaskStatus.ACTIVE
    return replace(at_round(task, key, checkpoint), status=status, restore=None, note="", pause_once_open=False)


def completed(task: Task, checkpoint: Checkpoint) -> Task:
    """The task after its last round."""
    return replace(task, status=TaskStatus.COMPLETED, checkpoint=checkpoint)


def pause(task: Task) -> Task:
    """No new assignments, no new rounds."""
    _require(task, "paused", TaskStatus.ACTIVE, TaskStatus.PAUSED)
    return replace(task, status=TaskStatus.PAUSED)


def resume(task: Task) -> Task:
    """Goes on after a pause; a task that was paused before its first broadcast (or after a rollback) opens again."""
    if task.pause_once_open and task.status is TaskStatus.OPENING:
        return replace(task, pause_once_open=False)
    _require(task, "resumed", TaskStatus.ACTIVE, TaskStatus.PAUSED)
    opening = task.current is None or task.restore is not None
    status = TaskStatus.OPENING if opening else TaskStatus.ACTIVE
    return replace(task, status=status, note="", pause_once_open=False)


def cancel(task: Task) -> Task:
    """Ends the task without its remaining rounds; its checkpoints stay."""
    if task.status is TaskStatus.COMPLETED:
        raise TransitionError(f"Task {task.name} can't be cancelled: it is completed")
    return replace(task, status=TaskStatus.CANCELLED, restore=None)


def rollback(task: Task, checkpoint: Checkpoint) -> Task:
    """Rolls back to `checkpoint`. The broadcast is computed again from it; a paused task is paused again after that."""
    _require(task, "rolled back", TaskStatus.ACTIVE, TaskStatus.PAUSED, TaskStatus.OPENING)
    if not task.number:
        raise TransitionError(f"Task {task.name} can't be rolled back: it has not opened its first round yet")
    paused = task.status is TaskStatus.PAUSED or task.pause_once_open
    return replace(task, status=TaskStatus.OPENING, restore=checkpoint, note="", pause_once_open=paused)


def _require(task: Task, what: str, *allowed: TaskStatus) -> None:
    if task.status not in allowed:
        raise TransitionError(f"Task {task.name} can't be {what}: it is {task.status.value}")
