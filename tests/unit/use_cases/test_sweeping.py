"""What ticks cost, and what they still find, once a task's rounds have long ended."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.faults import FaultyBlobs, Schedule
from support.harness import Harness
from support.plans import sum_update

from coordinator.domain import names
from coordinator.domain.rounds import Aggregating, Tally
from coordinator.use_cases import sweeping
from coordinator.use_cases.ledgers import Ledger
from muster.wire.tensors import encode

HOURS = 3 * 3600.0  # after which nobody can still be at work on a round
LIST = "blobs.list "
ALWAYS = {"updates/", "partials/"}  # what every tick lists


@pytest.fixture
def schedule():
    """Knows what was read of the blobs."""
    return Schedule()


@pytest.fixture
def harness(schedule, tmp_path):
    """Four rounds of two clients have ended, and the fifth, which lasts a day, is open."""
    h = Harness(tmp_path, wrap=lambda platform: replace(platform, blobs=FaultyBlobs(platform.blobs, schedule)))
    h.begin(goal=2, rounds=9, round_seconds=86_400)
    for number in range(1, 5):
        for client in range(2):
            h.upload(h.assigned(f"{number} {client}").token, sum_update(client))
        h.deliver_all()
    assert h.key().number == 5
    return h


def listed_by_a_tick(h: Harness, schedule: Schedule) -> set[str]:
    """What a tick lists, but for the round that is open."""
    schedule.reads.clear()
    h.tick()
    h.deliver_all()
    listed = {read.removeprefix(LIST) for read in schedule.reads if read.startswith(LIST)}
    return {prefix for prefix in listed if h.key().id not in prefix} - ALWAYS


def test_rounds_that_have_just_ended_are_swept_again(harness, schedule):
    assert {prefix.partition("/")[0] for prefix in listed_by_a_tick(harness, schedule)} >= {
        "updates",
        "partials",
        "checkpoints",
    }


@pytest.mark.parametrize("cancelled", [False, True])
def test_rounds_that_ended_hours_ago_cost_no_lists(cancelled, harness, schedule):
    if cancelled:
        harness.operate("cancel")
        harness.deliver_all()
    harness.clock.advance(HOURS)
    assert listed_by_a_tick(harness, schedule) == set()


def test_a_round_whose_sweep_was_lost_is_swept_however_many_rounds_have_followed(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=2, rounds=9, round_seconds=86_400)
    for number in range(1, 7):
        for client in range(2):
            h.upload(h.assigned(f"{number} {client}").token, sum_update(client))
        while due := [held for held in h.queue.held if held.work.kind != "sweep" and held.due <= h.clock.now()]:
            assert h.deliver(due[0]) == 204
        h.queue.held = [held for held in h.queue.held if held.work.kind != "sweep"]
    assert {names.round_of(name).number for name in h.blobs(names.MANIFESTS)} >= set(range(1, 7))
    h.tick()
    assert h.leftovers() == []


def test_older_rounds_are_read_once_more_and_some_at_a_time(harness, monkeypatch):
    monkeypatch.setattr(sweeping, "MAX_OLDER_ROUNDS", 1)
    h = harness
    for number in range(5, 9):
        for client in range(2):
            h.upload(h.assigned(f"{number} {client}").token, sum_update(client))
        h.deliver_all()
    for round_ in h.committed():  # as if no sweep had come so far
        h.inner.documents.create(names.pseudonym_key_path(round_.key), {"key": "x"})
    progress = []
    for _ in range(8):
        h.tick()
        document = h.inner.documents.get(names.sweep_progress_path("sum"))
        progress.append(document and document.data["round"][:6])
    assert progress == ["000001", "000002", "000003", "000004", "000005", "000006", "000006", "000006"]
    assert h.leftovers() == []


def test_an_update_that_comes_hours_after_its_round_is_removed(harness):
    old = next(round_ for round_ in harness.committed() if round_.key.number == 4)
    harness.clock.advance(HOURS)
    harness.platform.blobs.create(names.update_name(old.key, 0, "0" * 32), [encode(sum_update(0))])
    harness.tick()
    assert harness.blobs(names.UPDATES) == []


def left_by_the_version_before(h, number, manifests):
    """Manifests of an ended round, as that version left them for good."""
    key = replace(h.key(), number=number)
    for index in range(manifests):
        h.platform.blobs.create(names.manifest_name(key, 0, index), [b'{"updates":["updates/x"],"sealed":false}'])
    h.platform.blobs.create(names.closing_name(key), [b"{}"])


def ticks_of_ten_minutes(h):
    for _ in range(10):
        h.tick()
        h.clock.advance(60)


def test_manifests_go_with_their_round_and_those_of_an_open_round_stay(harness):
    h = harness
    open_ = names.manifest_name(h.key(), 0, 0)
    h.platform.blobs.create(open_, [b'{"updates":[],"sealed":false}'])
    ticks_of_ten_minutes(h)
    assert h.blobs(names.MANIFESTS) == [open_]
    # Every count of the rounds that have ended is in their documents.
    assert [(view.assigned, view.reported, view.folded) for view in map(h.app.tasks.round_view, h.committed())] == [
        (2, 2, 2)
    ] * 4


def test_manifests_that_an_earlier_version_left_are_removed_by_ticks_some_at_a_time(harness, monkeypatch):
    h = harness
    monkeypatch.setattr(sweeping, "MOST_STRAY_MANIFESTS", 5)
    h.clock.advance(HOURS)
    for number in range(1, 4):
        left_by_the_version_before(h, number, 3)
    left_by_the_version_before(h, 99, 3)  # of a round that is not there
    counts = []
    for _ in range(5):
        ticks_of_ten_minutes(h)
        counts.append(len(h.blobs(names.MANIFESTS)))
    assert counts == [11, 6, 1, 0, 0]


def test_what_a_late_aggregator_makes_of_a_swept_round_is_removed_and_changes_nothing(harness):
    h = harness
    old = h.committed()[-1]
    late = Ledger(h.inner, old.key)
    h.platform.blobs.create(names.update_name(old.key, 0, "0" * 32), [encode(sum_update(0))])
    assert late.freeze_chunk(0, chunk=1) is not None
    late.freeze(Aggregating(old.key, old.terms, closed_at=old.closed_at), Tally())
    assert len(h.blobs(names.MANIFESTS)) == 3
    h.app.closing(old.key)
    h.app.committing.commit(old.key)
    assert h.round(old.key) == old
    ticks_of_ten_minutes(h)
    assert h.blobs(names.MANIFESTS) == []
    assert h.leftovers() == []


def test_holders_of_a_large_round_are_removed_by_several_sweeps_and_the_salt_last(harness, monkeypatch):
    h = harness
    monkeypatch.setattr(sweeping, "_PAGE", 4)
    monkeypatch.setattr(sweeping, "_MOST_PAGES", 2)
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
