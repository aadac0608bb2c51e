"""Goal checks of rounds with several shards: prompt, and with few reads per update."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from support.costs import counted
from support.faults import Schedule
from support.harness import Harness
from support.plans import sum_update

SHARDS, GOAL = 6, 60


def test_last_update_closes_the_round(tmp_path):
    h = Harness(tmp_path)
    h.begin(rounds=2, goal=GOAL, shards=SHARDS, chunk=8)
    for client in range(GOAL):
        assert not h.committed()
        h.upload(h.assigned(client).token, sum_update(client % 50))
        h.deliver_all()
    (round_,) = h.committed()
    assert round_.tally.folded == GOAL
    assert h.leftovers() == []


def test_one_of_concurrent_uploads_detects_the_goal(tmp_path):
    h = Harness(tmp_path, durable=True)
    h.begin(rounds=2, goal=GOAL, shards=SHARDS)
    tokens = [h.assigned(client).token for client in range(GOAL)]

    def upload(client: int) -> None:
        h.upload(tokens[client], sum_update(client % 50))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(upload, range(GOAL)))
    assert any(held.work.kind == "close" and held.due <= h.clock.now() for held in h.queue.held)
    h.deliver_all()
    assert [round_.tally.folded for round_ in h.committed()] == [GOAL]


def test_concurrent_goal_check_uses_the_stored_thresholds(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=GOAL, shards=SHARDS)
    goals, round_ = h.app.upload_receiver.goals, h.round()
    for shard in range(SHARDS):
        h.inner.documents.increment(f"tasks/sum/rounds/000001-0000/shards/{shard:04d}", {"updates": 10 - (shard > 2)})
    # Stores thresholds; three updates are missing
    assert not goals.reached(round_, shard=0, count=10)
    # Uses them, without a write
    assert not h.application().upload_receiver.goals.reached(round_, shard=1, count=10)
    for shard in (3, 4, 5):
        assert not goals.reached(round_, shard=shard, count=9)
        h.inner.documents.increment(f"tasks/sum/rounds/000001-0000/shards/{shard:04d}", {"updates": 1})
    assert goals.reached(round_, shard=5, count=10)


@pytest.mark.parametrize("clients", [1500])
def test_reads_per_update_do_not_grow_with_the_shards(tmp_path, clients):
    schedule = Schedule()
    h = Harness(tmp_path, cache_seconds=1.0, wrap=lambda platform: counted(platform, schedule))
    h.begin(rounds=2, goal=clients, shards=12)
    schedule.calls.clear()
    for client in range(clients):
        h.upload(h.assigned(client).token, sum_update(client % 50))
    # An update reads the round and the thresholds, and sometimes all shards. A check-in reads the
    # client's slot.
    assert schedule.calls["documents.get"] - clients < 2.2 * clients
    assert schedule.calls["documents.listed"] < clients
    h.deliver_all()
    assert [round_.tally.folded for round_ in h.committed()] == [clients]
