"""Plan files: deterministic, with every hash checked and any other file refused."""

from __future__ import annotations

import hashlib
import io
import random
import warnings
import zipfile
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from support.plans import every_dtype_plan, sum_plan

from muster.wire.manifest import PlanManifest
from muster.wire.plan import Plan, part_of
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.signatures import SigningKey
from muster.wire.tensors import encode

PLAN = sum_plan()
DATA = PLAN.encode()


def refused(data, **more):
    with pytest.raises(ProblemError) as error:
        Plan.decode(data, **more).check_complete()
    assert error.value.type is ProblemType.PLAN_INVALID, error.value
    return error.value


@pytest.mark.parametrize("plan", [sum_plan(), every_dtype_plan()])
def test_plan_file_round_trip(plan, tmp_path):
    decoded = Plan.decode(plan.encode(), expected=plan.sha256)
    assert decoded == plan
    assert decoded.encode() == plan.encode()
    assert decoded.sha256 == hashlib.sha256(plan.manifest.encode()).hexdigest()
    decoded.check_complete()
    plan.save(tmp_path / "a.plan")
    assert Plan.load(tmp_path / "a.plan") == plan
    assert PlanManifest.decode(plan.manifest.encode()) == plan.manifest


def test_order_of_parts_does_not_change_the_file():
    parts = dict(reversed(PLAN.parts.items()))
    assert Plan(PLAN.manifest, parts).encode() == DATA


def test_copy_for_client_has_same_address_and_only_work():
    copy = Plan.decode(PLAN.for_client().encode(), expected=PLAN.sha256)
    assert b"the graph of work of client_ids" in copy.part(PLAN.manifest.stages.work.graph)
    with pytest.raises(ProblemError, match="lacks part"):
        copy.initial_state()
    refused(PLAN.for_client().encode())


@pytest.mark.parametrize("data", [b"", b"PK", DATA[:-1], DATA[:60], DATA[1:]])
def test_other_file_is_refused(data):
    refused(data)


def test_unexpected_address_is_refused():
    assert "not 0000" in str(refused(DATA, expected="0" * 64))


def archive(files, **kinds):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **kinds) as target:
        for name, content in files.items():
            target.writestr(name, content)
    return buffer.getvalue()


def test_parts_that_do_not_match_their_hashes_are_refused():
    manifest = PLAN.manifest.encode()
    parts = {f"parts/{sha256}": data for sha256, data in PLAN.parts.items()}
    # The right contents in an archive with another date.
    assert "form" in str(refused(archive({"manifest.json": manifest, **parts})))
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


def test_undeclared_state_or_zero_is_refused():
    for field in ("initial_state", "zero"):
        for data in (b"no tensors", encode({"other": [1]})):
            manifest = PLAN.manifest.model_copy(update={field: part_of(data)})
            refused(replace(PLAN, manifest=manifest, parts={**PLAN.parts, part_of(data).sha256: data}).encode())


SIGNED = PLAN.signed(SigningKey.generate()).for_client().encode()


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_changed_byte_anywhere_is_refused(at, difference):
    data = bytearray(DATA)
    data[at] ^= difference
    refused(bytes(data), expected=PLAN.sha256)


def test_changed_byte_of_a_signed_client_copy_is_refused():
    data = bytearray(SIGNED)
    randomness = random.Random(8032)  # noqa: S311  the same bytes every time
    for at in randomness.sample(range(len(data)), 2000):
        was = data[at]
        data[at] ^= randomness.randrange(1, 256)
        refused(bytes(data), expected=PLAN.sha256)
        data[at] = was
    assert Plan.decode(bytes(data), expected=PLAN.sha256).signatures


@pytest.mark.parametrize("data", [b"x" + DATA, DATA + b"x", DATA[:-2] + b"\x01\x00x", DATA + DATA])
def test_file_with_additional_bytes_is_refused(data):
    refused(data)


def entries(*pairs, **kinds):
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", **kinds) as target:
        warnings.simplefilter("ignore")
        for name, content in pairs:
            target.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
    return buffer.getvalue()


def test_zip_bombs_and_duplicate_entries_are_refused_before_unpacking():
    manifest = PLAN.manifest.encode()
    assert "not compressed" in str(
        refused(archive({"manifest.json": b" " * 10_000_000}, compression=zipfile.ZIP_DEFLATED))
    )
    assert "one name" in str(refused(entries(("manifest.json", manifest), ("manifest.json", b"x"))))
    assert "entries" in str(refused(entries(*((f"parts/{at}", b"") for at in range(1000)))))
    assert "may have" in str(refused(entries(("manifest.json", manifest), ("signatures.json", b"x" * 20_000))))
    # All entries start where the first does: overlapping ones could unpack to more than the file.
    name, content = "parts/a", b"z" * 100_000
    data = bytearray(entries((name, content), *((f"parts/{at}", b"") for at in "bcd")))
    first = data.index(b"PK\x01\x02")
    start, at = bytes(data[first : first + 46]), first
    for _ in range(4):
        data[at + 16 : at + 28] = start[16:28]  # checksum and sizes
        data[at + 42 : at + 46] = start[42:46]  # offset of the entry
        at += 46 + len(name)
    assert "not compressed" in str(refused(bytes(data)))


def test_part_missing_from_the_manifest_is_refused():
    more = {**PLAN.parts, part_of(b"more").sha256: b"more"}
    assert "does not match its address" in str(refused(replace(PLAN, parts=more).encode()))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data):
    refused(data)
    refused(b"PK\x03\x04" + data)
