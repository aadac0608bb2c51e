"""Documents of a newer version are refused over HTTP, and nothing is written."""

from __future__ import annotations

from typing import Any

import pytest
from support.harness import POPULATION, TASK, Harness
from support.plans import sum_update

from muster.wire.messages import CheckinRequest, TaskList, TaskPolicy, TaskSpec
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import encode
from muster_coordinator.domain import names
from muster_coordinator.domain.names import RoundKey

# Requests that have to read each document.
NEEDS = {
    "task": {"checkin", "create", "show", "pause", "open", "tick"},
    "round": {"checkin", "upload", "show", "fold", "close", "sweep", "commit", "tick"},
}
KEY = RoundKey(TASK, 1, 0)


def everything(h: Harness) -> tuple[Any, ...]:
    """Returns all blobs, all versions of the task's documents, and the queue's state."""
    paths = [
        "tasks",
        names.rounds_path(TASK),
        *(f"{names.round_path(KEY)}/{counter}" for counter in ("tickets", "shards")),
    ]
    documents = [
        (document.path, document.version, dict(document.data))
        for path in paths
        for document in h.inner.documents.list(path)
    ]
    return h.blobs(), documents, [held.name for held in h.queue.held]


@pytest.fixture(params=["task", "round"])
def outdated(request, tmp_path):
    """Coordinator older than one of its documents, and an assignment issued before."""
    h = Harness(tmp_path)
    h.begin(goal=4, rounds=5, over_selection=2.0, chunk=2)
    for client in (0, 3):
        h.upload(h.assigned(client).token, sum_update(client))
    token = h.assigned(1).token
    assert h.key() == KEY
    path = names.task_path(TASK) if request.param == "task" else names.round_path(KEY)
    document = h.inner.documents.get(path)
    data = {**document.data, "schema_version": 2, "what_only_it_knows": True}
    h.inner.documents.replace(path, data, version=document.version)
    h.restart()
    return h, token, path, NEEDS[request.param]


def requests(h: Harness, token: str) -> dict[str, tuple[tuple[str, str], dict[str, Any]]]:
    work = {"task": TASK, "round": KEY.number, "epoch": KEY.epoch}
    spec = TaskSpec(name=TASK, population=POPULATION, plan=h.plan.sha256, policy=TaskPolicy(rounds=1))
    return {
        "checkin": (("POST", f"/v1/populations/{POPULATION}:checkin"), {"body": CheckinRequest(client="9").encode()}),
        "upload": (("PUT", "/v1/updates"), {"body": encode(sum_update(1)), "token": token}),
        "create": (("POST", "/v1/tasks"), {"body": spec.encode()}),
        "show": (("GET", f"/v1/tasks/{TASK}"), {}),
        "pause": (("POST", f"/v1/tasks/{TASK}:pause"), {}),
        "fold": (("POST", "/internal/fold"), {"json": {**work, "shard": 0}}),
        "close": (("POST", "/internal/close"), {"json": work}),
        "sweep": (("POST", "/internal/sweep"), {"json": work}),
        "commit": (("POST", "/internal/commit"), {"json": work}),
        "open": (("POST", "/internal/open"), {"json": {"task": TASK}}),
        "tick": (("POST", "/internal/tick"), {}),
    }


def test_newer_document_is_refused_and_nothing_is_written(outdated):
    h, token, path, needs = outdated
    before = everything(h)
    for name, (request, more) in requests(h, token).items():
        if name not in needs:
            continue
        with pytest.raises(ProblemError) as refused:
            h.ask(*request, **more)
        assert refused.value.type is ProblemType.UNAVAILABLE, name
        assert refused.value.retry_after == 10.0
        assert f"{path} has schema version 2, and this version of Muster reads 1" in refused.value.detail
        assert everything(h) == before, name


def test_work_on_newer_documents_stays_queued_for_the_newer_version(outdated):
    h, token, path, needs = outdated
    due = [held for held in h.queue.held if held.work.kind == "fold"]
    assert due
    assert [h.deliver(held, keep="fold" not in needs) for held in due] == [503 if "fold" in needs else 204] * len(due)
    assert h.call("POST", "/internal/tick").status_code == 503
    assert all(held in h.queue.held for held in due)
    # A version that reads it: here the original document, which is unchanged.
    document = h.inner.documents.get(path)
    data = {name: value for name, value in document.data.items() if name != "what_only_it_knows"}
    h.inner.documents.replace(path, {**data, "schema_version": 1}, version=document.version)
    h.upload(token, sum_update(1))
    h.upload(h.assigned(2).token, sum_update(2))
    h.deliver_all()
    assert int(h.result(1)["ids"]) == 0b1111


def test_tick_repairs_other_tasks_and_names_the_unreadable_one(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=2, rounds=2)
    key = h.key()
    document = h.inner.documents.get(names.task_path(TASK))
    # Before it, by name, a task that only a newer version can read.
    h.inner.documents.create(names.task_path("a-newer"), {**document.data, "schema_version": 2})
    for client in range(2):
        h.upload(h.assigned(client).token, sum_update(client))
    h.queue.held.clear()  # all messages are lost
    with pytest.raises(ProblemError, match="tasks/a-newer has schema version 2"):
        h.ask("POST", "/internal/tick")
    h.deliver_all()
    assert h.app.platform.round(key).value.phase == "COMMITTED"


@pytest.mark.parametrize("path", [names.task_path("later"), names.round_path(RoundKey("later", 1, 0))])
def test_unreadable_task_hides_no_other_task(path, tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=2)
    h.create_task("later", goal=2)
    h.deliver_all()
    document = h.inner.documents.get(path)
    h.inner.documents.replace(path, {**document.data, "schema_version": 2}, version=document.version)
    h.restart()
    assert {h.assigned(client).task for client in range(2)} == {TASK}
    assert h.checkin("late").status == "wait"
    listed = TaskList.decode(h.ask("GET", "/v1/tasks"))
    assert ([task.spec.name for task in listed.tasks], listed.unreadable) == ([TASK], ("later",))
