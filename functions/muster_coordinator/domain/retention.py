"""Decides which checkpoints and results of a task stay stored.

The rule: of the committed rounds, by number over all branches, these stay:

- the newest `last`
- every `every`-th
- those that a tag names
- the task's newest checkpoint, which is the base of its open round or next run, and the base of its
  newest run
- those that an unfinished evaluation of the task needs

Version 0 belongs to no round, and always stays.
"""

from __future__ import annotations

from collections.abc import Iterable

from muster.wire.messages import Retention
from muster_coordinator.domain.tasks import Task


def is_kept(version: int, retention: Retention, *, newest: int) -> bool:
    """Returns whether the policy keeps a version, whatever tags and rounds need.

    Args:
      version: The version.
      retention: The policy.
      newest: Number of the newest committed round.
    """
    return version > newest - retention.last or (retention.every is not None and version % retention.every == 0)


def pinned_versions(task: Task, evaluations: Iterable[Task], *, newest: int) -> frozenset[int]:
    """Returns the versions of a task that must stay for now, whatever the policy says.

    Args:
      task: The task.
      evaluations: The tasks that evaluate it.
      newest: Number of its newest committed round.
    """
    pinned = {0, *task.tags.values()}
    pinned |= {checkpoint.version for checkpoint in (task.checkpoint, task.restore) if checkpoint is not None}
    if task.run is not None and task.run.origin is None:
        pinned.add(task.run.base.version)
    for evaluation in evaluations:
        pinned |= _versions_for(evaluation, task, newest=newest)
    return frozenset(pinned)


def _versions_for(evaluation: Task, task: Task, *, newest: int) -> set[int]:
    """Returns the versions that an evaluation of `task` evaluates now or next."""
    if evaluation.ended or evaluation.spec.evaluates is None:
        return set()
    every = evaluation.spec.evaluates.every
    checkpoint = newest if task.checkpoint is None else task.checkpoint.version
    needed = {version - version % every for version in (newest, checkpoint)}
    run = evaluation.run
    if run is not None and run.origin is not None and run.origin.version is not None:
        needed.add(run.origin.version)
    return needed
