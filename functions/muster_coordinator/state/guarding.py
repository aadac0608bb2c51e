"""Pauses tasks whose guards a committed round has tripped, before another round opens.

The verdict is part of the committed round's document, so it is durable once the round is. Every
continuation of a task passes here: after a commit, at a repeated delivery, at a tick, and when an
operator resumes it. A crash between the commit and the pause therefore delays the pause until the
next tick, and no round opens in between. The pause is one compare-and-set, which also records the
attempt (`Task.guarded`): a repeat changes nothing, and a resumed task continues.
"""

from __future__ import annotations

from collections.abc import Callable

from muster.wire.messages import TaskKind
from muster_coordinator import events
from muster_coordinator.domain.guards import describe
from muster_coordinator.domain.names import task_path
from muster_coordinator.domain.rounds import Committed, Ended
from muster_coordinator.domain.tasks import Task, at_round, guarded
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.records import Versioned


def pause_if_tripped(platform: Platform, record: Versioned[Task], ended: Ended) -> bool:
    """Pauses the task, or the training task that it evaluates, if `ended` has tripped guards.

    A task of kind `analytics` has no later round to protect: it ends, with a note.

    Args:
      platform: The ports.
      record: The task, active and at the round `ended`, as the caller has just read it.
      ended: The task's current round.

    Returns:
      True if the task must not continue now. It continues when an operator resumes it.
    """
    task = record.value
    if not isinstance(ended, Committed) or not ended.tripped or task.guarded.get(task.name) == ended.key.id:
        return False
    if task.spec.evaluates is not None:
        _pause_evaluated(platform, task, ended)
        return False
    if task.spec.kind is TaskKind.ANALYTICS:
        return False

    def stop(latest: Task) -> Task:
        if latest.current != ended.key:
            return latest
        after = guarded(latest, ended.key, _note(task, ended))
        return latest if after is latest else at_round(after, ended.key, ended.checkpoint)

    _pause(platform, task.name, ended, stop, current=record)
    return True


def final_note(task: Task, ended: Ended) -> str:
    """Returns the note of a task that ends after a round: about guards that have not paused it."""
    if not isinstance(ended, Committed) or not ended.tripped or task.guarded.get(task.name) == ended.key.id:
        return ""
    return _note(task, ended)


def _note(task: Task, ended: Committed) -> str:
    subject = f"Round {ended.key.number}"
    if task.spec.evaluates is not None:
        subject += f" of evaluation {task.name}, of version {_evaluated_version(ended)},"
    return f"{subject} tripped a guard: {describe(ended.tripped, task.spec.policy.guards.worsening)}"


def _pause_evaluated(platform: Platform, task: Task, ended: Committed) -> None:
    """Pauses the training task that `task` evaluates, if it is there, and active or idle."""
    evaluation = task.spec.evaluates
    if evaluation is not None and platform.tasks.get(task_path(evaluation.task)) is not None:
        note = _note(task, ended)
        _pause(platform, evaluation.task, ended, lambda latest: guarded(latest, ended.key, note))


def _pause(
    platform: Platform,
    name: str,
    ended: Committed,
    change: Callable[[Task], Task],
    *,
    current: Versioned[Task] | None = None,
) -> None:
    """Changes the task `name` by compare-and-set, and logs an event if that paused it."""
    changed = False

    def stop(latest: Task) -> Task:
        nonlocal changed
        after = change(latest)
        changed = after is not latest
        return after

    platform.change_task(name, stop, current=current)
    if changed:
        events.guard_tripped(ended, paused=name)


def _evaluated_version(ended: Committed) -> int:
    origin = ended.terms.origin
    return ended.terms.base.version if origin is None or origin.version is None else origin.version
