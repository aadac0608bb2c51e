"""Pauses a task that can't continue, so that nothing is retried before an operator resumes it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from muster.wire.messages import TaskStatus
from muster.wire.problems import ProblemError
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.tasks import Task
from muster_coordinator.plan_runner import FINAL_PROBLEMS
from muster_coordinator.state.platform import Platform

LOG = logging.getLogger(__name__)
_MAX_NOTE = 1000  # characters; a note is read with the task at every check-in


@contextmanager
def pause_on_final_problem(
    platform: Platform, task: str, what: str, *, concerns: Callable[[Task], bool]
) -> Iterator[None]:
    """Pauses the task, with a note, if the body fails with a problem that a retry can't fix.

    Any other error passes through.

    Args:
      platform: The ports.
      task: The task's name.
      what: The failed action, as the start of the note.
      concerns: Returns whether the current task is still at the failed action: an operator may have
        rolled it back.
    """
    note = ""
    try:
        yield
    except ProblemError as problem:
        if problem.type not in FINAL_PROBLEMS:
            raise
        note = f"{what}: {problem.detail}"[:_MAX_NOTE]
    if note:
        _stop(platform, task, note, concerns=concerns)


def _stop(platform: Platform, task: str, note: str, *, concerns: Callable[[Task], bool]) -> None:
    def stop(latest: Task) -> Task:
        if latest.ended or not concerns(latest):
            return latest
        return replace(latest, status=TaskStatus.PAUSED, note=note)

    if platform.change_task(task, stop).note == note:
        LOG.error("task %s is paused: %s", task, note)


def is_at_round(key: RoundKey) -> Callable[[Task], bool]:
    """Returns a predicate that is true if a task is at the round and was not rolled back since."""
    return lambda task: task.current == key and task.status is not TaskStatus.OPENING


def is_stopped(platform: Platform, task: str) -> bool:
    """Returns whether the task waits for an operator: see `Task.stopped`."""
    return platform.task(task).value.stopped
