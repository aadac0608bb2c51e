"""The plan's file: the same bytes for the same plan, every hash checked, and nothing else taken for one."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from support.plans import every_dtype_plan, sum_plan

from muster.wire.manifest import PlanManifest
from muster.wire.plan import Plan, part_of
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import encode

PLAN = sum_plan()
DATA = PLAN.encode()


def refused(data, **more):
    with pytest.raises(ProblemError) as error:
        Plan.decode(data, **more).check_complete()
    assert error.value.type is ProblemType.PLAN_INVALID, error.value
    return error.value


@pytest.mark.parametrize("plan", [sum_plan(), every_dtype_plan()])
def test_a_plan_comes_back_the_same_from_its_file(plan, tmp_path):
    found = Plan.decode(plan.encode(), expected=plan.sha256)
    assert found == plan
    assert found.encode() == plan.encode()
    assert found.sha256 == hashlib.sha256(plan.manifest.encode()).hexdigest()
    found.check_complete()
    plan.save(tmp_path / "a.plan")
    assert Plan.load(tmp_path / "a.plan") == plan
    assert PlanManifest.decode(plan.manifest.encode()) == plan.manifest


def test_the_order_of_parts_makes_no_difference():
    parts = dict(reversed(PLAN.parts.items()))
    assert Plan(PLAN.manifest, parts).encode() == DATA


def test_a_devices_copy_has_the_same_address_and_the_graph_of_work_alone():
    copy = Plan.decode(PLAN.for_client().encode(), expected=PLAN.sha256)
    assert copy.part(PLAN.manifest.stages.work.graph) == b"the graph of work of client_ids"
    with pytest.raises(ProblemError, match="lacks part"):
        copy.initial_state()
    refused(PLAN.for_client().encode())


@pytest.mark.parametrize("data", [b"", b"PK", DATA[:-1], DATA[:60], DATA[1:]])
def test_a_file_that_is_no_plan_is_refused(data):
    refused(data)


def test_a_plan_of_another_address_is_refused():
    assert "not 0000" in str(refused(DATA, expected="0" * 64))


def archive(files, **kinds):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **kinds) as target:
        for name, content in files.items():
            target.writestr(name, content)
    return buffer.getvalue()


def test_a_plan_with_other_contents_than_its_names_say_is_refused():
    manifest = PLAN.manifest.encode()
    parts = {f"parts/{sha256}": data for sha256, data in PLAN.parts.items()}
    assert Plan.decode(archive({"manifest.json": manifest, **parts})) == PLAN
    name = next(iter(parts))
    for files in (
        {"manifest.json": manifest, **parts, name: b"other"},
        {"manifest.json": manifest, **parts, "more": b"x"},
        {"manifest.json": manifest, **parts, "parts/../x": b"x"},
        {"manifest.json": manifest + b" ", **parts},
        {"manifest.json": b"{}", **parts},
        {"manifest.json": b"\xff", **parts},
        parts,
    ):
        refused(archive(files))
    refused(archive({"manifest.json": manifest, **dict(list(parts.items())[1:])}))


def test_a_plan_whose_state_or_zero_is_not_as_declared_is_refused():
    for field in ("initial_state", "zero"):
        for data in (b"no tensors", encode({"other": [1]})):
            manifest = PLAN.manifest.model_copy(update={field: part_of(data)})
            refused(replace(PLAN, manifest=manifest, parts={**PLAN.parts, part_of(data).sha256: data}).encode())


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_a_changed_byte_anywhere_is_refused_or_changes_nothing(at, difference):
    data = bytearray(DATA)
    data[at] ^= difference
    try:
        found = Plan.decode(bytes(data), expected=PLAN.sha256)
    except ProblemError as problem:
        assert problem.type is ProblemType.PLAN_INVALID  # noqa: PT017
        return
    # What the archive says of a file's date or origin; the contents are what their hashes say.
    assert found.manifest == PLAN.manifest
    assert all(PLAN.parts[sha256] == content for sha256, content in found.parts.items())


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data):
    refused(data)
    refused(b"PK\x03\x04" + data)
