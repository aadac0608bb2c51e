"""Number of rounds that a task may still run: on its line, and under its author's limit."""

from __future__ import annotations

from muster.wire.manifest import PlanManifest
from muster.wire.messages import TaskPolicy
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.release import may_commit
from muster_coordinator.domain.tasks import Task


def has_next(task: Task, key: RoundKey, *, line: int, policy: TaskPolicy, manifest: PlanManifest) -> bool:
    """Returns whether another round follows a committed round.

    A free-running task counts the rounds on its line, so a rollback restores their budget. A driven
    task counts those of its run. The author's limit bounds the round's number, since every
    committed round of every branch releases a result.

    Args:
      task: The task.
      key: The committed round.
      line: Number of committed rounds on the line of the round's checkpoint, with this one.
      policy: The task's effective policy.
      manifest: The plan's manifest.
    """
    if not may_commit(key.number + 1, manifest):
        return False
    if task.driven:
        return task.run is not None and key.number < task.run.last
    return line < policy.rounds


def shortfall(task: Task, *, line: int, policy: TaskPolicy) -> str:
    """Returns the note of a task that ends before the budget of its line is spent, or ""."""
    if task.driven or line >= policy.rounds:
        return ""
    return (
        f"The plan's author allows no more rounds: {line} of {policy.rounds} are committed on this line, and rounds "
        "before a rollback count too"
    )
