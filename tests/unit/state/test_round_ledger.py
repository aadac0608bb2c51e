"""Tests of stored ledgers: earlier forms are read, and earlier versions refuse the new forms."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from pydantic import TypeAdapter, ValidationError

from muster.wire.messages import TaskPolicy
from muster_coordinator.adapters.directory import DirectoryBlobs
from muster_coordinator.adapters.local_queue import LocalQueue
from muster_coordinator.adapters.sqlite import SqliteDocuments
from muster_coordinator.adapters.system import ManualClock, SeededRandomness
from muster_coordinator.domain import names
from muster_coordinator.domain.ledger import AgeLimit, Manifest
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import Aggregating, BlobRef, Checkpoint, Collecting, close, open_round
from muster_coordinator.domain.tally import Tally
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.round_ledger import RoundLedger

KEY = RoundKey("t", 1, 0)
FAR = AgeLimit(1.0, 1e12)  # every update is too old


# The forms that version 0.1 parses.
@dataclass(frozen=True, slots=True)
class OldManifest:
    updates: tuple[str, ...]
    sealed: bool = False


@dataclass(frozen=True, slots=True)
class OldClosing:
    shards: tuple[int, ...]
    rest: tuple[tuple[str, ...], ...]
    onto: str | None
    updates: int


@dataclass(frozen=True, slots=True)
class OldFrozen:
    closing: OldClosing
    tally: Tally


OLD_MANIFEST, OLD_FROZEN = TypeAdapter(OldManifest), TypeAdapter(OldFrozen)


@pytest.fixture
def platform(tmp_path):
    clock = ManualClock(0.0)
    return Platform(
        SqliteDocuments.in_memory(),
        DirectoryBlobs(tmp_path),
        LocalQueue.in_memory(clock=clock),
        clock,
        SeededRandomness(0),
    )


def store(platform, *clients):
    for client in clients:
        platform.blobs.create(names.update_name(KEY, 0, f"{client:032x}"), [b"update"])


def closing_round() -> Aggregating:
    blob = BlobRef("b", "0" * 64, 1)
    round_: Collecting = open_round(
        KEY,
        TaskPolicy(goal=9, shards=1, chunk=4),
        plan="0" * 64,
        base=Checkpoint(0, blob, 0.0),
        broadcast=blob,
        sums_in_the_clear=False,
        opens_at=0.0,
        expected_seconds=None,
    )
    return close(round_, now=1.0)


def test_earlier_version_refuses_a_manifest_that_continues_another(platform):
    ledger = RoundLedger(platform, KEY)
    store(platform, 0, 1)
    assert ledger.freeze_chunk(0, chunk=4, limit=FAR)[1].onto is None
    first = bytes(platform.blobs.read(names.manifest_name(KEY, 0, 0)))
    assert OLD_MANIFEST.validate_json(first).updates == ledger.manifests(0)[0].updates
    store(platform, 2)
    assert ledger.freeze_chunk(0, chunk=4, limit=FAR)[1].onto == 0
    with pytest.raises(ValidationError):
        OLD_MANIFEST.validate_json(bytes(platform.blobs.read(names.manifest_name(KEY, 0, 1))))
    again = RoundLedger(platform, KEY)
    assert again.manifests(0) == ledger.manifests(0)
    assert [manifest.onto for manifest in again.manifests(0)] == [None, 0]


@pytest.mark.parametrize("aged", [False, True])
def test_earlier_version_refuses_a_closing_with_superseded_parts(platform, aged):
    ledger = RoundLedger(platform, KEY)
    store(platform, *range(4 if not aged else 2))
    ledger.freeze_chunk(0, chunk=4, limit=FAR)
    store(platform, 7)
    if aged:
        ledger.freeze_chunk(0, chunk=4, limit=FAR)
    frozen = ledger.freeze(closing_round(), Tally())
    assert RoundLedger(platform, KEY).frozen() == frozen
    stored = bytes(platform.blobs.read(names.closing_name(KEY)))
    if not aged:
        old = OLD_FROZEN.validate_json(stored).closing
        assert (old.shards, old.rest, old.onto) == (frozen.closing.shards, frozen.closing.rest, frozen.closing.onto)
        return
    assert frozen.closing.superseded == ("0000-000000",)
    with pytest.raises(ValidationError):
        OLD_FROZEN.validate_json(stored)


def test_ledger_of_an_earlier_version_is_read(platform):
    name = names.manifest_name(KEY, 0, 0)
    platform.blobs.create(name, [OLD_MANIFEST.dump_json(OldManifest(("a", "b")))])
    platform.blobs.create(names.manifest_name(KEY, 0, 1), [OLD_MANIFEST.dump_json(OldManifest((), sealed=True))])
    assert RoundLedger(platform, KEY).manifests(0) == (Manifest(("a", "b")), Manifest((), sealed=True))
    old = OldFrozen(OldClosing((1,), (("c",),), "0000-000000", 3), Tally(assigned=4))
    platform.blobs.create(names.closing_name(KEY), [OLD_FROZEN.dump_json(old)])
    frozen = RoundLedger(platform, KEY).frozen()
    assert (frozen.closing.parts(), frozen.closing.updates, frozen.tally) == (("rest-000000",), 3, Tally(assigned=4))


def test_superseded_part_is_durable_if_its_successor_is(platform):
    ledger = RoundLedger(platform, KEY)
    store(platform, 0, 1)
    ledger.freeze_chunk(0, chunk=9, limit=FAR)
    for client in (2, 3):
        store(platform, client)
        ledger.freeze_chunk(0, chunk=9, limit=FAR)
    stale = RoundLedger(platform, KEY)
    stale.part("0000-000000")
    assert [ledger.is_durable(f"0000-{index:06d}") for index in range(3)] == [False, False, False]
    platform.blobs.create(names.partial_name(KEY, "0000-000002"), [b"partial"])
    assert [ledger.is_durable(f"0000-{index:06d}") for index in range(3)] == [True, True, True]
    assert not stale.is_durable("0000-000000", known=True), "it has not read the later manifests"
    assert stale.is_durable("0000-000000")
