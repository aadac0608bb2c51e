"""Tests of the transitions of driven tasks, as pure functions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from muster.wire.messages import RunStatus, TaskPolicy, TaskSpec, TaskStatus
from muster_coordinator.domain import runs, tasks
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import BlobRef, Checkpoint, Origin
from muster_coordinator.domain.tasks import Run, Task, TransitionError

S = TaskStatus
BASE = Checkpoint(0, BlobRef("a", "0" * 64, 1), 0.0)
FIRST = Checkpoint(1, BlobRef("b", "1" * 64, 1), 1.0)
NEW = Task(
    spec=TaskSpec(name="t", population="p", plan="0" * 64, driven=True),
    plan_name="sum",
    sums_in_the_clear=False,
    status=S.OPENING,
    created_at=0.0,
)
RUN = Run("r", first=1, rounds=2, goal=3, base=BASE)
KEY = RoundKey("t", 1, 0)
LAST = RoundKey("t", 2, 0)
IDLE = runs.ready(NEW, BASE)
STARTED = runs.start(IDLE, RUN)
ACTIVE = tasks.opened(STARTED, KEY, BASE)
LATE = tasks.at_round(ACTIVE, LAST, FIRST)
PAUSED = tasks.pause(ACTIVE)
DONE = runs.finished(LATE, LAST, FIRST)
COMPLETED = runs.complete(IDLE)


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        (NEW, lambda task: runs.ready(task, BASE), S.IDLE),
        (IDLE, tasks.pause, S.PAUSED),
        (IDLE, tasks.resume, S.IDLE),
        (tasks.pause(IDLE), tasks.resume, S.IDLE),
        (IDLE, lambda task: runs.start(task, RUN), S.OPENING),
        (IDLE, runs.complete, S.COMPLETED),
        (tasks.pause(IDLE), runs.complete, S.COMPLETED),
        (COMPLETED, runs.complete, S.COMPLETED),
        (IDLE, tasks.cancel, S.CANCELLED),
        (STARTED, lambda task: tasks.rollback(task, BASE), S.IDLE),
        (ACTIVE, lambda task: tasks.rollback(task, BASE), S.IDLE),
        (PAUSED, lambda task: tasks.rollback(task, BASE), S.PAUSED),
        (PAUSED, tasks.resume, S.ACTIVE),
        (replace(STARTED, status=S.PAUSED, note="it failed"), tasks.resume, S.OPENING),
        (replace(NEW, status=S.PAUSED, note="it failed"), tasks.resume, S.OPENING),
        (LATE, lambda task: runs.finished(task, LAST, FIRST), S.IDLE),
        (LATE, lambda task: runs.finished(task, KEY, FIRST), S.ACTIVE),  # a repeat of an older round
        (tasks.pause(LATE), lambda task: runs.finished(task, LAST, FIRST), S.PAUSED),
        (tasks.rollback(LATE, BASE), lambda task: runs.finished(task, LAST, FIRST), S.IDLE),
    ],
)
def test_allowed_transitions(before, change, after):
    assert change(before).status is after


def test_run_moves_the_checkpoint_when_a_round_is_committed():
    other = replace(RUN, base=FIRST, origin=Origin(task="u", version=1))
    opened = tasks.opened(runs.start(IDLE, other), KEY, FIRST)
    assert (opened.checkpoint, opened.restore, opened.running) == (BASE, None, True)
    assert (DONE.checkpoint, DONE.running, DONE.initial, DONE.run) == (FIRST, False, BASE, RUN)


def test_rollback_and_cancellation_end_the_run():
    for ended in (tasks.rollback(ACTIVE, FIRST), tasks.cancel(ACTIVE), tasks.cancel(STARTED)):
        assert (ended.running, ended.restore, ended.run) == (False, None, RUN)
        assert runs.run_status(ended, RUN, None) is RunStatus.CANCELLED
    assert tasks.rollback(ACTIVE, FIRST).checkpoint == FIRST
    assert runs.run_status(PAUSED, RUN, None) is RunStatus.RUNNING


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (ACTIVE, "Task t can't start run 's': its run 'r' is in progress; repeat the request when that is done"),
        (PAUSED, "Task t can't start run 's': its run 'r' is in progress; repeat the request when that is done"),
        (tasks.pause(IDLE), "Task t can't start run 's': it is paused; resume it first"),
        (COMPLETED, "Task t can't start run 's': it is completed"),
        (tasks.cancel(ACTIVE), "Task t can't start run 's': it is cancelled"),
    ],
)
def test_run_is_started_by_an_idle_task_only(task, text):
    with pytest.raises(TransitionError) as refused:
        runs.start(task, replace(RUN, request="s"))
    assert str(refused.value) == text


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (NEW, "Task t can't be completed: it is opening"),
        (
            ACTIVE,
            "Task t can't be completed: its run 'r' is in progress; wait until that is done, or cancel the task",
        ),
        (tasks.cancel(IDLE), "Task t can't be completed: it is cancelled"),
    ],
)
def test_idle_task_only_is_completed(task, text):
    with pytest.raises(TransitionError) as refused:
        runs.complete(task)
    assert str(refused.value) == text


def test_new_driven_task_can_be_neither_paused_nor_rolled_back():
    for change in (tasks.pause, lambda task: tasks.rollback(task, BASE)):
        with pytest.raises(TransitionError, match=r"^Task t can't be .*: it (is|has) "):
            change(NEW)


def test_goal_of_a_run_never_falls_below_a_raised_minimum():
    policy = TaskPolicy(goal=9, minimum=5)
    assert runs.run_policy(RUN, policy).goal == 5
    assert runs.run_policy(replace(RUN, goal=7), policy).goal == 7
    assert runs.run_policy(None, policy) == policy
