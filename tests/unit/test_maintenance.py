"""Tests of ticks and sweeps after a task's rounds have ended: their cost, and what they remove."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.faults import FaultyBlobs, Schedule
from support.harness import Harness
from support.plans import sum_update

from muster.wire.tensors import encode
from muster_coordinator.domain import names
from muster_coordinator.domain.rounds import Aggregating
from muster_coordinator.domain.tally import Tally
from muster_coordinator.state.round_ledger import RoundLedger
from muster_coordinator.use_cases import maintenance

HOURS = 3 * 3600.0  # seconds after which no process can still work on a round
LIST = "blobs.list "
ALWAYS = {"updates/", "partials/"}  # what every tick lists


@pytest.fixture
def schedule():
    """Records the reads of blobs."""
    return Schedule()


@pytest.fixture
def harness(schedule, tmp_path):
    """Returns a coordinator after four rounds of two clients. The fifth, of a day, is open."""
    h = Harness(tmp_path, wrap=lambda platform: replace(platform, blobs=FaultyBlobs(platform.blobs, schedule)))
    h.begin(goal=2, rounds=9, round_seconds=86_400)
    for number in range(1, 5):
        for client in range(2):
            h.upload(h.assigned(f"{number} {client}").token, sum_update(client))
        h.deliver_all()
    assert h.key().number == 5
    return h


def listed_by_a_tick(h: Harness, schedule: Schedule) -> set[str]:
    """Returns the prefixes that a tick lists, without those of the open round."""
    schedule.reads.clear()
    h.tick()
    h.deliver_all()
    listed = {read.removeprefix(LIST) for read in schedule.reads if read.startswith(LIST)}
    return {prefix for prefix in listed if h.key().id not in prefix} - ALWAYS


def test_recently_ended_rounds_are_swept_again(harness, schedule):
    assert {prefix.partition("/")[0] for prefix in listed_by_a_tick(harness, schedule)} >= {
        "updates",
        "partials",
        "checkpoints",
    }


@pytest.mark.parametrize("cancelled", [False, True])
def test_rounds_that_ended_hours_ago_cost_no_listing(cancelled, harness, schedule):
    if cancelled:
        harness.operate("cancel")
        harness.deliver_all()
    harness.clock.advance(HOURS)
    assert listed_by_a_tick(harness, schedule) == set()


def lose_sweeps(h, first, last):
    """Runs rounds of two clients without delivering a sweep."""
    for number in range(first, last + 1):
        for client in range(2):
            h.upload(h.assigned(f"{number} {client}").token, sum_update(client))
        while due := [entry for entry in h.queue.held if entry.work.kind != "sweep" and entry.due <= h.clock.now()]:
            assert h.deliver(due[0]) == 204
        h.queue.held = [entry for entry in h.queue.held if entry.work.kind != "sweep"]


def test_lost_sweep_is_repeated_however_many_rounds_follow(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=2, rounds=9, round_seconds=86_400)
    lose_sweeps(h, 1, 6)
    assert {names.round_of(name).number for name in h.blobs(names.MANIFESTS)} >= set(range(1, 7))
    h.tick()
    assert h.leftovers() == []


def progress_of(h):
    document = h.inner.documents.get(names.sweep_progress_path("sum"))
    return None if document is None else int(document.data["round"][:6])


def test_older_rounds_are_checked_once_more_a_few_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(maintenance, "MAX_OLDER_ROUNDS", 2)
    h = Harness(tmp_path)
    h.begin(goal=2, rounds=9, round_seconds=86_400)
    lose_sweeps(h, 1, 8)
    h.tick()
    assert progress_of(h) is None  # a request may still write to rounds that have just ended
    h.clock.advance(HOURS)
    progress = []
    for _ in range(4):
        h.tick()
        progress.append(progress_of(h))
    assert progress == [2, 4, 6, 6]
    assert h.leftovers() == []


def test_slot_holder_written_after_the_sweep_of_an_older_round_is_removed(harness):
    h = harness
    lose_sweeps(h, 5, 8)
    first = h.committed()[0].key
    h.tick()
    h.inner.documents.create(names.holder_path(first, "0" * 32), {"counter": 0, "issued_at": 1.0})
    h.inner.documents.increment(names.ticket_path(first, 0), {"issued:0": 1})
    assert h.leftovers() != []
    h.clock.advance(HOURS)
    h.tick()
    assert h.leftovers() == []


def test_update_that_arrives_hours_late_is_removed(harness):
    old = next(round_ for round_ in harness.committed() if round_.key.number == 4)
    harness.clock.advance(HOURS)
    harness.platform.blobs.create(names.update_name(old.key, 0, "0" * 32), [encode(sum_update(0))])
    harness.tick()
    assert harness.blobs(names.UPDATES) == []


def create_stray_manifests(h, number, manifests):
    """Creates manifests of an ended round, which earlier versions never deleted."""
    key = replace(h.key(), number=number)
    for index in range(manifests):
        h.platform.blobs.create(names.manifest_name(key, 0, index), [b'{"updates":["updates/x"],"sealed":false}'])
    h.platform.blobs.create(names.closing_name(key), [b"{}"])


def tick_for_ten_minutes(h):
    for _ in range(10):
        h.tick()
        h.clock.advance(60)


def test_manifests_of_ended_rounds_are_removed(harness):
    h = harness
    open_ = names.manifest_name(h.key(), 0, 0)
    h.platform.blobs.create(open_, [b'{"updates":[],"sealed":false}'])
    tick_for_ten_minutes(h)
    assert h.blobs(names.MANIFESTS) == [open_]
    # The documents of ended rounds hold all counts.
    assert [
        (view.assigned, view.reported, view.folded) for view in map(h.app.task_operations.round_view, h.committed())
    ] == [(2, 2, 2)] * 4


def test_ticks_remove_manifests_of_an_earlier_version_a_few_at_a_time(harness, monkeypatch):
    h = harness
    monkeypatch.setattr(maintenance, "MAX_STRAY_MANIFESTS", 5)
    h.clock.advance(HOURS)
    for number in range(1, 4):
        create_stray_manifests(h, number, 3)
    create_stray_manifests(h, 99, 3)  # of a round that does not exist
    counts = []
    for _ in range(5):
        tick_for_ten_minutes(h)
        counts.append(len(h.blobs(names.MANIFESTS)))
    assert counts == [11, 6, 1, 0, 0]


def test_writes_of_a_late_aggregator_to_a_swept_round_are_removed(harness):
    h = harness
    old = h.committed()[-1]
    late = RoundLedger(h.inner, old.key)
    h.platform.blobs.create(names.update_name(old.key, 0, "0" * 32), [encode(sum_update(0))])
    assert late.freeze_chunk(0, chunk=1) is not None
    late.freeze(Aggregating(old.key, old.terms, closed_at=old.closed_at), Tally())
    assert len(h.blobs(names.MANIFESTS)) == 3
    h.app.round_closer.close(old.key)
    h.app.round_committer.commit(old.key)
    assert h.round(old.key) == old
    tick_for_ten_minutes(h)
    assert h.blobs(names.MANIFESTS) == []
    assert h.leftovers() == []


def test_large_round_is_swept_in_steps_and_its_salt_last(harness, monkeypatch):
    h = harness
    monkeypatch.setattr(maintenance, "_PAGE", 4)
    monkeypatch.setattr(maintenance, "_MAX_PAGES", 2)
    key = h.key()
    tokens = [h.assigned(client).token for client in range(2)]
    for number in range(17):
        h.inner.documents.create(names.holder_path(key, f"{number:032x}"), {"counter": 0, "issued_at": 1.0})
    for client, token in enumerate(tokens):
        h.upload(token, sum_update(client))
    while h.key() == key:
        held = h.queue.held[0]
        h.deliver(held)
    sweeps = []
    while due := [held for held in h.queue.held if held.work.kind == "sweep"]:
        h.deliver(due[0])
        left = len(h.inner.documents.list(names.holders_path(key)))
        salt = h.inner.documents.get(names.pseudonym_key_path(key)) is not None
        sweeps.append((left, salt))
    assert sweeps == [(11, True), (3, True), (0, False)]
    assert h.leftovers() == []
