"""Invalid updates are refused with a typed problem, not counted, and leave no blob."""

from __future__ import annotations

import io
import json
from pathlib import Path

import jwt
import numpy as np
import pytest
from support.harness import Harness
from support.plans import NUMBERS, every_dtype_plan, every_dtype_update

from muster.wire.dtypes import DType
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import encode, read_header
from muster_coordinator.domain import names
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.tokens import AssignmentClaims, CookieClaims, Tokens

P = ProblemType
GOOD = every_dtype_update()
FLOATS = [dtype for dtype in NUMBERS if dtype.is_floating]


def changed(**tensors):
    """Returns the valid update's file with tensors replaced, or left out if None.

    In names, `__` stands for `/`.
    """
    named = {name.replace("__", "/"): value for name, value in tensors.items()}
    return encode({name: value for name, value in {**GOOD, **named}.items() if value is not None})


def with_header(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def patched(name, raw):
    """Returns the valid update's file with the first bytes of one tensor overwritten."""
    data = bytearray(encode(GOOD))
    header = read_header(data)
    (entry,) = [entry for entry in header.entries if entry.name == name]
    data[header.data_start + entry.begin : header.data_start + entry.begin + len(raw)] = raw
    return bytes(data)


def undeclared(body):
    """Returns a request whose body has no declared length, as with chunked encoding."""
    overrides = {"CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}
    return {"input_stream": io.BytesIO(body), "environ_overrides": overrides}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    h = Harness(tmp_path_factory.mktemp("refused"), plan=every_dtype_plan())
    h.begin(goal=100)
    return h


@pytest.fixture
def h(shared):
    yield shared
    assert shared.blobs("updates/") == []
    assert shared.inner.documents.get(names.shard_path(shared.key(), 0)) is None
    assert not list(Path(shared.inner.blobs._staging).iterdir())


BODIES = {
    "wrong shape": (
        changed(t__float32=np.ones((3, 2), np.float32)),
        P.UPDATE_INVALID,
        "t/float32",
        "has shape [3, 2]; the plan says [2, 3]",
    ),
    "wrong rank": (
        changed(open=np.ones(2, np.float32)),
        P.UPDATE_INVALID,
        "open",
        "has shape [2]; the plan says [?, 2]",
    ),
    "wrong dtype": (
        changed(t__int16=np.ones((2, 3), np.int32)),
        P.UPDATE_INVALID,
        "t/int16",
        "has dtype int32; the plan says int16",
    ),
    "number for strings": (
        changed(t__string=np.ones((2, 3))),
        P.UPDATE_INVALID,
        "t/string",
        "has dtype float64; the plan says string",
    ),
    "missing": (changed(t__uint8=None), P.UPDATE_INVALID, "t/uint8", "is missing"),
    "not asked for": (changed(extra=np.ones(1)), P.UPDATE_INVALID, "extra", "the plan's updates have no such tensor"),
    "odd name": (changed(**{"a\ud800": np.ones(1)}), P.UPDATE_INVALID, None, None),
    "bool of 2": (patched("t/bool", b"\x02"), P.UPDATE_INVALID, "t/bool", "neither true nor false"),
    "bool of 255": (patched("t/bool", b"\x01\x00\xff"), P.UPDATE_INVALID, "t/bool", "neither true nor false"),
    "above the sum's range": (
        changed(secure__sum=np.array([0, 10], np.int32)),
        P.UPDATE_INVALID,
        "secure/sum",
        "-3 to 9",
    ),
    "below the sum's range": (
        changed(secure__sum=np.array([-4, 0], np.int32)),
        P.UPDATE_INVALID,
        "secure/sum",
        "-3 to 9",
    ),
    "at the modulus": (changed(secure__modular=np.array(8)), P.UPDATE_INVALID, "secure/modular", "0 to 7"),
    "below the modular sum": (changed(secure__modular=np.array(-1)), P.UPDATE_INVALID, "secure/modular", "0 to 7"),
    "strings that do not add up": (patched("t/string", b"\x09"), P.UPDATE_INVALID, None, "do not add up"),
    "strings that overflow": (patched("t/string", b"\xff" * 16), P.UPDATE_INVALID, None, "do not add up"),
    "empty": (b"", P.UPDATE_TRUNCATED, None, None),
    "three bytes": (b"abc", P.UPDATE_TRUNCATED, None, None),
    "no header": (b"\x00" * 8, P.UPDATE_INVALID, None, "not JSON"),
    "header of a list": (with_header([]), P.UPDATE_INVALID, None, "not a JSON object"),
    "header not UTF-8": (with_header(b"\xff{}"), P.UPDATE_INVALID, None, "not JSON"),
    "header nested deep": (with_header(b"[" * 30_000), P.UPDATE_INVALID, None, "not JSON"),
    "header announced huge": ((1 << 40).to_bytes(8, "little") + b"{}", P.UPDATE_INVALID, None, "at most"),
    "header beyond the body": ((500).to_bytes(8, "little") + b"{}", P.UPDATE_TRUNCATED, None, None),
    "data after the update": (encode(GOOD) + b"more", P.UPDATE_INVALID, None, "header says"),
    "body cut off": (encode(GOOD)[:-1], P.UPDATE_TRUNCATED, None, "header says"),
    "tensors that overlap": (
        with_header({name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in "ab"}, b"\0" * 4),
        P.UPDATE_INVALID,
        None,
        "was expected",
    ),
    "odd dtype": (
        with_header({"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
        P.UPDATE_INVALID,
        None,
        "dtype",
    ),
    "shape that overflows": (
        with_header({"a": {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 0]}}),
        P.UPDATE_INVALID,
        None,
        "a shape that exceeds any array",
    ),
    "negative size": (
        with_header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}),
        P.UPDATE_INVALID,
        None,
        "an invalid shape",
    ),
    "open shape too large": (
        with_header({"open": {"dtype": "F32", "shape": [1 << 40, 2], "data_offsets": [0, 1 << 43]}}),
        P.UPDATE_INVALID,
        None,
        None,
    ),
}


@pytest.mark.parametrize("case", BODIES)
def test_invalid_update_is_refused(case, h):
    body, kind, path, reason = BODIES[case]
    for chunked in (False, True):
        # Without a declared length, the safetensors header determines the size.
        more = undeclared(body) if chunked else {}
        with pytest.raises(ProblemError) as refused:
            h.upload(h.assigned().token, body, **more)
        problem = refused.value
        if case == "data after the update" and chunked:
            reason = "continues after"
        if case == "body cut off" and chunked:
            reason = "ended before"
        assert problem.type is kind
        assert reason is None or reason in " ".join([problem.detail, *(f"{field.reason}" for field in problem.fields)])
        if path is not None:
            assert path in {field.path for field in problem.fields} or path in problem.detail


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", FLOATS)
def test_non_finite_update_is_refused(dtype, value, h):
    array = np.ones((2, 3), dtype.numpy)
    array[1, 2] = complex(0, value) if dtype.value.startswith("complex") else value
    with pytest.raises(ProblemError, match="NaN or infinity") as refused:
        h.upload(h.assigned().token, changed(**{f"t__{dtype.value}": array}))
    assert refused.value.type is P.UPDATE_NOT_FINITE
    assert [field.path for field in refused.value.fields] == [f"t/{dtype.value}"]


def test_every_invalid_tensor_is_named_by_its_path(h):
    body = changed(t__int8=None, t__int16=np.ones(3, np.int16), t__float64=np.ones((2, 3), np.int8), extra=np.ones(1))
    with pytest.raises(ProblemError) as refused:
        h.upload(h.assigned().token, body)
    assert {field.path for field in refused.value.fields} == {"t/int8", "t/int16", "t/float64", "extra"}


def test_update_larger_than_its_plan_allows_is_refused(h):
    assignment = h.assigned()
    body = changed(extra=np.zeros(assignment.max_update_bytes, np.uint8))
    with pytest.raises(ProblemError, match="at most") as refused:
        h.upload(assignment.token, body)
    assert refused.value.type is P.TOO_LARGE


def test_update_that_ends_early_is_truncated(h):
    body = encode(GOOD)
    for at in (4, 100, len(body) - 1):
        stream = {"input_stream": io.BytesIO(body[:at]), "environ_overrides": {"CONTENT_LENGTH": str(len(body))}}
        with pytest.raises(ProblemError, match="again") as refused:
            h.upload(h.assigned().token, body, **stream)
        assert refused.value.type is P.UPDATE_TRUNCATED


def test_unsuitable_tokens_are_refused(h):
    good = h.assigned().token
    claims = h.app.tokens.read_assignment(good, now=h.clock.now())
    other = AssignmentClaims(**{field: getattr(claims, field) for field in claims.__slots__} | {"expires_at": 9e9})
    head, body, signature = good.split(".")
    unsigned = jwt.encode(jwt.decode(good, options={"verify_signature": False}), None, algorithm="none")
    forged = {
        "of another secret": Tokens(b"another secret, just as long as it").assignment(other),
        "a cookie": h.app.tokens.cookie(CookieClaims(RoundKey("sum", 1, 0), 1.0)),
        "unsigned": unsigned,
        "cut": f"{head}.{body}.",
        "changed": f"{head}.{body[:-2]}AA.{signature}",
        "no token": "x",
        "odd characters": "é",
    }
    for what, token in forged.items():
        with pytest.raises(ProblemError) as refused:
            h.upload(token, encode(GOOD))
        assert refused.value.type is P.ASSIGNMENT_INVALID, what
    for headers in ({}, {"Authorization": "Basic abc"}, {"Authorization": "Bearer"}, {"Authorization": good}):
        with pytest.raises(ProblemError) as refused:
            h.ask("PUT", "/v1/updates", body=encode(GOOD), headers=headers)
        assert refused.value.type is P.UNAUTHENTICATED, headers


def test_expired_token_and_token_of_ended_round_are_refused(tmp_path):
    h = Harness(tmp_path, plan=every_dtype_plan())
    h.begin(goal=3, minimum=2, round_seconds=100, assignment_seconds=50)
    expired, of_old_round = h.assigned("a").token, None
    h.clock.advance(50)
    with pytest.raises(ProblemError) as refused:
        h.upload(expired, encode(GOOD))
    assert refused.value.type is P.ASSIGNMENT_EXPIRED
    of_old_round = h.assigned("b").token
    h.clock.advance(49)
    h.tick()
    h.operate("rollback", version=0)
    h.deliver_all()
    for send in (lambda: h.upload(of_old_round, encode(GOOD)), lambda: h.report(of_old_round)):
        with pytest.raises(ProblemError) as refused:
            send()
        assert refused.value.type is P.ROUND_CLOSED
    assert h.blobs("updates/") == []


def test_task_may_allow_non_finite_values(tmp_path):
    h = Harness(tmp_path, plan=every_dtype_plan())
    h.begin(goal=2, allow_non_finite=True)
    arrays = {f"t__{dtype.value}": np.full((2, 3), np.nan, dtype.numpy) for dtype in FLOATS}
    assignment = h.assigned()
    assert assignment.allow_non_finite
    assert h.upload(assignment.token, changed(**arrays)).status == "accepted"
    assert len(h.blobs("updates/")) == 1


def test_valid_update_of_every_dtype_is_accepted(tmp_path):
    h = Harness(tmp_path, plan=every_dtype_plan())
    h.begin(goal=9)
    body = encode(GOOD)
    h.upload(h.assigned().token, body)
    h.upload(h.assigned().token, body, **undeclared(body))
    empty = changed(open=np.zeros((0, 2), np.float32), t__string=np.full((2, 3), b"", object))
    h.upload(h.assigned().token, empty)
    stored = [bytes(h.inner.blobs.read(name)) for name in h.blobs("updates/")]
    assert sorted(stored) == sorted([body, body, empty])
    assert {spec.dtype for spec in h.plan.manifest.update} == set(DType)


def test_returned_assignment_frees_its_slot_and_accepts_no_update(tmp_path):
    h = Harness(tmp_path, plan=every_dtype_plan())
    h.begin(goal=1)
    token = h.assigned("a").token
    assert h.checkin("b").status == "wait"
    assert h.report(token, "data").status == "reported"
    assert h.report(token, "data").status == "reported"
    assert h.assigned("b").status == "assigned"
    assert h.checkin("c").status == "wait"
    with pytest.raises(ProblemError) as refused:
        h.upload(token, encode(GOOD))
    assert refused.value.type is P.ASSIGNMENT_INVALID
    assert h.task().current.failed == {"data": 1}
