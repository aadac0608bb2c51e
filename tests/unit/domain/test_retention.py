"""Tests of the rule that decides which versions of a task's state stay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from muster.wire.messages import Evaluation, Retention, TaskKind, TaskPolicy, TaskSpec, TaskStatus
from muster_coordinator.domain.retention import is_kept, pinned_versions
from muster_coordinator.domain.rounds import BlobRef, Checkpoint, Origin
from muster_coordinator.domain.tasks import Run, Task

BLOB = BlobRef("blob", "0" * 64, 1)


def checkpoint(version: int) -> Checkpoint:
    return Checkpoint(version, BLOB, 0.0)


def task(name: str = "t", **fields: Any) -> Task:
    spec = TaskSpec(name=name, population="p", plan="0" * 64, policy=TaskPolicy(goal=1))
    return Task(spec, "plan", sums_in_the_clear=False, status=TaskStatus.ACTIVE, created_at=0.0, **fields)


def evaluation(every: int, **fields: Any) -> Task:
    base = task("e", **fields)
    changes = {"kind": TaskKind.EVALUATE, "evaluates": Evaluation(task="t", every=every)}
    return replace(base, spec=base.spec.model_copy(update=changes))


def test_newest_and_multiples_are_kept() -> None:
    retention = Retention(last=2, every=5)
    assert [version for version in range(1, 13) if is_kept(version, retention, newest=12)] == [5, 10, 11, 12]
    assert [version for version in range(1, 4) if is_kept(version, Retention(), newest=3)] == [3]


def test_tags_bases_and_version_zero_are_pinned() -> None:
    run = Run("r", first=8, rounds=1, goal=1, base=checkpoint(6))
    pinned = pinned_versions(
        task(tags={"a": 2, "b": 3}, checkpoint=checkpoint(5), restore=checkpoint(4), run=run), (), newest=7
    )
    assert pinned == {0, 2, 3, 4, 5, 6}
    foreign = replace(run, base=checkpoint(6), origin=Origin(task="other", version=6))
    assert pinned_versions(task(run=foreign), (), newest=7) == {0}


def test_unfinished_evaluations_pin_what_they_evaluate_now_or_next() -> None:
    run = Run("v2", first=1, rounds=1, goal=1, base=checkpoint(0), origin=Origin(task="t", version=2))
    training = task(checkpoint=checkpoint(7))
    assert pinned_versions(training, [evaluation(3, run=run)], newest=7) == {0, 2, 6, 7}
    ended = replace(evaluation(3, run=run), status=TaskStatus.COMPLETED)
    assert pinned_versions(training, [ended], newest=7) == {0, 7}
