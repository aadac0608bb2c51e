"""Tests of references to states: what they resolve to, what they read, and what is refused."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from support.faults import FaultyDocuments, Schedule
from support.harness import TASK, Harness
from support.plans import sum_update

from muster.wire.messages import StateRef, TaskStatus
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import decode, encode
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import Checkpoint, Origin
from muster_coordinator.state import base_blobs, bases
from muster_coordinator.state.base_blobs import BaseBlobs
from muster_coordinator.state.bases import BaseResolver

UNKNOWN = "f" * 64


@pytest.fixture
def h(tmp_path):
    """Returns a task after two rounds, and another task with two."""
    harness = Harness(tmp_path)
    harness.begin(goal=1, rounds=9)
    for client in range(2):
        harness.upload(harness.assigned(client).token, sum_update(client))
        harness.deliver_all()
    harness.create_task("other", goal=1, rounds=9)
    harness.deliver_all()
    return harness


def resolver(h):
    return BaseResolver(h.inner, plans=h.app.plans)


def resolve(h, **ref):
    return resolver(h).resolve(h.record(), StateRef(**ref))


def put_state(h, total):
    data = bytes(encode({"total": np.int64(total), "rounds": np.int64(0)}))
    sha256 = hashlib.sha256(data).hexdigest()
    h.ask("PUT", f"/v1/states/{sha256}?plan={h.plan.sha256}", body=data)
    return sha256


def test_no_reference_is_the_newest_checkpoint(h):
    assert resolver(h).resolve(h.record(), None) == bases.ResolvedBase(h.record().checkpoint)
    assert h.record().checkpoint.version == 2


def test_no_reference_of_an_unopened_task_is_refused(h):
    with pytest.raises(ProblemError, match="has no checkpoint yet") as refused:
        resolver(h).resolve(replace(h.record(), checkpoint=None), None)
    assert refused.value.type is ProblemType.NOT_FOUND


@pytest.mark.parametrize("task", [None, TASK])
def test_version_is_an_own_checkpoint(h, task):
    assert resolve(h, version=1, task=task) == bases.ResolvedBase(h.committed()[0].checkpoint)
    assert resolve(h, version=0, task=task).checkpoint.line == 0


def test_leaves_of_an_own_checkpoint_are_taken_from_its_line(h):
    base = resolve(h, version=2, leaves=("total",))
    assert base.origin == Origin(task=TASK, version=2, leaves=("total",))
    assert (base.checkpoint.version, base.checkpoint.line) == (0, 2)
    assert base.checkpoint.blob == h.record().checkpoint.blob


def test_checkpoint_of_another_task_starts_a_line(h):
    base = resolve(h, task="other", version=0)
    assert base.origin == Origin(task="other", version=0)
    assert (base.checkpoint.version, base.checkpoint.line) == (0, 0)
    assert base.checkpoint.blob.name.startswith("checkpoints/other/")


@pytest.mark.parametrize("version", [0, 1, 2])
def test_hash_of_an_own_checkpoint_is_that_checkpoint(h, version):
    own = resolve(h, version=version).checkpoint
    h.ask("PUT", f"/v1/states/{own.blob.sha256}?plan={h.plan.sha256}", body=h.checkpoint(version))
    assert resolve(h, state=own.blob.sha256) == bases.ResolvedBase(own)


def test_hash_of_the_newest_checkpoint_reads_no_round(h):
    schedule = Schedule()
    platform = replace(h.inner, documents=FaultyDocuments(h.inner.documents, schedule))
    task = h.record()
    BaseResolver(platform, plans=h.app.plans).resolve(task, StateRef(state=task.checkpoint.blob.sha256))
    assert schedule.reads == []


def test_newest_of_equal_checkpoints_is_taken(h):
    """A round without a change has the state of the one before."""
    same = h.committed()[0].checkpoint.blob
    record = h.inner.round(h.committed()[1].key)
    changed = replace(record.value, checkpoint=replace(record.value.checkpoint, blob=same))
    h.inner.rounds.replace(record, changed)
    assert resolve(h, state=same.sha256).checkpoint.version == 2


def test_other_hash_is_a_stored_state(h):
    sha256 = put_state(h, 99)
    base = resolve(h, state=sha256, leaves=("total",))
    assert base.origin == Origin(state=sha256, leaves=("total",))
    assert (base.checkpoint.version, base.checkpoint.blob.name) == (0, f"states/{sha256}")


@pytest.mark.parametrize(
    ("ref", "kind", "text"),
    [
        ({"state": UNKNOWN}, ProblemType.NOT_FOUND, "upload it first"),
        ({"version": 7}, ProblemType.NOT_FOUND, "Round 7 of task sum is not committed"),
        ({"task": "nothing", "version": 7}, ProblemType.NOT_FOUND, "There is no task 'nothing'"),
        ({"task": "other", "version": 1}, ProblemType.NOT_FOUND, "Round 1 of task other is not committed"),
        ({"version": 1, "leaves": ("w/",)}, ProblemType.INVALID_REQUEST, "'w/' is the prefix of no tensor"),
        ({"task": "other", "version": 0, "leaves": ("w/",)}, ProblemType.INVALID_REQUEST, "'w/' is the prefix"),
    ],
)
def test_refusals_name_the_reason(h, ref, kind, text):
    with pytest.raises(ProblemError) as refused:
        resolve(h, **ref)
    assert refused.value.type is kind
    assert text in refused.value.detail


def test_checkpoint_that_retention_deleted_is_refused(h):
    record = h.inner.round(RoundKey("sum", 1, 0))
    h.inner.rounds.replace(record, replace(record.value, stored=False))
    with pytest.raises(ProblemError, match="are not stored any more") as refused:
        resolve(h, version=1)
    assert refused.value.type is ProblemType.NOT_FOUND


def test_task_that_is_being_deleted_is_no_source(h):
    record = h.inner.task("other")
    h.inner.tasks.replace(record, replace(record.value, status=TaskStatus.DELETING))
    with pytest.raises(ProblemError, match="is being deleted"):
        resolve(h, task="other", version=0)


def test_tensors_of_a_large_state_are_checked_when_it_is_used(h, monkeypatch):
    data = bytes(encode({"total": np.float32(1)}))
    sha256 = hashlib.sha256(data).hexdigest()
    h.inner.blobs.create(f"states/{sha256}", [data])
    with pytest.raises(ProblemError, match="has dtype float32"):
        resolve(h, state=sha256)
    monkeypatch.setattr(bases, "MAX_CHECKED_AT_ONCE", 8)
    base = resolve(h, state=sha256)
    with pytest.raises(ProblemError, match="has dtype float32") as refused:
        stored(h, base)
    assert refused.value.type is ProblemType.INVALID_REQUEST
    assert h.blobs("bases/") == []


# Blobs of bases.


def stored(h, base, *, number=3):
    blobs = BaseBlobs(h.inner, resolver=resolver(h))
    return blobs.base(h.record(), h.plan, base.checkpoint, origin=base.origin, number=number)


def test_own_checkpoint_is_not_copied(h):
    base = resolve(h, version=1)
    assert stored(h, base) is base.checkpoint
    assert h.blobs("bases/") == []


def test_whole_state_is_copied_byte_for_byte(h):
    base = resolve(h, task="other", version=0)
    copy = stored(h, base)
    assert copy.blob.name.startswith("bases/sum/000003-")
    assert (copy.blob.sha256, copy.blob.size) == (base.checkpoint.blob.sha256, base.checkpoint.blob.size)
    assert h.inner.blobs.read(copy.blob.name) == h.inner.blobs.read(base.checkpoint.blob.name)


def test_repeat_finds_the_copy_after_its_source_was_deleted(h):
    base = resolve(h, state=put_state(h, 99), leaves=("total",))
    first = stored(h, base)
    h.inner.blobs.delete(h.blobs("states/"))
    assert stored(h, base) == first
    assert {name: int(value) for name, value in decode(h.inner.blobs.read(first.blob.name)).items()} == {
        "total": 99,
        "rounds": 0,
    }
    other = replace(base, origin=replace(base.origin, leaves=("rounds",)))
    with pytest.raises(ProblemError, match="was deleted; choose another one") as refused:
        stored(h, other)
    assert refused.value.type is ProblemType.INVALID_REQUEST


def test_bases_of_one_round_have_names_of_their_own(h):
    sha256 = put_state(h, 99)
    refs = [{"state": sha256}, {"state": sha256, "leaves": ("total",)}, {"version": 1, "leaves": ("total",)}]
    blobs = {stored(h, resolve(h, **ref)).blob.name for ref in refs}
    assert len(blobs) == 3


@pytest.mark.parametrize("data", [b"", b"\x00" * 8, b"\xff" * 40])
def test_damaged_state_is_refused(h, data):
    with pytest.raises(ProblemError, match="can't be read") as refused:
        base_blobs.compose(h.plan, memoryview(data), (), what="The state")
    assert refused.value.type is ProblemType.INVALID_REQUEST


def test_first_checkpoint_is_found_if_no_round_started_from_it(h):
    """A driven task may start every round from a state outside it."""
    record = h.inner.round(h.committed()[0].key)
    terms = replace(record.value.terms, origin=Origin(state=UNKNOWN))
    h.inner.rounds.replace(record, replace(record.value, terms=terms))
    first = resolve(h, version=0).checkpoint
    assert isinstance(first, Checkpoint)
    assert (first.version, first.blob.sha256) == (0, h.plan.manifest.initial_state.sha256)
    assert len(h.checkpoint(0)) == first.blob.size
