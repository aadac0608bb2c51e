"""A queue that Cloud Tasks does not find for some minutes, after 30 days without use."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.cloud_tasks_double import CloudTasksDouble
from support.harness import TASK, Harness, problem_of

from muster.wire.messages import TaskPolicy, TaskSpec
from muster.wire.problems import ProblemType
from muster_coordinator.adapters.cloud_tasks import CloudTasksQueue

QUEUE = "projects/p/locations/l/queues/q"
TARGETS = {"aggregator": "https://aggregator.example", "committer": "https://committer.example"}


@pytest.fixture
def deployment(tmp_path, issuer):
    """Returns a coordinator over an inactive queue, and the double of that queue."""
    harness = Harness(tmp_path)
    with CloudTasksDouble(QUEUE, clock=harness.clock, issuer=issuer) as double:
        queue = CloudTasksQueue(
            "p", "l", "q", targets=TARGETS, account="a", clock=harness.clock, endpoint=double.address
        )
        harness.platform = replace(harness.inner, queue=queue)
        harness.restart()
        double.queue = "inactive"
        yield harness, double
        queue.close()


def create(harness):
    spec = TaskSpec(name=TASK, population="phones", plan=harness.plan.sha256, policy=TaskPolicy(minimum=1))
    return harness.call("POST", "/v1/tasks", body=spec.encode())


def test_request_during_activation_is_answered_503_and_may_be_repeated(deployment, caplog):
    harness, double = deployment
    harness.put_plan()
    response = create(harness)
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) >= 30
    problem = problem_of(response)
    assert problem.type is ProblemType.UNAVAILABLE
    assert "not used for 30 days" in problem.detail
    assert "MUSTER_QUEUE" in problem.detail
    assert QUEUE not in problem.detail
    assert QUEUE in caplog.text  # the operator's log names it
    assert {record.levelname for record in caplog.records} == {"WARNING"}

    double.queue = QUEUE
    assert create(harness).status_code == 201
    assert len(double) == 1


def test_tick_after_activation_opens_a_task_whose_request_was_not_repeated(deployment):
    harness, double = deployment
    harness.put_plan()
    assert create(harness).status_code == 503
    double.queue = QUEUE
    harness.clock.advance(120)
    harness.tick()
    assert len(double) == 1
