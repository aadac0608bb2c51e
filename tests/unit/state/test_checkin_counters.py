"""Counters of check-ins: few writes, bounded memory, estimates, and no trace of an identity."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.faults import FaultyDocuments, Schedule
from support.harness import START

from muster_coordinator.adapters.directory import DirectoryBlobs
from muster_coordinator.adapters.local_queue import LocalQueue
from muster_coordinator.adapters.sqlite import SqliteDocuments
from muster_coordinator.adapters.system import ManualClock, SeededRandomness
from muster_coordinator.domain import client_sketch, names
from muster_coordinator.domain.keys import KeyRing
from muster_coordinator.ports import UnavailableError
from muster_coordinator.state import checkin_counters
from muster_coordinator.state.checkin_counters import ASSIGNED, CheckinCounters
from muster_coordinator.state.platform import Platform
from muster_coordinator.use_cases.populations import Populations

RING = KeyRing.of(b"a key of the tests, which is long enough")


@pytest.fixture
def schedule():
    return Schedule()


@pytest.fixture
def platform(tmp_path, schedule):
    clock = ManualClock(START)
    return Platform(
        documents=FaultyDocuments(SqliteDocuments.in_memory(), schedule),
        blobs=DirectoryBlobs(tmp_path),
        queue=LocalQueue(None, clock=clock),
        clock=clock,
        randomness=SeededRandomness(0),
    )


def instance(platform, ring=RING):
    return CheckinCounters(platform, ring=ring)


def view(platform, population="phones"):
    return {entry.population: entry for entry in Populations(platform).list().populations}[population]


def stored(platform):
    return platform.documents.list(names.CHECKINS)


def test_first_check_in_of_a_population_is_written_at_once(platform):
    counters = instance(platform)
    counters.count("phnoes", "no_task", known=False, identity="a")
    assert view(platform, "phnoes").checkins == {"no_task": 1}
    assert view(platform, "phnoes").clients == 1
    assert view(platform, "phnoes").tasks == ()


@pytest.mark.parametrize(("outcome", "per_write"), [(ASSIGNED, 50), ("round_full", 300)])
def test_writes_are_few(platform, schedule, outcome, per_write):
    counters = instance(platform)
    for number in range(3000):
        counters.count("phones", outcome, known=True, identity=f"client {number}")
        platform.clock.advance(0.1)  # ten a second
    counters.flush()
    assert view(platform).checkins == {outcome: 3000}
    assert len(schedule.writes) <= 3000 / per_write + 2


def test_an_instance_writes_at_most_once_a_second_and_few_documents(platform, schedule):
    counters = instance(platform)
    for number in range(30):
        counters.count(f"population-{number}", ASSIGNED, known=True, identity="a")
        platform.clock.advance(0.01)
    assert len(schedule.writes) == 1
    platform.clock.advance(1.0)
    counters.count("population-0", ASSIGNED, known=True, identity="a")
    assert len(schedule.writes) == 1 + checkin_counters.MAX_DOCUMENTS
    counters.flush()
    assert len(stored(platform)) == 30


def test_ten_thousand_clients_are_estimated_within_a_quarter(platform, measured):
    estimates = []
    for number in range(10):
        ring = KeyRing.of(bytes([number]) * 32)
        name = f"population-{number}"
        counters = instance(platform, ring)
        for client in range(10_000):
            counters.count(name, ASSIGNED, known=True, identity=f"client {client}")
        counters.flush()
        estimates.append(view(platform, name).clients)
    measured(f"Estimates of 10,000 clients under ten keys: {sorted(estimates)}")
    assert all(abs(estimate / 10_000 - 1) <= 0.25 for estimate in estimates)
    assert abs(sum(estimates) / len(estimates) / 10_000 - 1) <= 0.1


@pytest.mark.parametrize("clients", [0, 1, 2, 5, 20, 50, 100, 150, 200, 500, 2000])
def test_few_clients_are_estimated_too(clients):
    relative = []
    for seed in range(20):
        pairs = {
            client_sketch.pair_of(hashlib.sha256(f"{seed} {client}".encode()).digest()) for client in range(clients)
        }
        relative.append(client_sketch.estimate(pairs) - clients)
    assert abs(sum(relative) / 20) <= 0.1 * clients
    assert max(map(abs, relative)) <= max(2, 0.35 * clients)


def test_duplicates_and_several_instances_do_not_inflate_the_estimate(platform):
    one = instance(platform)
    for client in range(2000):
        one.count("phones", ASSIGNED, known=True, identity=f"client {client}")
    one.flush()
    before = view(platform).clients
    for _ in range(3):
        other = instance(platform)
        for client in range(2000):
            other.count("phones", "round_full", known=True, identity=f"client {client}")
        other.flush()
    platform.clock.advance(3 * checkin_counters.HOUR)
    for client in range(2000):
        one.count("phones", "round_full", known=True, identity=f"client {client}")
    one.flush()
    assert view(platform).clients == before
    assert view(platform).checkins == {ASSIGNED: 2000, "round_full": 8000}


def test_a_day_is_counted_and_no_longer(platform):
    counters = instance(platform)
    counters.count("phones", ASSIGNED, known=True, identity="a")
    platform.clock.advance(23 * checkin_counters.HOUR)
    assert view(platform).checkins == {ASSIGNED: 1}
    platform.clock.advance(checkin_counters.HOUR)
    assert Populations(platform).list().populations == ()


def test_counts_of_a_past_hour_are_written_to_that_hour(platform):
    counters = instance(platform)
    for _ in range(3):
        counters.count("phones", ASSIGNED, known=True, identity="a")
    platform.clock.advance(checkin_counters.HOUR)
    counters.count("phones", ASSIGNED, known=True, identity="a")
    platform.clock.advance(2.0)
    counters.count("tablets", ASSIGNED, known=True, identity="a")
    counters.flush()
    counts = {document.id: document.data[ASSIGNED] for document in stored(platform)}
    hour = int(START // checkin_counters.HOUR)
    assert counts == {f"{hour:08d}.phones": 3, f"{hour + 1:08d}.phones": 1, f"{hour + 1:08d}.tablets": 1}


def test_documents_hold_no_identity_and_can_not_be_linked_without_the_key(platform):
    identities = [f"jane-doe-{number}@example.org" for number in range(100)]
    for ring in (RING, KeyRing.of(b"another key of the tests, long enough")):
        counters = instance(platform, ring)
        for identity in identities:
            counters.count("phones" if ring is RING else "others", ASSIGNED, known=True, identity=identity)
        counters.flush()
    others, phones = stored(platform)
    text = json.dumps([dict(document.data) for document in (others, phones)])
    assert "jane" not in text
    assert "example" not in text
    assert all(re.fullmatch(r"assigned|s\d{4}", name) for name in phones.data)
    assert set(others.data) != set(phones.data)


def test_populations_without_a_task_are_bounded_and_do_not_crowd_out_others(platform):
    counters = instance(platform)
    for number in range(500):
        counters.count(f"random-{number}", "no_task", known=False, identity="a")
        counters.count(f"refused-{number}", "unauthenticated", known=False)
    for number in range(20):
        counters.count(f"real-{number}", ASSIGNED, known=True, identity="a")
    counters.flush()
    populations = [entry.population for entry in Populations(platform).list().populations]
    unknown = [name for name in populations if not name.startswith("real")]
    assert len(unknown) == checkin_counters.MAX_UNKNOWN_POPULATIONS
    assert len(populations) == len(unknown) + 20


def test_a_store_that_fails_fails_no_check_in_and_is_logged_once(platform, monkeypatch, caplog):
    counters = instance(platform)

    def fail(*_):
        raise UnavailableError("the store is down")

    with caplog.at_level(logging.WARNING), monkeypatch.context() as patch:
        patch.setattr(platform.documents, "increment", fail)
        for _ in range(5):
            counters.count("phones", ASSIGNED, known=True, identity="a")
            platform.clock.advance(60.0)
        counters.flush()
    assert len([record for record in caplog.records if "can't be counted" in record.message]) == 1
    counters.count("phones", ASSIGNED, known=True, identity="b")
    platform.clock.advance(60.0)
    counters.count("phones", ASSIGNED, known=True, identity="b")
    counters.flush()
    # Lost counts stay lost, but not the clients.
    assert view(platform).checkins == {ASSIGNED: 2}
    assert view(platform).clients == 2


def test_a_large_first_write_stays_within_the_stores_limit_of_increments(platform, monkeypatch):
    sizes = []
    increment = platform.documents.increment
    monkeypatch.setattr(
        platform.documents, "increment", lambda path, by: (sizes.append(len(by)), increment(path, by))[1]
    )
    counters = instance(platform)
    for client in range(50_000):
        counters.count("phones", ASSIGNED, known=True, identity=str(client))
    counters.flush()
    assert max(sizes) <= 410
    assert sum(sizes) > 500


def test_threads_lose_no_count(platform):
    counters = instance(platform)

    def run(thread):
        for number in range(500):
            counters.count("phones", ASSIGNED, known=True, identity=f"{thread} {number}")
            platform.clock.advance(0.01)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(8)))
    counters.flush()
    assert sum(document.data[ASSIGNED] for document in stored(platform)) == 4000


def test_disabled_counters_write_nothing(platform, schedule):
    counters = CheckinCounters(platform, ring=RING, enabled=False)
    counters.count("phones", ASSIGNED, known=True, identity="a")
    counters.flush()
    assert schedule.writes == []
