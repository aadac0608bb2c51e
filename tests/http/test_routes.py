"""Responses and refusals of every route, as a client sees them."""

from __future__ import annotations

import hashlib
import json

import pytest
from support.harness import POPULATION, TASK, Harness
from support.plans import every_dtype_plan, sum_update

from muster.wire.messages import CheckpointList, RoundList, TaskList, TaskStatus
from muster.wire.plan import CONTENT_TYPE, Plan
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import decode
from muster_coordinator.http import FUNCTIONS, function_for, router

P = ProblemType


@pytest.fixture(scope="module")
def h(tmp_path_factory):
    """Task in its third round, with clients 0 and 1 in each of the first two."""
    h = Harness(tmp_path_factory.mktemp("routes"))
    h.begin(goal=2, rounds=5, over_selection=10.0)
    for _ in range(2):
        for client in (0, 1):
            h.upload(h.assigned(client).token, sum_update(client))
        h.deliver_all()
    return h


def refused(h, *request, **more):
    with pytest.raises(ProblemError) as error:
        h.ask(*request, **more)
    return error.value


def test_every_function_serves_health_checks(h):
    for function in FUNCTIONS:
        routes = {(route.method, route.path) for route in router(h.app, function).routes}
        assert {("GET", "/health"), ("GET", "/healthz")} <= set(routes)
    assert h.ask("GET", "/health") == h.ask("GET", "/healthz") == b"ok\n"


def test_each_route_is_served_by_exactly_one_function(h):
    example = {
        "task": "t",
        "population": "p",
        "sha256": "0" * 64,
        "round": "1",
        "version": "1",
        "tag": "t",
        "request": "r",
    }
    for function in FUNCTIONS:
        for route in router(h.app, function).routes:
            path = route.path.format(**example)
            assert router(h.app, function).owns(route.method, path)
            if path.startswith(("/v1/", "/internal/")):  # without the common routes
                assert function_for(route.method, path) == function, (route.method, path)


def test_405_lists_allowed_methods(h):
    for method, path, allowed in (
        ("PUT", f"/v1/tasks/{TASK}", {"DELETE", "GET", "HEAD", "PATCH"}),
        ("GET", "/v1/updates", {"PUT"}),
        ("PATCH", f"/v1/plans/{h.plan.sha256}", {"GET", "HEAD", "PUT"}),
        ("GET", "/internal/tick", {"POST"}),
    ):
        response = h.call(method, path)
        assert response.status_code == 405
        assert set(response.headers["Allow"].split(", ")) == allowed


HASH = "0" * 64
NOT_THERE = (
    ("GET", "/"),
    ("GET", "/v1/tasks/"),
    ("GET", "/v1/tasks/no-such-task"),
    ("GET", "/v1/tasks/UPPER"),
    ("GET", "/v1/tasks/..%2F..%2Fetc"),
    ("GET", "/v1/tasks/%2e%2e/rounds"),
    ("GET", f"/v1/tasks/{TASK}%00"),
    ("GET", f"/v1/tasks/{TASK}%0a"),
    ("GET", f"/v1/tasks/{'a' * 64}"),
    ("GET", f"/v1/plans/{HASH}"),
    ("GET", f"/v1/plans/{HASH.replace('0', 'A')}"),
    ("GET", "/v1/plans/..%2f..%2fsecret"),
    ("GET", "/v1/plans/../tasks"),
    ("POST", "/v1/populations/..%2Fphones:checkin"),
    ("GET", f"/v1/tasks/{TASK}/rounds/3/result"),
    ("GET", f"/v1/tasks/{TASK}/rounds/0/result"),
    ("GET", f"/v1/tasks/{TASK}/rounds/-1/result"),
    ("GET", f"/v1/tasks/{TASK}/rounds/{'9' * 40}/result"),
    ("GET", f"/v1/tasks/{TASK}/rounds/1.5/result"),
    ("GET", f"/v1/tasks/{TASK}/checkpoints/3"),
    ("GET", f"/v1/tasks/{TASK}/checkpoints/{'9' * 40}"),
    ("GET", "/v1/tasks/no-such-task/checkpoints/0"),
    ("GET", "/v1/tasks/no-such-task/rounds"),
    ("GET", f"/v1/tasks/no-such-task/rounds/1/broadcast?sha256={HASH}"),
    ("POST", "/v1/tasks/no-such-task:pause"),
    ("POST", f"/v1/tasks/{TASK}:explode"),
    ("POST", "/internal/explode"),
    ("GET", "/v1/updates/0000/sum/000001-0000/0000/abc"),
    ("GET", "/partials/sum/000001-0000/0000-000000"),
)


@pytest.mark.parametrize(("method", "path"), NOT_THERE)
def test_missing_resources_are_not_found(method, path, h):
    assert refused(h, method, path).type is P.NOT_FOUND


def test_invalid_check_in_names_the_field(h):
    path = f"/v1/populations/{POPULATION}:checkin"
    for body, fields in (
        (b"", {"(document)"}),
        (b"{", {"(document)"}),
        (b"\xff\xfe", {"(document)"}),
        (b"[]", {"(document)"}),
        (b"[" * 5000, {"(document)"}),
        (b'{"client": ""}', {"client"}),
        (b'{"client": 1, "cookie": [], "more": 1}', {"client", "cookie", "more"}),
        (json.dumps({"client": "c" * 257, "cookie": "c" * 4097}).encode(), {"client", "cookie"}),
        (b'{"client": "\\ud800"}', {"(document)"}),
    ):
        problem = refused(h, "POST", path, body=body)
        assert problem.type is P.INVALID_REQUEST
        assert {field.path for field in problem.fields} == fields, body
    assert refused(h, "POST", path, body=b" " * (1 << 17)).type is P.TOO_LARGE


def test_invalid_task_names_the_fields(h):
    spec = {"name": "Bad name", "population": POPULATION, "plan": "x", "policy": {"goal": 0, "chunk": 1, "rouds": 3}}
    problem = refused(h, "POST", "/v1/tasks", json=spec)
    assert {field.path for field in problem.fields} == {"name", "plan", "policy.goal", "policy.chunk", "policy.rouds"}
    problem = refused(
        h, "POST", "/v1/tasks", json={**spec, "policy": {"goal": 1, "minimum": 2}, "name": "a", "plan": HASH}
    )
    assert "above goal" in problem.detail
    for number in ("NaN", "Infinity", "1e400"):
        body = json.dumps({"name": "a", "population": "p", "plan": HASH}).encode()[:-1]
        body += f', "policy": {{"round_seconds": {number}}}}}'.encode()
        assert refused(h, "POST", "/v1/tasks", body=body).type is P.INVALID_REQUEST


def test_invalid_internal_work_names_the_fields(h):
    for kind in ("fold", "close", "sweep", "commit"):
        problem = refused(h, "POST", f"/internal/{kind}", json={"task": "../x", "round": "one"})
        assert {field.path for field in problem.fields} == {"task", "round", "epoch"}
    assert refused(h, "POST", "/internal/open", json={}).type is P.INVALID_REQUEST
    assert h.call("POST", "/internal/tick").status_code == 204
    for part in ("x", "rest-x", "0000", "../closing", "9999-999999", "-1--1"):
        body = {"task": TASK, "round": 3, "epoch": 0, "part": part}
        assert h.call("POST", "/internal/fold", json=body).status_code in (204, 400), part


def test_client_gets_its_plan_without_server_parts(h):
    assignment = h.assigned(50)
    response = h.call("GET", assignment.plan.url)
    assert response.content_type == CONTENT_TYPE
    assert len(response.data) == assignment.plan.size
    plan = Plan.decode(response.data, expected=assignment.plan.sha256)
    assert plan.manifest == h.plan.manifest
    assert set(plan.parts) == {h.plan.manifest.stages.work.graph.sha256}


def test_only_the_open_rounds_broadcast_is_served(h):
    broadcast = h.assigned(51).broadcast
    data = h.ask("GET", broadcast.url)
    assert (len(data), hashlib.sha256(data).hexdigest()) == (broadcast.size, broadcast.sha256)
    assert int(decode(data)["total"]) == 2 * 3
    path = f"/v1/tasks/{TASK}/rounds"
    for url, kind in (
        (f"{path}/3/broadcast", P.INVALID_REQUEST),
        (f"{path}/3/broadcast?sha256={HASH}", P.ROUND_CLOSED),
        (f"{path}/2/broadcast?sha256={broadcast.sha256}", P.ROUND_CLOSED),
        (f"{path}/4/broadcast?sha256={broadcast.sha256}", P.ROUND_CLOSED),
    ):
        assert refused(h, "GET", url).type is kind


def test_immutable_content_has_etag_and_ranges(h):
    for url in (f"/v1/plans/{h.plan.sha256}", h.assigned(52).broadcast.url, f"/v1/tasks/{TASK}/checkpoints/1"):
        whole = h.call("GET", url)
        assert whole.status_code == 200
        assert "immutable" in whole.headers["Cache-Control"]
        etag = whole.headers["ETag"]
        again = h.call("GET", url, headers={"If-None-Match": etag})
        assert (again.status_code, again.data) == (304, b"")
        assert h.call("GET", url, headers={"If-None-Match": '"other"'}).status_code == 200
        part = h.call("GET", url, headers={"Range": "bytes=10-19", "If-Range": etag})
        assert (part.status_code, part.data) == (206, whole.data[10:20])
        assert part.headers["Content-Range"] == f"bytes 10-19/{len(whole.data)}"
        rest = h.call("GET", url, headers={"Range": "bytes=-5"})
        assert (rest.status_code, rest.data) == (206, whole.data[-5:])
        beyond = h.call("GET", url, headers={"Range": f"bytes={len(whole.data)}-"})
        assert beyond.status_code in (400, 416)
        head = h.call("HEAD", url)
        assert (head.status_code, head.data, head.headers["Content-Length"]) == (200, b"", str(len(whole.data)))


def test_reading_a_result_does_not_read_later_rounds(tmp_path, monkeypatch):
    h = Harness(tmp_path)
    h.begin(rounds=12, goal=1)
    for number in range(1, 13):
        h.upload(h.assigned(number).token, sum_update(number))
        h.deliver_all()
    lists, read = [], h.inner.documents.list
    monkeypatch.setattr(h.inner.documents, "list", lambda *path, **more: lists.append(read(*path, **more)) or lists[-1])
    assert h.result(2)["ids"] == 1 << 2
    assert [len(documents) for documents in lists] == [4]
    assert refused(h, "GET", f"/v1/tasks/{TASK}/rounds/13/result").type is P.NOT_FOUND


def test_operator_reads_tasks_rounds_results_and_checkpoints(h):
    assert [task.spec.name for task in TaskList.decode(h.ask("GET", "/v1/tasks")).tasks] == [TASK]
    assert (h.task().checkpoint, h.task().current.round, h.task().plan_name) == (2, 3, "client_ids")
    path = f"/v1/tasks/{TASK}/rounds"
    first = RoundList.decode(h.ask("GET", f"{path}?limit=2"))
    second = RoundList.decode(h.ask("GET", f"{path}?limit=2&after={first.next}"))
    assert [round_.round for page in (first, second) for round_ in page.rounds] == [1, 2, 3]
    assert second.next is None
    assert first.rounds[0].metrics == {"ids": 3.0, "count": 2.0}
    assert (first.rounds[0].folded, first.rounds[0].assigned, first.rounds[0].reported) == (2, 2, 2)
    for limit in ("0", "1001", "x", "-1", "²"):
        assert refused(h, "GET", f"{path}?limit={limit}").type is P.INVALID_REQUEST
    assert {name: int(value) for name, value in h.result(2).items() if name != "value"} == {"ids": 3, "count": 2}
    checkpoints = CheckpointList.decode(h.ask("GET", f"/v1/tasks/{TASK}/checkpoints")).checkpoints
    assert [item.version for item in checkpoints] == [0, 1, 2]
    for item in checkpoints:
        data = h.ask("GET", item.url)
        assert (len(data), hashlib.sha256(data).hexdigest()) == (item.size, item.sha256)
    assert [int(decode(h.checkpoint(version))["total"]) for version in (0, 1, 2)] == [0, 3, 6]


def test_plan_is_stored_once_complete_and_under_its_hash(tmp_path):
    h = Harness(tmp_path)
    data, path = h.plan.encode(), f"/v1/plans/{h.plan.sha256}"
    other = every_dtype_plan().encode()
    for body in (
        b"",
        data[:-1],
        data[:100],
        other,
        h.plan.for_client().encode(),
        data.replace(b"graph of", b"grave of"),
    ):
        assert refused(h, "PUT", path, body=body).type is P.PLAN_INVALID
    assert h.blobs() == []
    assert h.call("PUT", path, body=data).status_code == 201
    assert h.call("PUT", path, body=data).status_code == 200


def test_task_is_created_once_under_its_name(tmp_path):
    h = Harness(tmp_path)
    with pytest.raises(ProblemError, match="no plan") as error:
        h.create_task()
    assert error.value.type is P.NOT_FOUND
    h.begin(goal=2)
    assert h.create_task(goal=2).status is TaskStatus.ACTIVE
    with pytest.raises(ProblemError, match="another plan or policy") as error:
        h.create_task(goal=3)
    assert error.value.type is P.CONFLICT
    assert len(h.rounds()) == 1


def test_task_status_restricts_operations(tmp_path):
    h = Harness(tmp_path)
    h.put_plan()
    h.create_task(goal=1, rounds=1)

    def conflict(verb, **more):
        with pytest.raises(ProblemError) as error:
            h.operate(verb, **more)
        assert error.value.type is P.CONFLICT, verb
        assert TASK in error.value.detail

    conflict("pause")
    assert refused(h, "POST", f"/v1/tasks/{TASK}:rollback", json={"version": 0}).type is P.NOT_FOUND
    assert refused(h, "POST", f"/v1/tasks/{TASK}:rollback", json={"version": -1}).type is P.INVALID_REQUEST
    h.deliver_all()
    assert h.operate("pause").status is TaskStatus.PAUSED
    assert h.operate("pause").status is TaskStatus.PAUSED
    assert h.checkin(1).reason.value == "task_paused"
    assert h.operate("resume").status is TaskStatus.ACTIVE
    h.upload(h.assigned(1).token, sum_update(1))
    h.deliver_all()
    assert h.task().status is TaskStatus.COMPLETED
    for verb in ("pause", "resume", "cancel"):
        conflict(verb)
    conflict("rollback", version=0)
    assert h.checkin(1).reason.value == "no_task"
    assert len(h.checkpoint(1)) == len(h.checkpoint(0))


def test_cancelled_task_retains_only_its_checkpoints(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=2, rounds=3)
    for client in (0, 1):
        h.upload(h.assigned(client).token, sum_update(client))
    h.deliver_all()
    h.upload(h.assigned(2).token, sum_update(2))
    assert h.operate("cancel").status is TaskStatus.CANCELLED
    assert h.operate("cancel").status is TaskStatus.CANCELLED
    h.deliver_all()
    assert {name.partition("/")[0] for name in h.blobs()} == {"plans", "checkpoints", "results"}
    assert len(h.checkpoint(1)) > 0
    assert h.task().current.phase.value == "ABANDONED"


def test_recent_contributor_waits_according_to_its_cookie(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=1, rounds=3, separation_seconds=100)
    receipt = h.upload(h.assigned("a").token, sum_update(0))
    h.deliver_all()
    waiting = h.checkin("a", cookie=receipt.cookie)
    assert (waiting.reason.value, waiting.retry_after, waiting.cookie) == ("too_soon", 100, receipt.cookie)
    assert h.checkin("b", cookie="nonsense").status == "assigned"
    h.clock.advance(100)
    h.settle(minutes=1)
    h.clock.advance(600)
    h.settle()
    assert h.checkin("a", cookie=receipt.cookie).status == "assigned"
