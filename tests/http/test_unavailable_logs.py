"""Logs of requests that are answered 503: reason, level, and a traceback only for a failure."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from support.cloud_tasks_double import CloudTasksDouble
from support.harness import TASK, Harness, problem_of
from support.plans import SumRuntime, folded_by_graphs, sum_plan, sum_update
from werkzeug.test import Client
from werkzeug.wrappers import Request

from muster.wire.messages import TaskPolicy, TaskSpec
from muster.wire.problems import ProblemType
from muster_coordinator.adapters.cloud_tasks import CloudTasksQueue
from muster_coordinator.http import router
from muster_coordinator.ports import ConflictError, StoreError, UnavailableError

QUEUE = "projects/p/locations/l/queues/q"
TARGETS = {"aggregator": "https://aggregator.example", "committer": "https://committer.example"}
LOGGERS = ("muster_coordinator.http.router", "muster_coordinator.use_cases.maintenance")


@pytest.fixture(autouse=True)
def _all_levels(caplog):
    caplog.set_level(logging.INFO, logger="muster_coordinator")


@pytest.fixture
def inactive(tmp_path, issuer):
    """Returns a coordinator with a plan, over a queue that Cloud Tasks does not find now."""
    harness = Harness(tmp_path)
    with CloudTasksDouble(QUEUE, clock=harness.clock, issuer=issuer) as double:
        queue = CloudTasksQueue(
            "p", "l", "q", targets=TARGETS, account="a", clock=harness.clock, endpoint=double.address
        )
        harness.platform = replace(harness.inner, queue=queue)
        harness.restart()
        harness.put_plan()
        double.queue = "inactive"
        yield harness
        queue.close()


class Failing:
    """Store whose every call raises an error."""

    def __init__(self, error):
        self.error = error

    def __getattr__(self, name):
        def fail(*_, **__):
            raise self.error

        return fail


def create(harness):
    spec = TaskSpec(name=TASK, population="phones", plan=harness.plan.sha256, policy=TaskPolicy(minimum=1))
    return harness.call("POST", "/v1/tasks", body=spec.encode())


def entries(caplog):
    """Returns each line's level, its message, and whether it has a traceback."""
    return [
        (record.levelname, record.getMessage(), bool(record.exc_info))
        for record in caplog.records
        if record.name in LOGGERS
    ]


def test_busy_fold_is_not_a_warning(tmp_path, caplog):
    h = Harness(tmp_path, plan=folded_by_graphs(sum_plan()), runtime=SumRuntime())
    h.begin(goal=4, minimum=2, chunk=2, shards=1)
    for client in range(2):
        h.upload(h.assigned(client).token, sum_update(client))
    aggregator = replace(h.app.update_aggregator, _patience=0.01)
    app = replace(h.app, update_aggregator=aggregator)
    fold = {"task": TASK, "round": 1, "epoch": 0, "shard": 0}
    with aggregator._graph_locks.for_name(TASK):
        h.http = Client(Request.application(router(app)))
        caplog.clear()
        response = h.call("POST", "/internal/fold", json=fold)
    reason = f"Updates of task {TASK} are being folded here; try again later"
    assert (response.status_code, problem_of(response).detail) == (503, reason)
    assert "Retry-After" in response.headers
    assert entries(caplog) == [("INFO", f"POST /internal/fold: {reason}", False)]


def test_inactive_queue_is_a_warning_that_names_it(inactive, caplog):
    assert create(inactive).status_code == 503
    ((level, message, traceback),) = entries(caplog)
    assert (level, traceback) == ("WARNING", False)
    assert message.startswith(f"POST /v1/tasks: {QUEUE}: ")
    assert "the queue becomes active again after 30 days without use" in message


def test_tick_over_an_inactive_queue_logs_no_error(inactive, caplog):
    assert create(inactive).status_code == 503
    caplog.clear()
    assert inactive.call("POST", "/internal/tick").status_code == 503
    lines = entries(caplog)
    assert [(level, traceback) for level, _, traceback in lines] == [("WARNING", False)] * 2
    assert lines[0][1].startswith(f"Task {TASK} can't be repaired now: {QUEUE}: ")


def test_lost_races_are_not_a_warning(tmp_path, caplog, monkeypatch):
    h = Harness(tmp_path)
    h.begin(goal=4)

    def conflict(*_, **__):
        raise ConflictError("changed")

    monkeypatch.setattr(h.inner.documents, "replace", conflict)
    caplog.clear()
    response = h.call("POST", f"/v1/tasks/{TASK}:pause")
    reason = f"Task '{TASK}' is being changed by others; try again"
    assert (response.status_code, problem_of(response).detail) == (503, reason)
    assert entries(caplog) == [("INFO", f"POST /v1/tasks/{TASK}:pause: {reason}", False)]


def failing(tmp_path, error):
    h = Harness(tmp_path)
    return Client(Request.application(router(h.application(platform=replace(h.inner, documents=Failing(error))))))


def test_store_without_an_answer_is_a_warning_with_the_traceback(tmp_path, caplog):
    response = failing(tmp_path, UnavailableError("/srv/state.db: disk I/O error")).get("/v1/tasks")
    problem = problem_of(response)
    assert (response.status_code, problem.type) == (503, ProblemType.UNAVAILABLE)
    assert "srv" not in problem.detail
    assert entries(caplog) == [("WARNING", "GET /v1/tasks: /srv/state.db: disk I/O error", True)]


def test_store_failure_is_an_error_with_the_traceback(tmp_path, caplog):
    assert failing(tmp_path, StoreError("/srv/state.db: no database")).get("/v1/tasks").status_code == 500
    assert entries(caplog) == [("ERROR", "GET /v1/tasks failed", True)]
