"""Operators who poll get an ETag, 304 for an unchanged answer, and the pace to poll at."""

from __future__ import annotations

import pytest
from support.harness import TASK, Harness, problem_of
from support.plans import sum_update
from support.served import served
from werkzeug.wrappers import Request

from muster.operator import Operator
from muster.wire.messages import Phase, RoundView
from muster.wire.problems import ProblemType
from muster_coordinator.http import router

FOLLOWED = [
    "/v1/tasks",
    f"/v1/tasks/{TASK}",
    f"/v1/tasks/{TASK}/rounds",
    f"/v1/tasks/{TASK}/rounds/1",
]


@pytest.fixture
def h(tmp_path):
    h = Harness(tmp_path)
    h.begin(rounds=2, goal=2)
    return h


@pytest.mark.parametrize("path", FOLLOWED)
def test_unchanged_answer_is_304_without_a_body(h, path):
    first = h.call("GET", path)
    again = h.call("GET", path, headers={"If-None-Match": first.headers["ETag"]})
    assert (first.status_code, again.status_code, again.data) == (200, 304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    assert 1 <= int(again.headers["Retry-After"]) <= 3


@pytest.mark.parametrize("path", FOLLOWED)
def test_changed_answer_is_sent(h, path):
    etag = h.call("GET", path).headers["ETag"]
    for client in (1, 2):
        h.upload(h.assigned(client).token, sum_update(client))
    h.deliver_all()
    assert h.call("GET", path, headers={"If-None-Match": etag}).status_code == 200


def test_waiting_task_is_polled_rarely(h):
    h.operate("pause")
    assert int(h.call("GET", f"/v1/tasks/{TASK}").headers["Retry-After"]) == 10
    h.operate("resume")
    h.operate("cancel")
    assert int(h.call("GET", f"/v1/tasks/{TASK}").headers["Retry-After"]) == 60


def test_round_is_its_newest_attempt(h):
    h.assigned(1)
    h.clock.advance(700)
    h.settle()
    view = RoundView.decode(h.call("GET", f"/v1/tasks/{TASK}/rounds/1").data)
    assert (view.round, view.epoch > 0, view.phase) == (1, True, Phase.COLLECTING)


def test_round_that_has_not_opened_is_not_found(h):
    problem = problem_of(h.call("GET", f"/v1/tasks/{TASK}/rounds/2"))
    assert (problem.type, problem.detail) == (ProblemType.NOT_FOUND, f"Task {TASK} has not opened round 2")


def test_operator_follows_a_task(h):
    with served(Request.application(router(h.app))) as url, Operator(url) as operator:
        first = operator.follow_task(TASK)
        second = operator.follow_task(TASK, first)
        assert (first.changed, second.changed) == (True, False)
        assert second.answer == first.answer == operator.task(TASK)
        assert second.retry_after is not None
        assert 1 <= second.retry_after <= 3
        operator.pause(TASK)
        third = operator.follow_task(TASK, second)
        assert (third.changed, third.answer.status.value, third.retry_after) == (True, "paused", 10)
