"""States that operators store apart from plans: `PUT /v1/states/{sha256}`."""

from __future__ import annotations

import hashlib
import io
import json

import numpy as np
import pytest
from support.harness import Harness
from support.plans import make_plan

from muster.wire.dtypes import DType
from muster.wire.manifest import TensorSpec
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import encode
from muster_coordinator.http.routing import MAX_JSON_BODY

STATE = {"total": np.int64(7), "rounds": np.int64(3)}
LARGE = 300_000  # floats of a state of several chunks


@pytest.fixture
def h(tmp_path):
    harness = Harness(tmp_path)
    harness.put_plan()
    return harness


def address(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(h, data, *, sha256=None, plan=None, **options):
    path = f"/v1/states/{sha256 or address(data)}?plan={plan or h.plan.sha256}"
    return h.call("PUT", path, body=data, **options)


def refused(h, data, **options):
    """Returns the problem of a refused upload, and asserts that it stored nothing."""
    path = f"/v1/states/{options.pop('sha256', address(data))}?plan={options.pop('plan', h.plan.sha256)}"
    with pytest.raises(ProblemError) as error:
        h.ask("PUT", path, body=data, **options)
    assert h.blobs("states/") == []
    return error.value


def test_state_is_stored_once_under_its_hash(h):
    data = bytes(encode(STATE))
    assert [put(h, data).status_code for _ in range(2)] == [201, 200]
    assert h.blobs("states/") == [f"states/{address(data)}"]
    assert bytes(h.inner.blobs.read(f"states/{address(data)}")) == data


def test_state_of_any_writer_is_accepted_without_metadata_of_muster(h):
    header = {
        name: {"dtype": "I64", "shape": [], "data_offsets": [8 * at, 8 * at + 8]} for at, name in enumerate(STATE)
    }
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + bytes(16)
    assert put(h, data).status_code == 201


def test_large_state_is_streamed_to_the_store(tmp_path):
    zero = {"n": np.int64(0)}
    update = (TensorSpec(path="n", dtype=DType.INT64, shape=()),)
    plan = make_plan("large", state={"w": np.zeros(LARGE, np.float32)}, update=update, zero=zero)
    h = Harness(tmp_path, plan=plan)
    h.put_plan()
    values = np.arange(LARGE, dtype=np.float32)
    values[5] = np.nan  # a checkpoint may hold any value
    data = bytes(encode({"w": values}))
    largest = 0

    class Body(io.BytesIO):
        def read(self, size=-1):
            nonlocal largest
            piece = super().read(size)
            largest = max(largest, len(piece))
            return piece

    response = put(h, data, input_stream=Body(data), content_length=len(data))
    assert response.status_code == 201
    assert largest < len(data) / 4
    assert largest <= 2 * MAX_JSON_BODY


def test_body_with_another_hash_is_refused(h):
    data = bytes(encode(STATE))
    problem = refused(h, data, sha256="0" * 64)
    assert problem.type is ProblemType.INVALID_REQUEST
    assert address(data)[:12] in problem.detail


@pytest.mark.parametrize("data", [b"", b"{}", b"\x08" + bytes(7) + b"nonsense", b"\xff" * 64])
def test_body_that_is_not_safetensors_is_refused(h, data):
    assert refused(h, data).type in (ProblemType.INVALID_REQUEST, ProblemType.UPDATE_TRUNCATED)


@pytest.mark.parametrize(
    ("state", "path", "reason"),
    [
        ({"total": np.int64(7)}, "rounds", "is missing"),
        ({**STATE, "extra": np.int64(1)}, "extra", "the plan's states have no such tensor"),
        ({**STATE, "total": np.float32(7)}, "total", "has dtype float32; the plan says int64"),
        ({**STATE, "rounds": np.zeros(2, np.int64)}, "rounds", "has shape [2]; the plan says []"),
    ],
)
def test_tensors_that_do_not_match_the_plan_are_named(h, state, path, reason):
    problem = refused(h, bytes(encode(state)))
    assert problem.type is ProblemType.INVALID_REQUEST
    assert [(field.path, field.reason) for field in problem.fields] == [(path, reason)]
    assert problem.detail == f"The state does not match the plan in 1 of its tensors: {path} {reason}"


def test_larger_body_than_a_state_of_the_plan_is_refused(h):
    data = bytes(encode(STATE))
    assert refused(h, data + bytes(1 << 20)).type is ProblemType.TOO_LARGE
    problem = refused(h, data + b"x")
    assert problem.type is ProblemType.INVALID_REQUEST


def test_body_that_ends_early_leaves_nothing(h):
    data = bytes(encode(STATE))
    problem = refused(h, data[:-3], sha256=address(data))
    assert problem.type is ProblemType.UPDATE_TRUNCATED


def test_unknown_plan_is_refused(h):
    problem = refused(h, bytes(encode(STATE)), plan="f" * 64)
    assert problem.type is ProblemType.NOT_FOUND
    assert "upload it" in problem.detail


@pytest.mark.parametrize("query", ["", "?plan=", "?plan=abc", f"?plan={'F' * 64}"])
def test_query_without_a_plan_is_refused(h, query):
    data = bytes(encode(STATE))
    with pytest.raises(ProblemError) as error:
        h.ask("PUT", f"/v1/states/{address(data)}{query}", body=data)
    assert error.value.type is ProblemType.INVALID_REQUEST
    assert error.value.fields[0].path == "plan"


def test_state_is_checked_against_the_plan_of_each_upload(h):
    data = bytes(encode(STATE))
    put(h, data)
    update = (TensorSpec(path="n", dtype=DType.INT64, shape=()),)
    other = make_plan("other", state={"w": np.float32(0)}, update=update, zero={"n": np.int64(0)})
    h.ask("PUT", f"/v1/plans/{other.sha256}", body=other.encode())
    response = put(h, data, plan=other.sha256)
    assert response.status_code == 400


def test_upload_is_in_the_audit_log(h):
    data = bytes(encode(STATE))
    h.clock.advance(1)
    put(h, data)
    h.clock.advance(1)
    put(h, data, sha256="0" * 64)
    entries = json.loads(h.ask("GET", "/v1/audit"))["entries"][-2:]
    assert [(entry["action"], entry["result"]) for entry in entries] == [
        ("state.store", "done"),
        ("state.store", "failed"),
    ]
    assert entries[0]["subject"] == address(data)
    assert entries[0]["request"] == {"plan": h.plan.sha256, "size": len(data)}
    assert (entries[0]["before"], entries[0]["after"]) == ({"stored": False}, {"stored": True})
    assert entries[1]["after"] == {"stored": False}
