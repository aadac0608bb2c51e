"""Responses of every route reveal nothing of the coordinator's internals."""

from __future__ import annotations

import base64
import re
from dataclasses import replace

import pytest
from support.harness import SECRET, TASK, Harness, problem_of
from support.plans import sum_update
from werkzeug.test import Client
from werkzeug.wrappers import Request

from muster.wire.problems import ProblemType
from muster.wire.tensors import encode
from muster_coordinator.http import router
from muster_coordinator.ports import StoreError

DEEP = b"[" * 60_000
WORDS = {
    "sha256": "0" * 64,
    "task": TASK,
    "population": "phones",
    "round": "1",
    "version": "1",
    "request": "r",
    "tag": "t",
}
TOKENS = {
    "none": None,
    "text": "no token",
    "deep": base64.urlsafe_b64encode(DEEP[:3000]).decode().rstrip("=") + ".e30.x",
    "unsigned": "eyJhbGciOiJub25lIn0.e30.",
    "long": "x" * 7000,
    "odd": "\u00e9\u20ac",
}
BODIES = {
    "nothing": b"",
    "deep": DEEP,
    "deep object": b'{"a":' * 10_000,
    "half": b'{"client":',
    "numbers": b'{"client": 1e999, "version": 123456789012345678901234567890}',
    "bytes": bytes(range(256)),
    "deep tensors": (3000).to_bytes(8, "little") + DEEP[:3000],
    "an update": encode(sum_update(0)),
    "long": b" " * 70_000,
}
INSIDES = re.compile(
    rf"Traceback|\.py\b|site-packages|coordinator\.|Error\(|0x[0-9a-f]{{6,}}|{SECRET.decode()}|{SECRET.hex()}"
)


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    h = Harness(tmp_path_factory.mktemp("leaks"))
    h.begin(goal=5)
    return h


def response_of(harness, method, path, body, token):
    path = re.sub(r"\{(\w+)\}", lambda match: WORDS[match[1]], path)
    headers = {} if token is None else {"Authorization": f"Bearer {token}".encode().decode("latin-1")}
    return harness.call(method, path, body=body, headers=headers)  # which asserts that there is no `internal`


def check_response(response, root):
    if response.status_code >= 400 and response.content_type == "application/problem+json":
        text = response.get_data(as_text=True)
        assert not INSIDES.search(text), text
        assert str(root) not in text
        assert len(text) < 20_000


@pytest.mark.parametrize("body", BODIES)
def test_responses_reveal_no_internals(harness, tmp_path, body):
    table = router(harness.app).routes
    assert len(table) > 20
    for route in table:
        for token in TOKENS.values() if body in ("nothing", "an update") else (None,):
            check_response(response_of(harness, route.method, route.path, BODIES[body], token), tmp_path.parent)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/tasks/..%2f..%2fsecret",
        "/v1/tasks/../../secret",
        "/v1/plans/" + "0" * 63 + "/",
        f"/v1/tasks/{TASK}/rounds/{'9' * 400}/broadcast?sha256=x",
        f"/v1/tasks/{TASK}/rounds/-1/broadcast?sha256=x",
        f"/v1/tasks/{TASK}/rounds/1/broadcast?sha256=../../secret",
        f"/v1/tasks/{TASK}/rounds/1/broadcast?sha256=" + "x" * 4000,
        f"/v1/tasks/{TASK}/rounds?after=../../secret",
        f"/v1/tasks/{TASK}/rounds?limit=" + "9" * 4000,
        f"/v1/tasks/{TASK}/checkpoints/{'9' * 9}",
        "/v1/tasks/\x00",
        "/%ff%fe",
        "/v1/tasks/" + "a" * 4000,
    ],
    ids=lambda path: path[:48],
)
def test_hostile_paths_and_queries_are_refused(harness, tmp_path, path):
    response = harness.call("GET", path)
    assert response.status_code in (200, 400, 404, 409), response.data
    check_response(response, tmp_path.parent)


def test_body_with_another_media_type_is_refused(harness):
    path = "/v1/populations/phones:checkin"
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
    ):
        response = harness.call("POST", path, body=b"{}", content_type=kind)
        assert problem_of(response).type is ProblemType.INVALID_REQUEST
    for kind in ("application/json", "application/json; charset=utf-8", "APPLICATION/JSON"):
        assert harness.call("POST", path, body=b"{}", content_type=kind).status_code == 200


def test_store_failure_is_only_logged(tmp_path, caplog):
    class Broken:
        def __getattr__(self, name):
            raise StoreError(f"/srv/muster/state.db: password is {SECRET.decode()}")

    harness = Harness(tmp_path)
    harness.app = harness.application(platform=replace(harness.inner, documents=Broken()))
    response = Client(Request.application(router(harness.app))).get("/v1/tasks")
    assert response.status_code == 500
    assert problem_of(response).detail == "The coordinator failed; its log has the reason"
    assert "/srv/muster" in caplog.text
