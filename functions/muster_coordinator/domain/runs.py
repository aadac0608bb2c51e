"""Runs of a driven task: rounds that a request asks for. Between runs the task is idle.

    opening ──version 0 is stored──► idle ──start──► opening ──► active ──last round──► idle
                                      └──complete──► completed

A pause, a rollback and a cancellation are those of `muster_coordinator.domain.tasks`. A rollback or
a cancellation ends the run in progress.
"""

from __future__ import annotations

from dataclasses import replace

from muster.wire.messages import RunStatus, TaskPolicy, TaskStatus
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import Checkpoint, Committed, Ended, Round
from muster_coordinator.domain.tasks import Run, Task, TransitionError

MAX_NUMBER = 999_999  # of a round; ids of rounds have six digits, by which they sort


def ready(task: Task, initial: Checkpoint) -> Task:
    """Returns a new driven task after its version 0 was stored: it waits for a request."""
    return replace(task, status=TaskStatus.IDLE, checkpoint=initial, initial=initial, restore=None, note="")


def require_startable(task: Task, request: str) -> None:
    """Raises `TransitionError` if the task can't start another run now."""
    if not task.driven:
        raise TransitionError(
            f"Task {task.name} runs its rounds by itself; to run rounds on request, create a task with driven set"
        )
    if task.running and task.run is not None:
        raise TransitionError(
            f"Task {task.name} can't start run {request!r}: its run {task.run.request!r} is in progress; "
            "repeat the request when that is done"
        )
    if task.status is TaskStatus.PAUSED:
        raise TransitionError(f"Task {task.name} can't start run {request!r}: it is paused; resume it first")
    if task.status is not TaskStatus.IDLE:
        raise TransitionError(f"Task {task.name} can't start run {request!r}: it is {task.status.value}")


def start(task: Task, run: Run) -> Task:
    """Starts a run: the committer computes the broadcast of `run.base` and opens the first round.

    The newest checkpoint stays the same until a round of the run is committed.

    Raises:
      TransitionError: the task is not idle.
    """
    require_startable(task, run.request)
    return replace(task, status=TaskStatus.OPENING, run=run, running=True, restore=run.base, note="")


def finished(task: Task, key: RoundKey, checkpoint: Checkpoint) -> Task:
    """Returns the task after the last round of its run, or unchanged if it has moved on."""
    if task.status is not TaskStatus.ACTIVE or not task.running or task.current != key:
        return task
    return replace(task, status=TaskStatus.IDLE, checkpoint=checkpoint, running=False)


def complete(task: Task) -> Task:
    """Ends an idle driven task, which may be paused. Idempotent.

    Raises:
      TransitionError: the task is not driven, was cancelled, or has a run in progress.
    """
    if not task.driven:
        raise TransitionError(
            f"Task {task.name} completes by itself after its last round; cancel it to end it before that"
        )
    if task.status is TaskStatus.COMPLETED:
        return task
    if task.running and task.run is not None:
        raise TransitionError(
            f"Task {task.name} can't be completed: its run {task.run.request!r} is in progress; wait until that is "
            "done, or cancel the task"
        )
    if not task.resting:
        raise TransitionError(f"Task {task.name} can't be completed: it is {task.status.value}")
    return replace(task, status=TaskStatus.COMPLETED, restore=None)


def is_last_round(task: Task, ended: Ended) -> bool:
    """Returns whether `ended` is the committed last round of the task's run."""
    return isinstance(ended, Committed) and (task.run is None or ended.key.number >= task.run.last)


def run_policy(run: Run | None, policy: TaskPolicy) -> TaskPolicy:
    """Returns the policy of a run's rounds, which has the run's goal.

    Args:
      run: The run, or None for a task that is not driven, whose policy is returned unchanged.
      policy: The task's effective policy. Its minimum may have been raised since the run started.
    """
    if run is None:
        return policy
    return policy.model_copy(update={"goal": max(run.goal, policy.minimum)})


def run_status(task: Task, run: Run, newest: Round | None) -> RunStatus:
    """Returns the status of one of the task's runs.

    Args:
      task: The task.
      run: The run.
      newest: The newest attempt of the run, or None if none has opened.
    """
    if isinstance(newest, Committed) and newest.key.number == run.last:
        return RunStatus.DONE
    is_current = task.run is not None and task.run.request == run.request
    return RunStatus.RUNNING if is_current and task.running else RunStatus.CANCELLED
