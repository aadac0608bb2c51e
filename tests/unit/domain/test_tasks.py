"""Tests of a task's transitions, as pure functions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from muster.wire.messages import TaskSpec, TaskStatus
from muster_coordinator.domain import tasks
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import BlobRef, Checkpoint
from muster_coordinator.domain.tasks import Task, TransitionError

S = TaskStatus
BASE = Checkpoint(0, BlobRef("a", "0" * 64, 1), 0.0)
NEW = Task(
    spec=TaskSpec(name="t", population="p", plan="0" * 64),
    plan_name="sum",
    sums_in_the_clear=False,
    status=S.OPENING,
    created_at=0.0,
)
ACTIVE = tasks.opened(NEW, RoundKey("t", 1, 0), BASE)
PAUSED = tasks.pause(ACTIVE)
DONE = tasks.completed(ACTIVE, BASE)
CANCELLED = tasks.cancel(ACTIVE)
BACK = tasks.rollback(ACTIVE, BASE)
HELD = tasks.rollback(PAUSED, BASE)


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        (ACTIVE, tasks.pause, S.PAUSED),
        (PAUSED, tasks.pause, S.PAUSED),
        (PAUSED, tasks.resume, S.ACTIVE),
        (ACTIVE, tasks.resume, S.ACTIVE),
        (replace(NEW, status=S.PAUSED), tasks.resume, S.OPENING),  # paused because its first broadcast failed
        (replace(BACK, status=S.PAUSED), tasks.resume, S.OPENING),
        (NEW, tasks.cancel, S.CANCELLED),
        (PAUSED, tasks.cancel, S.CANCELLED),
        (CANCELLED, tasks.cancel, S.CANCELLED),
        (PAUSED, lambda task: tasks.rollback(task, BASE), S.OPENING),
        (BACK, lambda task: tasks.rollback(task, BASE), S.OPENING),
        (BACK, lambda task: tasks.opened(task, RoundKey("t", 1, 1), BASE), S.ACTIVE),
        (HELD, lambda task: tasks.opened(task, RoundKey("t", 1, 1), BASE), S.PAUSED),
        (tasks.rollback(HELD, BASE), lambda task: tasks.opened(task, RoundKey("t", 1, 1), BASE), S.PAUSED),
        (tasks.resume(HELD), lambda task: tasks.opened(task, RoundKey("t", 1, 1), BASE), S.ACTIVE),
        (HELD, tasks.resume, S.OPENING),
        (replace(HELD, status=S.PAUSED, note="it failed"), tasks.resume, S.OPENING),
        (tasks.opened(HELD, RoundKey("t", 1, 1), BASE), tasks.resume, S.ACTIVE),
    ],
)
def test_allowed_transitions(before, change, after):
    assert change(before).status is after


@pytest.mark.parametrize(
    ("before", "change"),
    [
        (NEW, tasks.pause),
        (NEW, tasks.resume),
        (NEW, lambda task: tasks.rollback(task, BASE)),
        (DONE, tasks.pause),
        (DONE, tasks.resume),
        (DONE, tasks.cancel),
        (DONE, lambda task: tasks.rollback(task, BASE)),
        (CANCELLED, tasks.pause),
        (CANCELLED, tasks.resume),
        (CANCELLED, lambda task: tasks.rollback(task, BASE)),
    ],
)
def test_forbidden_transitions_name_the_reason(before, change):
    with pytest.raises(TransitionError, match=r"^Task t can't be .*: it (is|has) "):
        change(before)


def test_task_never_returns_to_an_older_round():
    later = tasks.at_round(ACTIVE, RoundKey("t", 2, 1), BASE)
    assert later.current == RoundKey("t", 2, 1)
    for old in (RoundKey("t", 1, 5), RoundKey("t", 2, 0)):
        assert tasks.at_round(later, old, BASE) == later
    assert NEW.current is None
    assert BACK.restore == BASE
    assert tasks.opened(BACK, RoundKey("t", 1, 1), BASE).restore is None
    assert [task.ended for task in (NEW, ACTIVE, PAUSED, DONE, CANCELLED)] == [False, False, False, True, True]


def test_rollback_keeps_the_checkpoint_and_the_pause():
    back = tasks.rollback(replace(ACTIVE, note="an old note"), BASE)
    assert (back.restore, back.note, back.pause_once_open) == (BASE, "", False)
    held = tasks.rollback(tasks.pause(ACTIVE), BASE)
    assert held.pause_once_open is True
    assert tasks.rollback(held, BASE).pause_once_open is True


def test_resume_clears_the_note_and_the_pending_pause():
    held = tasks.rollback(tasks.pause(ACTIVE), BASE)
    assert tasks.resume(held).pause_once_open is False
    stopped = replace(held, status=S.PAUSED, note="it failed")
    resumed = tasks.resume(stopped)
    assert (resumed.note, resumed.pause_once_open) == ("", False)


@pytest.mark.parametrize(
    ("change", "action"),
    [
        (tasks.pause, "paused"),
        (tasks.resume, "resumed"),
        (lambda task: tasks.rollback(task, BASE), "rolled back"),
        (tasks.cancel, "cancelled"),
    ],
)
def test_forbidden_transition_names_the_action(change, action):
    done = tasks.completed(ACTIVE, BASE)
    with pytest.raises(TransitionError, match=f"^Task t can't be {action}: it is completed$"):
        change(done)
