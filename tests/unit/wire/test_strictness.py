"""Strictness of requests: declared types, times with an offset, and refusals of bounded size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import pytest
from pydantic import TypeAdapter
from support.plans import sum_plan

from muster.wire.manifest import PlanManifest
from muster.wire.messages import (
    CheckinRequest,
    Report,
    Revocation,
    Rollback,
    TaskPolicy,
    TaskSpec,
    TaskView,
    UploadStart,
)
from muster.wire.problems import MAX_FIELDS, FieldError, ProblemError, ProblemType
from muster.wire.times import EARLIEST, LATEST, LENIENT, from_posix

SPEC = {"name": "t", "population": "p", "plan": "a" * 64}
ID = "0" * 32


def decode(kind, document):
    return kind.decode(json.dumps(document))


LAX = [
    (Rollback, {"version": "0"}),
    (Rollback, {"version": 0.0}),
    (Rollback, {"version": True}),
    (UploadStart, {"size": "10", "crc32c": "AAAAAA=="}),
    (UploadStart, {"size": 10.0, "crc32c": "AAAAAA=="}),
    (CheckinRequest, {"client": 7}),
    (CheckinRequest, {"cookie": True}),
    (Report, {"reason": "data", "detail": 3}),
    (Report, {"reason": 3}),
    (Revocation, {"id": int("1" * 32)}),
    *(
        (TaskSpec, {**SPEC, "policy": policy})
        for policy in (
            {"goal": "2"},
            {"goal": 2.0},
            {"goal": True},
            {"shards": "1"},
            {"over_selection": "1.5"},
            {"round_seconds": True},
            {"round_seconds": "NaN"},
            {"allow_non_finite": "yes"},
            {"allow_non_finite": 1},
            {"allow_non_finite": "true"},
            {"max_update_norm": "1"},
            {"clip": 0},
        )
    ),
]


@pytest.mark.parametrize(("kind", "document"), LAX, ids=lambda value: str(value)[-60:])
def test_values_of_another_type_are_refused(kind, document):
    with pytest.raises(ProblemError) as refused:
        decode(kind, document)
    assert refused.value.type is ProblemType.INVALID_REQUEST


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("field", [name for name, f in TaskPolicy.model_fields.items() if f.annotation is not bool])
def test_non_finite_numbers_are_refused(field, text):
    with pytest.raises(ProblemError):
        TaskSpec.decode(json.dumps({**SPEC, "policy": {field: "@"}}).replace('"@"', text))


def test_integers_are_valid_floats_and_texts_valid_enums_and_times():
    policy = decode(TaskPolicy, {"round_seconds": 10, "over_selection": 2, "starts_at": "2026-03-01T12:00:00Z"})
    assert (policy.round_seconds, policy.over_selection) == (10.0, 2.0)
    assert policy.starts_at == datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert decode(Report, {"reason": "data"}).reason.value == "data"


def test_from_dict_accepts_numpy_numbers():
    policy = TaskPolicy.from_dict({"goal": np.int64(3), "minimum": np.int64(2), "round_seconds": np.float32(4)})
    assert (policy.goal, policy.minimum, policy.round_seconds) == (3, 2, 4.0)


BAD_TIMES = [
    "2026-01-01T00:00:00",
    "2026-01-01",
    "2026-01-01T00:00",
    "2026-01-01T00:00Z",
    "1700000000",
    "1700000000.5",
    1_700_000_000,
    1.7e9,
    True,
    "",
    "now",
    "2026-13-01T00:00:00Z",
    "2026-02-30T00:00:00Z",
    "2026-01-01T25:00:00Z",
    "2026-01-01T00:00:00+99:00",
    "2026-01-01T00:00:00 Z",
    "\u0662\u0660\u0662\u0666-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-12:00",
    "9000-01-01T00:00:00Z",
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+14:00",
    "1969-12-31T23:59:59Z",
    "1970-01-01T00:00:00+14:00",
]


@pytest.mark.parametrize("time", BAD_TIMES, ids=repr)
def test_times_without_offset_or_out_of_range_are_refused(time):
    for kind, document in ((TaskPolicy, {"starts_at": time}), (Revocation, {"id": ID, "expires_at": time})):
        for read in (
            lambda kind=kind, document=document: decode(kind, document),
            lambda k=kind, d=document: k.from_dict(d),
        ):
            with pytest.raises(ProblemError) as refused:
                read()
            (field,) = refused.value.fields
            assert field.path in ("starts_at", "expires_at")
            assert "must" in field.reason


@pytest.mark.parametrize(
    "time",
    ["2026-01-01T00:00:00Z", "2026-01-01t00:00:00.123456789z", "2026-01-01T00:00:00+05:30", "1970-01-01T00:00:00Z"],
)
def test_times_with_an_offset_denote_the_same_instant(time):
    policy = decode(TaskPolicy, {"starts_at": time})
    assert TaskPolicy.decode(policy.encode()) == policy


def test_from_dict_refuses_a_naive_time():
    with pytest.raises(ProblemError, match="with its offset"):
        Revocation.from_dict({"id": ID, "expires_at": datetime(2026, 1, 1)})  # noqa: DTZ001  that is the case


def test_times_of_an_earlier_version_are_read_leniently():
    """A missing offset means UTC, and a time out of range becomes the closest one in range."""
    stored = TypeAdapter(TaskPolicy)
    for text, read in (
        ("2026-01-01T00:00:00", datetime(2026, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59-12:00", LATEST),
        ("0001-01-01T00:00:00+14:00", EARLIEST),
    ):
        assert stored.validate_python({"starts_at": text}, context=LENIENT).starts_at == read
        view = {"spec": {**SPEC, "policy": {"starts_at": text}}, "plan_name": "p", "status": "active", "checkpoint": 0}
        assert decode(TaskView, {**view, "created_at": "2026-01-01T00:00:00"}).spec.policy.starts_at == read


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -float("inf"), 1e300, -1e300, 2.5e11, 253402300799.0])
def test_any_posix_seconds_become_a_time_in_range(seconds):
    assert EARLIEST <= from_posix(seconds) <= LATEST


def test_posix_seconds_in_range_are_exact():
    assert from_posix(1_800_000_000.25) == datetime.fromtimestamp(1_800_000_000.25, UTC)


def test_refusal_lists_first_fields_and_counts_all():
    with pytest.raises(ProblemError) as refused:
        decode(Rollback, {f"x{number}": 1 for number in range(1000)})
    assert len(refused.value.fields) == MAX_FIELDS
    assert "and 996 more" in refused.value.detail


def test_problem_document_is_bounded_and_valid():
    long = "\ud800" * 1_000_000
    fields = tuple(FieldError(path="p" * 10_000, reason="r" * 10_000) for _ in range(500))
    document = ProblemError(ProblemType.UPDATE_INVALID, long, fields=fields).to_problem().model_dump_json()
    assert len(document.encode()) < 32_000


WRONG_MANIFESTS = {
    "many bad items": b'{"update":[' + b",".join([b"1"] * 400_000) + b"]}",
    "many unknown keys": b"{" + b",".join(b'"a%x":1' % at for at in range(80_000)) + b"}",
    "one key many times": b"{" + b",".join([b'"":1'] * 150_000) + b"}",
    "many bad values": b'{"stages":{"work":{"inputs":{' + b",".join(b'"a%x":1' % at for at in range(80_000)) + b"}}}}",
    "a long key": b'{"' + b"k" * 800_000 + b'":1}',
    "a long value": b'{"schema_version":"' + b"v" * 800_000 + b'"}',
    "no JSON": b"[" * 800_000,
}


MEASURE = """
import pathlib, re, sys
from muster.wire.manifest import PlanManifest
from muster.wire.problems import ProblemError

def peak():
    # Not `ru_maxrss`, which a process inherits from the one that started it.
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) << 10

before = peak()
for path in sys.argv[1:]:
    try:
        PlanManifest.decode(pathlib.Path(path).read_bytes())
    except ProblemError as problem:
        print(len(problem.to_problem().model_dump_json()))
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_invalid_manifest_is_refused_in_bounded_memory(tmp_path):
    """Measured in a separate process, since `tracemalloc` does not see the memory of pydantic."""
    paths = []
    for number, data in enumerate(WRONG_MANIFESTS.values()):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(data)
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", MEASURE, *paths], check=True, capture_output=True, text=True, env={**os.environ}
    )
    *sizes, grown = map(int, done.stdout.split())
    assert len(sizes) == len(paths)
    assert max(sizes) < 16_000
    assert grown < 100 << 20


def test_valid_manifest_is_read_above_and_below_the_strict_limit():
    manifest = sum_plan().manifest
    assert PlanManifest.decode(manifest.encode()) == manifest
    long = manifest.model_copy(update={"made_by": "x" * 100_000})
    assert PlanManifest.decode(long.encode()) == long


@pytest.mark.parametrize(
    ("document", "path", "reason"),
    [
        ({"name": "T1", "population": "p", "plan": "0" * 64}, "name", "must be a name of 1 to 63 lower-case letters"),
        ({"name": "t", "population": "p", "plan": "x"}, "plan", "must be a SHA-256"),
        ({"name": "t", "population": "p"}, "plan", "is missing"),
        ({"name": "t", "population": "p", "plan": "0" * 64, "polcy": {}}, "polcy", "is not a known field"),
        (
            {"name": "t", "population": "p", "plan": "0" * 64, "policy": {"goal": 3, "minimum": 5}},
            "policy",
            "minimum (5) is above goal (3)",
        ),
    ],
)
def test_reasons_name_no_library(document: dict[str, object], path: str, reason: str) -> None:
    with pytest.raises(ProblemError) as refused:
        TaskSpec.from_dict(document)
    (field,) = refused.value.fields
    assert field.path == path
    assert field.reason.startswith(reason)
