"""Hostile bodies: too large, bombs, deeply nested, path traversal, and poisoned updates."""

from __future__ import annotations

import gzip
import io
import json
import re
import tracemalloc
import warnings
import zipfile
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from support.harness import POPULATION, TASK, Harness, problem_of
from support.plans import every_dtype_plan, every_dtype_update, make_plan, sum_plan, sum_update
from support.secured_harness import CHECKIN, ENROLLER, OPERATOR, enrolment
from support.zstd import zstd

from muster.wire.manifest import TensorSpec
from muster.wire.messages import RoundList
from muster.wire.problems import MAX_FIELDS, ProblemError, ProblemType
from muster.wire.tensors import encode
from muster_coordinator.domain.updates import rules_for, validated
from muster_coordinator.http import router
from muster_coordinator.http.routing import Security

P = ProblemType
MUCH = 32 << 20  # bytes
LITTLE = 4 << 20  # bytes of memory that a refusal may use


class EndlessBody(io.RawIOBase):
    """Endless body that counts the bytes read from it."""

    def __init__(self, start: bytes = b"") -> None:
        self._start = start
        self.taken = 0

    def readable(self):
        return True

    def readinto(self, buffer):
        size = min(len(buffer), 1 << 16)
        piece = (self._start[self.taken : self.taken + size] or b" " * size)[:size]
        buffer[: len(piece)] = piece
        self.taken += len(piece)
        return len(piece)


def chunked(body):
    """Returns a request whose body has no declared length, as with chunked encoding."""
    chunks = {"CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}
    return {"environ_overrides": {"wsgi.input": body, **chunks}}


def declared(body, length):
    return {"environ_overrides": {"wsgi.input": body, "CONTENT_LENGTH": str(length)}}


def routes_with_bodies(h):
    """Yields every route that accepts a body, with an example path and a valid token."""
    words = {
        "task": TASK,
        "population": POPULATION,
        "sha256": h.plan.sha256,
        "round": "1",
        "version": "0",
        "request": "r",
        "tag": "t",
    }
    tokens = {
        Security.CLIENT: ENROLLER.issue(enrolment(0)),
        Security.ASSIGNMENT: h.assigned(0).token,
        Security.OPERATOR: OPERATOR,
    }
    for route in router(h.app).routes:
        if route.accepts is not None:
            yield route, route.path.format(**words), tokens.get(route.security)


def test_too_large_body_is_refused_unread(h):
    """With and without a declared length, on every route except that for plans."""
    looked_at = 0
    for route, path, token in routes_with_bodies(h):
        if route.path == "/v1/plans/{sha256}":
            continue
        for body, request in (
            (endless := EndlessBody(), chunked(endless)),
            (endless := EndlessBody(), declared(endless, 10**12)),
            (endless := EndlessBody(b'{"client": "' + b"x" * 70_000), chunked(endless)),
            (endless := EndlessBody((4 << 20).to_bytes(8, "little")), chunked(endless)),
        ):
            status = h.call(route.method, path, token=token, content_type="application/json", **request).status_code
            assert status in (400, 413, 422), (path, status)
            assert body.taken < 5 << 20, (path, body.taken)
        looked_at += 1
    assert looked_at >= 9
    assert h.blobs("updates/") == []


def test_unauthenticated_body_is_not_read(h):
    for route, path, _ in routes_with_bodies(h):
        body = EndlessBody()
        response = h.bare(route.method, path, content_type="application/json", **declared(body, 10**12))
        assert response.status_code == 401, path
        assert body.taken == 0, path


def bombs():
    """Yields small plan files that would unpack to huge ones."""

    def archive(*entries, method=zipfile.ZIP_DEFLATED):
        buffer = io.BytesIO()
        with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as target:
            warnings.simplefilter("ignore")
            for name, content in entries:
                target.writestr(name, content)
        return buffer.getvalue()

    yield "deflate", archive(("manifest.json", bytes(MUCH)))
    yield "bzip2", archive(("manifest.json", bytes(MUCH)), method=zipfile.ZIP_BZIP2)
    yield "lzma", archive(("manifest.json", bytes(MUCH)), method=zipfile.ZIP_LZMA)
    yield "a zip in a zip", archive(("manifest.json", archive(("manifest.json", bytes(MUCH)))))
    yield "many names", archive(*((f"parts/{at}", b"") for at in range(20_000)), method=zipfile.ZIP_STORED)
    # Overlapping entries (https://www.bamsoftware.com/hacks/zipbomb/).
    data = bytearray(
        archive(*((f"parts/{at}", bytes(100_000) if at == 0 else b"") for at in range(8)), method=zipfile.ZIP_STORED)
    )
    first = at = data.index(b"PK\x01\x02")
    start = bytes(data[first : first + 46])
    for _ in range(8):
        data[at + 16 : at + 28], data[at + 42 : at + 46] = start[16:28], start[42:46]
        at += 46 + len("parts/0")
    yield "overlapping", bytes(data)
    # A size that is only claimed by the directory.
    liar = bytearray(archive(("manifest.json", b"{}"), method=zipfile.ZIP_STORED))
    at = liar.index(b"PK\x01\x02")
    liar[at + 20 : at + 28] = b"\xf0\xff\xff\xff" * 2
    yield "claimed size", bytes(liar)


@pytest.mark.parametrize(("name", "bomb"), bombs(), ids=lambda value: value if isinstance(value, str) else "")
def test_plan_bomb_is_refused_before_unpacking(tmp_path, name, bomb):
    del name
    h = Harness(tmp_path)
    tracemalloc.start()
    try:
        response = h.call("PUT", f"/v1/plans/{'0' * 64}", body=bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert problem_of(response).type is P.PLAN_INVALID
    assert peak < LITTLE + 4 * len(bomb)
    assert h.blobs("plans/") == []


@pytest.mark.parametrize(("coding", "compress"), [("gzip", gzip.compress), ("zstd", zstd.compress)])
def test_compressed_bomb_is_refused_before_unpacking(h, coding, compress):
    bomb = compress(bytes(MUCH))
    for route, path, token in routes_with_bodies(h):
        tracemalloc.start()
        try:
            response = h.call(route.method, path, token=token, body=bomb, headers={"Content-Encoding": coding})
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert 400 <= response.status_code < 500, path
        assert peak < MUCH / 2, path
    assert h.blobs("updates/") == []


def test_header_that_claims_huge_tensors_uses_no_memory(h):
    token = h.assigned(0).token

    def header(tensors):
        text = json.dumps(tensors).encode()
        return len(text).to_bytes(8, "little") + text

    huge = 1 << 40
    for body in (
        (1 << 62).to_bytes(8, "little"),
        (4 << 20).to_bytes(8, "little"),
        header({"ids": {"dtype": "I64", "shape": [huge], "data_offsets": [0, 8 * huge]}}),
        header({"ids": {"dtype": "I64", "shape": [huge, huge, huge, 0], "data_offsets": [0, 0]}}),
        header({f"t{number}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for number in range(20_000)}),
    ):
        tracemalloc.start()
        try:
            response = h.bare("PUT", "/v1/updates", token=token, body=body)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert response.status_code in (400, 413, 422)
        assert peak < 32 << 20
    assert h.blobs("updates/") == []


def of_header(text):
    """Returns a request with a safetensors header only, without a declared length."""
    return chunked(io.BytesIO(len(text).to_bytes(8, "little") + text))


def test_header_larger_than_the_plan_needs_is_not_parsed(h):
    """50,000 tensors in 3.5 MB for a plan of a few: a short response, and little memory."""
    tensors = {f"tensor/{number}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for number in range(50_000)}
    text = json.dumps(tensors).encode()
    token = h.assigned(0).token
    tracemalloc.start()
    try:
        response = h.bare("PUT", "/v1/updates", token=token, **of_header(text))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    problem = problem_of(response)
    assert problem.type is P.UPDATE_INVALID
    assert "header has" in problem.detail
    assert len(response.data) < 1000
    assert peak < LITTLE
    # For a parsed header, the response names some tensors and their number.
    few = dict(list(tensors.items())[:600])
    few["x" * 10_000] = few.popitem()[1]
    text = json.dumps(few).encode()
    response = h.bare("PUT", "/v1/updates", token=token, **of_header(text))
    problem = problem_of(response)
    assert problem.type is P.UPDATE_INVALID
    assert len(problem.fields) == MAX_FIELDS
    assert re.search("in 60[0-9] of its tensors", problem.detail)
    assert len(response.data) < 10_000
    assert h.blobs("updates/") == []


def test_text_updates_use_memory_of_a_few_chunks():
    """Six million short strings: their lengths are summed as a stream, without objects."""
    size = 2_000_000
    plan = make_plan("text", state={"n": 0}, update=(TensorSpec(path="s", dtype="string", shape=None),), zero={"a": 0})
    rules = rules_for(plan.manifest, allow_non_finite=False)
    packed = np.tile(np.array([1, 2, 3], "<u8"), size).tobytes() + b"x" * (6 * size)
    shape = {"order": ["s"], "packed": {"s": {"dtype": "string", "shape": [3 * size]}}}
    entry = {"dtype": "U8", "shape": [len(packed)], "data_offsets": [0, len(packed)]}
    text = json.dumps({"__metadata__": {"muster": json.dumps(shape)}, "s": entry}).encode()
    file = len(text).to_bytes(8, "little") + text + packed
    wrong = bytearray(file)
    wrong[8 + len(text) + 8 * (3 * size - 1)] = 4  # the last length

    def passed(data):
        body = io.BytesIO(data)
        return sum(map(len, validated(body.read, rules, length=len(data))))

    tracemalloc.start()
    try:
        assert passed(file) == len(file)
        with pytest.raises(ProblemError, match="do not add up"):
            passed(wrong)
        peak = tracemalloc.get_traced_memory()[1] - len(file)  # `BytesIO` has copied the second one
    finally:
        tracemalloc.stop()
    assert peak < LITTLE


DEEP = {
    "lists": b"[" * 30_000,
    "objects": b'{"client":' * 6_000,
    "closed lists": b"[" * 30_000 + b"]" * 30_000,
    "in a field": b'{"cookie": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
}


@pytest.mark.parametrize("body", DEEP)
def test_deeply_nested_json_is_refused(h, body):
    deep = DEEP[body]
    for route, path, token in routes_with_bodies(h):
        for data in (deep, len(deep).to_bytes(8, "little") + deep):
            response = h.call(route.method, path, token=token, body=data, content_type="application/json")
            assert 400 <= response.status_code < 500, path
    for header in ("Authorization", "Cookie", "If-None-Match", "Range"):
        assert h.bare("POST", CHECKIN, headers={header: deep[:7000].decode()}).status_code == 401


# Path traversal.

CLIMBS = [
    "..",
    ".",
    "../..",
    "..%2f..%2fplans",
    "%2e%2e",
    "%2e%2e%2fplans",
    "%252e%252e%252f",
    "..%5c..",
    "%2fetc%2fpasswd",
    "%c0%ae%c0%ae%2f",
    "\u2024\u2024/",
    "\uff0e\uff0e\uff0f",
    "\uff53um",
    "s\u0443m",
    "sum%00",
    "sum%0a",
    "sum%20",
    "sum%2f",
    "sum;a",
    "sum%3f",
    "SUM",
    "-sum",
    "~root",
    "file:",
    "C:",
    "a" * 65,
    "\u0661",
    "%D9%A1",
    "1e0",
    "+1",
    "-1",
    "0x1",
    "1_0",
    "1" * 10,
]


def test_names_in_paths_do_not_traverse(h, tmp_path):
    """In every path parameter: not found or refused, and no file outside is read or created."""
    (tmp_path / "secret").write_text("the secret of the tests")
    words = {
        "task": TASK,
        "population": POPULATION,
        "sha256": h.plan.sha256,
        "round": "1",
        "version": "0",
        "request": "r",
        "tag": "t",
    }
    files, blobs = sorted(tmp_path.rglob("*")), h.blobs()
    requests = 0
    for route in router(h.app).routes:
        for place in words:
            if "{" + place + "}" not in route.path:
                continue
            for climb in [*CLIMBS, "..%2f" * 8 + "secret", "../" * 8 + "secret"]:
                path = route.path.format(**{**words, place: climb if climb.isascii() else quote(climb)})
                token = OPERATOR if route.security is Security.OPERATOR else ENROLLER.issue(enrolment(0))
                response = h.bare(route.method, path, token=token)
                assert response.status_code in (400, 401, 404, 405), (route.method, path, response.status_code)
                assert b"the secret of the tests" not in response.data
                requests += 1
    assert requests > 500
    assert h.blobs() == blobs
    # Refusals are in the audit log, in memory; nothing on disk is new.
    assert sorted(tmp_path.rglob("*")) == files


NAMES = [
    "..",
    "../x",
    "a/b",
    "a\\b",
    "a\0b",
    "a\n",
    "\nsum",
    "sum\n",
    ".sum",
    "",
    "SUM",
    "\uff53um",
    "s\u0443m",
    "a" * 65,
    "a b",
    "a%2fb",
    1,
    None,
    ["sum"],
]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_names_in_messages_do_not_traverse(h, name):
    good = {"name": "more", "population": POPULATION, "plan": h.plan.sha256}
    for change in ({"name": name}, {"population": name}, {"plan": name}):
        response = h.call("POST", "/v1/tasks", json={**good, **change})
        assert problem_of(response).type is P.INVALID_REQUEST, (change, response.data)
    assert problem_of(h.call("POST", "/v1/revocations", json={"id": name})).type is P.INVALID_REQUEST
    for kind in ("fold", "close", "sweep", "commit"):
        response = h.call("POST", f"/internal/{kind}", json={"task": name, "round": 1, "epoch": 0})
        assert problem_of(response).type is P.INVALID_REQUEST
    assert [task.path for task in h.inner.documents.list("tasks")] == [f"tasks/{TASK}"]


def test_queries_do_not_traverse(h):
    for climb in ("../../secret", "..%2f..%2fsecret", "%00", "x" * 4000, "\u0661", "%ff"):
        for path in (
            f"/v1/tasks/{TASK}/rounds/1/broadcast?sha256=",
            f"/v1/tasks/{TASK}/rounds?after=",
            f"/v1/tasks/{TASK}/rounds?limit=",
            "/v1/audit?after=",
            "/v1/audit?since=",
        ):
            assert h.call("GET", path + climb).status_code in (200, 400, 404, 409), path
    assert h.call("GET", f"/v1/tasks/{TASK}/rounds/1/broadcast?sha256=..%2f..%2fplans").status_code == 409


def test_names_in_plan_archives_do_not_traverse(tmp_path):
    h = Harness(tmp_path)
    for name in ("../../evil", "/etc/evil", "parts/../../evil", "parts\\..\\evil", "C:\\evil", "parts/" + "0" * 64):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("manifest.json", sum_plan().manifest.encode())
            archive.writestr(name, b"evil")
        response = h.call("PUT", f"/v1/plans/{sum_plan().sha256}", body=buffer.getvalue())
        assert problem_of(response).type is P.PLAN_INVALID
    assert not list(Path(tmp_path).rglob("*evil*"))
    assert h.blobs() == []


# Poisoned updates.


@pytest.fixture
def summing(tmp_path):
    made = Harness(tmp_path, plan=every_dtype_plan())
    made.begin(goal=5)
    return made


def spoilt(name, index, value):
    update = every_dtype_update()
    update[name] = np.array(update[name])
    update[name][index] = value
    return encode(update)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_value_is_refused(summing, value):
    token = summing.assigned(0).token
    for name in ("t/float16", "t/bfloat16", "t/float32", "t/float64", "t/complex64", "t/complex128"):
        with pytest.raises(ProblemError) as caught:
            summing.upload(token, spoilt(name, (1, 2), value))
        assert caught.value.type is P.UPDATE_NOT_FINITE
    assert summing.blobs("updates/") == []


@pytest.mark.parametrize(
    ("name", "value"), [("secure/sum", 10), ("secure/sum", -4), ("secure/modular", 8), ("secure/modular", -1)]
)
def test_integer_out_of_range_is_refused(summing, name, value):
    with pytest.raises(ProblemError) as caught:
        summing.upload(summing.assigned(0).token, spoilt(name, ..., value))
    assert caught.value.type is P.UPDATE_INVALID
    assert summing.blobs("updates/") == []


def test_norm_bound_limits_the_weight_of_an_update(tmp_path):
    for clip, most in ((False, 2.0), (True, 2.0 + 4 / np.sqrt(3))):
        h = Harness(tmp_path / str(clip))
        h.begin(rounds=1, goal=3, max_update_norm=4.0, clip=clip)
        for client, value in enumerate((1.0, 1.0, 1e30)):
            h.upload(h.assigned(client).token, sum_update(client, value))
        h.settle()
        assert np.max(h.result(1)["value"]) == pytest.approx(most)
        (view,) = RoundList.decode(h.ask("GET", f"/v1/tasks/{TASK}/rounds")).rounds
        assert (view.dropped, view.clipped) == (({}, 1) if clip else ({"norm": 1}, 0))
