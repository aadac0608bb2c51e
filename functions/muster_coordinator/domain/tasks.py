"""States of a task: opening (its broadcast is computed), active, paused, or ended.

A driven task has one more: idle, between its runs; see `muster_coordinator.domain.runs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from muster.wire.messages import RunRequest, TaskKind, TaskSpec, TaskStatus
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import Checkpoint, Origin

ENDED = (TaskStatus.COMPLETED, TaskStatus.CANCELLED, TaskStatus.DELETING)


class TransitionError(ValueError):
    """Error raised when the task's status does not allow a transition.

    The text names the reason.
    """


@dataclass(frozen=True, slots=True)
class Run:
    """Rounds that a request asked for.

    Attributes:
      request: The idempotency key of the request.
      first: Number of the first round.
      rounds: Number of rounds to commit.
      goal: Number of updates that closes each round.
      base: The checkpoint or state that the first round starts from.
      origin: Where `base` comes from, or None if it is a checkpoint of the task itself.
      asked: The operator's request, which a repeat must equal; None if the task that this one
        evaluates has requested the run.
    """

    request: str
    first: int
    rounds: int
    goal: int
    base: Checkpoint
    origin: Origin | None = None
    asked: RunRequest | None = None

    @property
    def last(self) -> int:
        """Number of the last round."""
        return self.first + self.rounds - 1


@dataclass(frozen=True, slots=True)
class Task:
    """A task and its progress.

    Attributes:
      spec: The specification, with the current policy.
      plan_name: The plan's name.
      sums_in_the_clear: Whether the plan has sums that are computed in the clear.
      status: The status.
      created_at: The time of its creation, in POSIX seconds.
      number: Number of its current round; 0 before the first.
      epoch: Attempt of its current round.
      checkpoint: The newest checkpoint.
      restore: While the status is `opening`, the checkpoint to open from, or None for the plan's
        initial state.
      note: The reason for which it was paused, if it can't continue, or for which it has no answer.
      pause_once_open: True if it was rolled back while paused: it is paused again once its
        broadcast is computed.
      created: The specification that created it, if its policy was changed since.
      run: The newest run of a driven task, or None.
      running: Whether `run` is in progress: its last round is not committed, or not followed yet.
      initial: Version 0 of a driven task, once it is stored.
      tags: Versions of tagged checkpoints, by tag.
      archived: Whether lists of tasks leave it out by default.
      guarded: Id of the newest attempt whose guards have paused the task, by the attempt's task:
        the task itself, or one that evaluates it. Resuming the task does not trip them again.
    """

    spec: TaskSpec
    plan_name: str
    sums_in_the_clear: bool
    status: TaskStatus
    created_at: float
    number: int = 0
    epoch: int = 0
    checkpoint: Checkpoint | None = None
    restore: Checkpoint | None = None
    note: str = ""
    pause_once_open: bool = False
    created: TaskSpec | None = None
    run: Run | None = None
    running: bool = False
    initial: Checkpoint | None = None
    tags: Mapping[str, int] = field(default_factory=dict)
    archived: bool = False
    guarded: Mapping[str, str] = field(default_factory=dict)

    @property
    def driven(self) -> bool:
        """True if it runs rounds only on request: of an operator, or of the task it evaluates."""
        return self.spec.driven or self.spec.evaluates is not None

    @property
    def creating_spec(self) -> TaskSpec:
        """The specification that created it, before any change of its policy."""
        return self.created or self.spec

    @property
    def retries(self) -> bool:
        """True if an abandoned round is tried again. A question (analytics) is asked once."""
        return self.spec.kind is not TaskKind.ANALYTICS

    @property
    def resting(self) -> bool:
        """True if it is driven and no run is in progress: it is idle, or was paused while idle."""
        return self.driven and self.checkpoint is not None and not self.running and not self.ended

    @property
    def name(self) -> str:
        """The task's name."""
        return self.spec.name

    @property
    def current(self) -> RoundKey | None:
        """Key of the open round, or of the last one; None before the first."""
        return RoundKey(self.name, self.number, self.epoch) if self.number else None

    @property
    def stopped(self) -> bool:
        """True if it was paused because it can't continue. Nothing is retried until it resumes."""
        return self.status is TaskStatus.PAUSED and bool(self.note)

    @property
    def ended(self) -> bool:
        """True if it is completed or cancelled, or being deleted after that."""
        return self.status in ENDED


def at_round(task: Task, key: RoundKey, checkpoint: Checkpoint) -> Task:
    """Returns the task with `key` as its current round. An older round changes nothing."""
    if (key.number, key.epoch) < (task.number, task.epoch):
        return task
    return replace(task, number=key.number, epoch=key.epoch, checkpoint=checkpoint)


def opened(task: Task, key: RoundKey, checkpoint: Checkpoint) -> Task:
    """Returns the task after its first broadcast, or that after a rollback, was computed.

    The newest checkpoint of a driven task stays until the run has committed one.
    """
    status = TaskStatus.PAUSED if task.pause_once_open else TaskStatus.ACTIVE
    newest = checkpoint if task.checkpoint is None or not task.driven else task.checkpoint
    return replace(at_round(task, key, newest), status=status, restore=None, note="", pause_once_open=False)


def completed(task: Task, checkpoint: Checkpoint, *, note: str = "") -> Task:
    """Returns the task after its last round."""
    return replace(task, status=TaskStatus.COMPLETED, checkpoint=checkpoint, note=note)


def reopened(task: Task, checkpoint: Checkpoint) -> Task:
    """Returns the task whose rounds continue from `checkpoint` although no broadcast follows it.

    The commit of a line's last round computes no broadcast. If the policy's `rounds` were raised
    after that, the task opens again, as after a rollback.

    Raises:
      TransitionError: it is archived.
    """
    if task.archived:
        raise TransitionError(f"Task {task.name} can't run more rounds: it is archived; unarchive it first")
    return replace(task, status=TaskStatus.OPENING, checkpoint=checkpoint, restore=checkpoint, note="")


def guarded(task: Task, key: RoundKey, note: str) -> Task:
    """Returns the task, paused by the guards of a round of it or of a task that evaluates it.

    Unchanged if that round has paused it before, or if it is neither active nor idle.
    """
    if task.guarded.get(key.task) == key.id or task.status not in (TaskStatus.ACTIVE, TaskStatus.IDLE):
        return task
    return replace(task, status=TaskStatus.PAUSED, note=note, guarded={**task.guarded, key.task: key.id})


def changed(task: Task, spec: TaskSpec) -> Task:
    """Returns the task with a changed specification, or the same task if nothing changes."""
    if task.status in (TaskStatus.CANCELLED, TaskStatus.DELETING):
        raise TransitionError(f"Task {task.name} can't be changed: it is {task.status.value}")
    return task if spec == task.spec else replace(task, spec=spec, created=task.created or task.spec)


def may_reopen(task: Task, *, rounds: int) -> bool:
    """Returns whether a completed task continues under a policy with so many rounds.

    A driven task runs rounds on request only, an evaluation follows its training task, and an
    analytics task answers once.

    Args:
      task: The task, before its policy changes.
      rounds: Number of rounds of the new policy.
    """
    return (
        task.status is TaskStatus.COMPLETED
        and task.checkpoint is not None
        and not task.driven
        and task.spec.kind is not TaskKind.ANALYTICS
        and rounds > max(task.spec.policy.rounds, task.checkpoint.rounds_on_line)
    )


def archived(task: Task, *, archived: bool) -> Task:
    """Returns an ended task with this archive flag."""
    _require(task, "archived" if archived else "unarchived", *ENDED)
    return replace(task, archived=archived)


def require_not_deleting(task: Task, action: str) -> None:
    """Raises `TransitionError` if the task is being deleted."""
    if task.status is TaskStatus.DELETING:
        raise TransitionError(f"Task {task.name} can't be {action}: it is {task.status.value}")


def unanswered(task: Task, checkpoint: Checkpoint, *, reason: str) -> Task:
    """Returns the task after its only attempt was abandoned."""
    return replace(completed(task, checkpoint), note=f"not answered: {reason}")


def pause(task: Task) -> Task:
    """Pauses the task: no new assignments, no new rounds and no new runs."""
    _require(task, "paused", TaskStatus.ACTIVE, TaskStatus.PAUSED, TaskStatus.IDLE)
    return replace(task, status=TaskStatus.PAUSED)


def resume(task: Task) -> Task:
    """Resumes a paused task. A task without a broadcast, new or rolled back, opens again."""
    if task.pause_once_open and task.status is TaskStatus.OPENING:
        return replace(task, pause_once_open=False)
    _require(task, "resumed", TaskStatus.ACTIVE, TaskStatus.PAUSED, TaskStatus.IDLE)
    if task.resting:
        status = TaskStatus.IDLE
    else:
        opening = task.current is None or task.restore is not None
        status = TaskStatus.OPENING if opening else TaskStatus.ACTIVE
    return replace(task, status=status, note="", pause_once_open=False)


def cancel(task: Task) -> Task:
    """Ends the task without its remaining rounds. Its checkpoints remain."""
    if task.status in (TaskStatus.COMPLETED, TaskStatus.DELETING):
        raise TransitionError(f"Task {task.name} can't be cancelled: it is {task.status.value}")
    return replace(task, status=TaskStatus.CANCELLED, restore=None, running=False)


def delete(task: Task) -> Task:
    """Marks an ended task for deletion. Nothing changes it any more. Idempotent."""
    if not task.ended:
        raise TransitionError(
            f"Task {task.name} can't be deleted: it is {task.status.value}. Cancel it first (`muster task cancel "
            f"{task.name}`), which abandons its open round"
        )
    return replace(task, status=TaskStatus.DELETING)


def rollback(task: Task, checkpoint: Checkpoint) -> Task:
    """Rolls back to `checkpoint`, from which the broadcast is computed again.

    A paused task is paused again after that. A driven task ends its run and computes nothing: its
    next run starts from `checkpoint`, unless the request names another base.
    """
    _require(task, "rolled back", TaskStatus.ACTIVE, TaskStatus.PAUSED, TaskStatus.OPENING, TaskStatus.IDLE)
    if task.driven and task.checkpoint is not None:
        status = TaskStatus.PAUSED if task.status is TaskStatus.PAUSED else TaskStatus.IDLE
        return replace(task, status=status, checkpoint=checkpoint, restore=None, note="", running=False)
    if not task.number:
        raise TransitionError(f"Task {task.name} can't be rolled back: it has not opened its first round yet")
    paused = task.status is TaskStatus.PAUSED or task.pause_once_open
    return replace(task, status=TaskStatus.OPENING, restore=checkpoint, note="", pause_once_open=paused)


def _require(task: Task, action: str, *allowed: TaskStatus) -> None:
    if task.status not in allowed:
        raise TransitionError(f"Task {task.name} can't be {action}: it is {task.status.value}")
