"""Operator SDK against the coordinator's routes, over real HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.harness import Harness
from werkzeug.serving import make_server
from werkzeug.wrappers import Request

from muster.operator import EndedRounds, Operator
from muster.wire.messages import TaskPolicy, TaskStatus
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.http import router


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return Harness(tmp_path)


@pytest.fixture
def operator(harness: Harness) -> Iterator[Operator]:
    server = make_server("127.0.0.1", 0, Request.application(router(harness.app)), threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    with Operator(f"http://127.0.0.1:{server.server_port}") as operator:
        yield operator
    server.shutdown()
    thread.join()
    server.server_close()


def test_task_from_plan_to_checkpoints(harness: Harness, operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = TaskPolicy(rounds=3, goal=1)
    view = operator.create_task("sum", population="phones", plan=harness.plan, policy=policy)
    assert operator.create_task("sum", population="phones", plan=harness.plan.sha256, policy=policy).spec == view.spec
    harness.deliver_all()
    for client in range(3):
        assignment = harness.assigned(client)
        harness.upload(assignment.token, {**_update(client)})
        harness.settle()
    assert operator.task("sum").status is TaskStatus.COMPLETED
    assert [view.spec.name for view in operator.tasks().tasks] == ["sum"]
    assert [view.round for view in operator.rounds("sum", page=2)] == [1, 2, 3]
    assert [view.version for view in operator.checkpoints("sum")] == [0, 1, 2, 3]
    assert int(operator.download_checkpoint("sum", 3)["total"]) == 1 + 2 + 4
    assert int(operator.result("sum", 2)["ids"]) == 2
    monkeypatch.setattr("muster.transport.downloads.RANGE_BYTES", 10)
    assert int(operator.result("sum", 2)["ids"]) == 2


@pytest.mark.parametrize("page", [1, 2, 100])
def test_ended_rounds_are_polled_once_and_in_order(harness: Harness, operator: Operator, page: int) -> None:
    operator.create_task("sum", population="phones", plan=harness.plan, policy=TaskPolicy(rounds=3, goal=1))
    harness.deliver_all()
    ended = EndedRounds(operator, "sum", page=page)
    polled = [[view.round for view in ended.poll()]]
    for client in range(3):
        harness.upload(harness.assigned(client).token, {**_update(client)})
        harness.settle()
        polled.append([view.round for view in ended.poll()])
    assert polled == [[], [1], [2], [3]]
    assert list(ended.poll()) == []
    assert [view.round for view in EndedRounds(operator, "sum", page=page).poll()] == [1, 2, 3]


def test_pause_resume_rollback_and_cancel(harness: Harness, operator: Operator) -> None:
    operator.create_task("sum", population="phones", plan=harness.plan)
    harness.deliver_all()
    assert operator.pause("sum").status is TaskStatus.PAUSED
    assert operator.resume("sum").status is TaskStatus.ACTIVE
    with pytest.raises(ProblemError):
        operator.rollback("sum", version=7)
    assert operator.rollback("sum", version=0).checkpoint == 0
    assert operator.cancel("sum").status is TaskStatus.CANCELLED


def test_missing_resources_are_not_found(operator: Operator) -> None:
    with pytest.raises(ProblemError) as raised:
        operator.task("missing")
    assert raised.value.type is ProblemType.NOT_FOUND


def _update(client: int) -> dict[str, object]:
    from support.plans import sum_update

    return dict(sum_update(client))
