"""Analytics: a question with a deadline, which is asked once."""

from __future__ import annotations

import pytest
from support.harness import POPULATION, TASK, Harness
from support.plans import sum_update

from muster.wire.messages import Phase, TaskKind, TaskPolicy, TaskSpec, TaskStatus, WaitReason
from muster_coordinator.domain import names


@pytest.fixture
def harness(tmp_path):
    h = Harness(tmp_path)
    h.put_plan()
    policy = TaskPolicy(rounds=1, goal=3, minimum=2, over_selection=2.0, round_seconds=600.0)
    spec = TaskSpec(
        name=TASK, population=POPULATION, plan=h.plan.sha256, policy=policy, kind=TaskKind.ANALYTICS
    )  # fmt: skip
    h.ask("POST", "/v1/tasks", body=spec.encode())
    h.deliver_all()
    return h


def is_over(h):
    """Returns whether the task has ended for clients, with nothing left behind."""
    member = h.inner.documents.get(names.member_path(POPULATION, TASK))
    return member is None and h.checkin("z").reason is WaitReason.NO_TASK and not h.leftovers()


def answer(h, clients):
    for number, client in enumerate(clients):
        h.upload(h.assigned(client).token, sum_update(number))


def test_question_is_answered_at_its_goal(harness):
    answer(harness, "abc")
    harness.deliver_all()
    view = harness.task()
    assert (view.status, view.note, view.checkpoint) == (TaskStatus.COMPLETED, "", 1)
    assert is_over(harness)


def test_question_is_answered_at_its_deadline_above_the_minimum(harness):
    answer(harness, "ab")
    harness.clock.advance(601)
    harness.settle()
    assert (harness.task().status, harness.task().note) == (TaskStatus.COMPLETED, "")
    assert harness.committed()[0].tally.folded == 2


def test_question_below_its_minimum_is_not_asked_again(harness):
    answer(harness, "a")
    harness.clock.advance(601)
    harness.settle()
    view = harness.task()
    assert view.status is TaskStatus.COMPLETED
    assert view.note == "not answered: 1 updates arrived by the deadline; the minimum is 2"
    assert (view.current.phase, view.current.epoch, view.checkpoint) == (Phase.ABANDONED, 0, 0)
    assert len(harness.rounds()) == 1
    assert is_over(harness)


def test_question_without_clients_ends_at_its_deadline(harness):
    harness.clock.advance(601)
    harness.settle()
    view = harness.task()
    assert view.status is TaskStatus.COMPLETED
    assert view.note == "not answered: 0 updates arrived by the deadline; the minimum is 2"
    assert len(harness.rounds()) == 1
    assert is_over(harness)


def test_question_whose_updates_are_dropped_is_not_asked_again(tmp_path):
    h = Harness(tmp_path)
    h.put_plan()
    policy = TaskPolicy(rounds=1, goal=3, minimum=3, max_update_norm=1.0)
    spec = TaskSpec(name=TASK, population=POPULATION, plan=h.plan.sha256, policy=policy, kind=TaskKind.ANALYTICS)
    h.ask("POST", "/v1/tasks", body=spec.encode())
    h.deliver_all()
    for number, value in enumerate((0.0, 0.0, 99.0)):
        h.upload(h.assigned(number).token, sum_update(number, value))
    h.deliver_all()
    assert h.task().status is TaskStatus.COMPLETED
    assert h.task().note == "not answered: 2 updates could be folded; the minimum is 3"
    assert len(h.rounds()) == 1


def test_paused_question_ends_when_it_is_resumed(harness):
    answer(harness, "a")
    harness.operate("pause")
    harness.clock.advance(601)
    harness.settle()
    assert harness.task().status is TaskStatus.PAUSED
    harness.operate("resume")
    harness.settle()
    assert harness.task().status is TaskStatus.COMPLETED
    assert harness.task().note.startswith("not answered: ")
