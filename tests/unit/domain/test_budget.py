"""Tests of the number of rounds that a task may still run, as pure functions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.plans import sum_plan

from muster.wire.manifest import Release
from muster.wire.messages import TaskPolicy, TaskSpec, TaskStatus
from muster_coordinator.domain import tasks
from muster_coordinator.domain.budget import has_next, shortfall
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import BlobRef, Checkpoint
from muster_coordinator.domain.tasks import Run, Task

MANIFEST = sum_plan().manifest
BASE = Checkpoint(0, BlobRef("a", "0" * 64, 1), 0.0)
SPEC = TaskSpec(name="t", population="p", plan="0" * 64)
FREE = Task(spec=SPEC, plan_name="sum", sums_in_the_clear=False, status=TaskStatus.ACTIVE, created_at=0.0)
DRIVEN = replace(FREE, spec=SPEC.model_copy(update={"driven": True}))
RUN = Run("r", first=7, rounds=2, goal=1, base=BASE)
POLICY = TaskPolicy(rounds=3, goal=1, minimum=1)


@pytest.mark.parametrize(
    ("task", "number", "line", "most", "expected"),
    [
        (FREE, 2, 2, None, True),
        (FREE, 3, 3, None, False),
        (FREE, 8, 2, None, True),  # after rollbacks
        (FREE, 8, 2, 8, False),
        (FREE, 7, 2, 8, True),
        (DRIVEN, 7, 7, None, False),
        (replace(DRIVEN, run=RUN), 7, 7, None, True),
        (replace(DRIVEN, run=RUN), 8, 8, None, False),
        (replace(DRIVEN, run=RUN), 7, 7, 7, False),
    ],
)
def test_rounds_count_on_the_line_and_towards_the_authors_limit(task, number, line, most, expected):
    release = None if most is None else Release(minimum=1, max_rounds=most)
    manifest = MANIFEST.model_copy(update={"release": release})
    assert has_next(task, RoundKey("t", number, 0), line=line, policy=POLICY, manifest=manifest) is expected


def test_note_names_the_rounds_that_the_author_does_not_allow():
    assert "2 of 3 are committed" in shortfall(FREE, line=2, policy=POLICY)
    assert shortfall(FREE, line=3, policy=POLICY) == ""
    assert shortfall(DRIVEN, line=2, policy=POLICY) == ""


def test_reopened_task_opens_from_its_newest_checkpoint():
    newest = replace(BASE, version=3)
    after = tasks.reopened(replace(FREE, number=3, checkpoint=BASE), newest)
    assert (after.status, after.checkpoint, after.restore) == (TaskStatus.OPENING, newest, newest)
    opened = tasks.opened(after, RoundKey("t", 4, 0), newest)
    assert (opened.status, opened.number, opened.restore) == (TaskStatus.ACTIVE, 4, None)


def test_checkpoint_without_a_line_counts_every_round():
    assert Checkpoint(5, BASE.blob, 0.0).rounds_on_line == 5
    assert Checkpoint(5, BASE.blob, 0.0, line=2).rounds_on_line == 2
