"""Aged folds: updates that wait long are folded before their chunk is full."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from support.crashing import CrashingHarness
from support.faults import Crash, Fault, Interposed, When
from support.harness import Harness
from support.plans import sum_update

from muster.wire.messages import Phase
from muster.wire.tensors import decode
from muster_coordinator.domain.ledger import AgeLimit
from muster_coordinator.domain.names import partial_name, shard_part
from muster_coordinator.state.round_ledger import RoundLedger

AGE = 60.0  # seconds, the default of a task


def total(*clients):
    return sum(1 << client for client in clients)


def partials(h):
    """Returns the number of updates in each partial of a shard, by its name."""
    names = [name for name in h.blobs("partials/") if "/rest-" not in name]
    return {name: int(decode(h.inner.blobs.read(name))["count"]) for name in names}


def stored(h):
    """Returns the names of the stored updates."""
    return [blob.name for blob in h.inner.blobs.list("updates/") if blob.size]


def contribute(h, *clients):
    for client in clients:
        h.upload(h.assigned(client).token, sum_update(client))


def age_updates(h):
    """Advances the clock past the age limit, and delivers due work."""
    h.clock.advance(AGE + 1)
    h.deliver_all()


class StorageTimes:
    """Recorder of the time for which each update is stored, second by second.

    Attributes:
      since: The time at which each update was first seen, by blob name.
      waited: The seconds for which each deleted update was stored.
    """

    def __init__(self, h: Harness, *, ticks_alone: bool = False) -> None:
        self.h = h
        self.since: dict[str, float] = {}
        self.waited: dict[str, float] = {}
        self._ticks_alone = ticks_alone

    def advance(self, seconds: int) -> None:
        for _ in range(seconds):
            self.h.clock.advance(1.0)
            if self._ticks_alone:
                self.h.queue.held = [held for held in self.h.queue.held if held.work.kind != "fold"]
            self.h.deliver_all()
            if self._ticks_alone and self.h.clock.now() % 60 == 0:
                self.h.tick()
            self.record()

    def record(self) -> None:
        now, present = self.h.clock.now(), set(stored(self.h))
        for name in present:
            self.since.setdefault(name, now)
        for name in self.since.keys() - self.waited.keys() - present:
            self.waited[name] = now - self.since[name]
        assert all(count >= 2 for count in partials(self.h).values())


@pytest.mark.parametrize(("shards", "ticks_alone"), [(1, False), (3, False), (1, True)])
def test_foldable_update_waits_at_most_its_age_limit(shards, ticks_alone, tmp_path, measured):
    h = Harness(tmp_path)
    h.begin(goal=11, minimum=2, chunk=32, shards=shards, round_seconds=600, rounds=2, assignment_seconds=600)
    times = StorageTimes(h, ticks_alone=ticks_alone)
    times.advance(1)
    for client in range(10):
        contribute(h, client)
        times.record()
        times.advance(58)
    pending = len(times.since) - len(times.waited)
    times.advance(30)
    assert h.task().current.round == 2, "the round closed at its deadline"
    assert int(h.result(1)["ids"]) == total(*range(10))
    waits = sorted(times.waited.values())
    measured(
        f"Ten updates over ten minutes in {shards} shards{' with ticks alone' if ticks_alone else ''}: stored for "
        f"{waits[0]:.0f} to {waits[-1]:.0f} s, {sum(waits) / len(waits):.0f} s on average; the limit is {AGE:.0f} s"
    )
    if shards == 1:
        # The first update waits for a second one. The others wait at most for the limit, and for
        # the next tick.
        first, *others = times.waited.values()
        limit = AGE + (60 if ticks_alone else 0)
        assert max(others) <= limit
        assert first <= 58 + limit
        assert pending <= 2


def test_pending_updates_set_one_timer_per_age_limit(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=40, minimum=2, chunk=32, shards=1, round_seconds=6000, rounds=2)
    h.queue.held.clear()
    contribute(h, *range(20))
    assert [held.work.kind for held in h.queue.held] == ["fold"]
    assert h.queue.held[0].due == h.clock.now() + AGE
    age_updates(h)
    assert stored(h) == []
    assert h.queue.held == [], "no update is pending, so no fold is scheduled"
    contribute(h, 20)
    assert len(h.queue.held) == 1


def test_round_that_ends_before_the_age_limit_sets_no_timer(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=40, minimum=2, shards=1, round_seconds=AGE - 1, rounds=2)
    h.queue.held.clear()
    contribute(h, 0)
    assert h.queue.held == []


def test_task_sets_its_age_limit(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=40, minimum=2, shards=1, round_seconds=6000, max_update_age=5)
    contribute(h, 0, 1)
    h.clock.advance(4)
    h.deliver_all()
    h.tick()
    assert len(stored(h)) == 2
    h.clock.advance(1)
    h.deliver_all()
    assert stored(h) == []


def test_single_update_waits_for_a_second_one(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=9, minimum=2, chunk=4, shards=1, round_seconds=6000, rounds=2)
    contribute(h, 0)
    for _ in range(3):
        age_updates(h)
        h.tick()
    assert len(stored(h)) == 1
    assert partials(h) == {}
    contribute(h, 1)
    age_updates(h)
    assert stored(h) == []
    assert list(partials(h).values()) == [2]


def test_aged_updates_continue_the_newest_partial_that_they_fit_into(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=20, minimum=2, chunk=4, shards=1, round_seconds=6000, rounds=2)
    sizes = []
    for clients in ((0, 1), (2,), (3,), (4, 5, 6), (7, 8), (9,), (10, 11, 12, 13), (14,)):
        contribute(h, *clients)
        age_updates(h)
        assert stored(h) == []
        sizes.append(list(partials(h).values()))
    # A partial grows up to a chunk. A single update is folded onto a full partial if there is no
    # other.
    assert sizes == [[2], [3], [4], [4, 3], [4, 3, 2], [4, 3, 3], [4, 3, 3, 4], [4, 3, 4, 4]]
    contribute(h, *range(15, 20))
    h.deliver_all()
    assert (int(h.result(1)["ids"]), int(h.result(1)["count"])) == (total(*range(20)), 20)
    h.settle()
    assert h.leftovers() == []


def test_repeat_of_an_update_folded_early_is_not_counted_again(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=5, minimum=2, chunk=8, shards=1, round_seconds=60000, rounds=2, assignment_seconds=50000)
    tokens = [h.assigned(client).token for client in range(5)]
    for client in range(4):
        h.upload(tokens[client], sum_update(client))
        if client:
            age_updates(h)
            # Every update so far is sent again, including those of superseded partials.
            for repeated in range(client + 1):
                assert h.upload(tokens[repeated], sum_update(repeated)).status == "accepted"
                h.deliver_all()
                age_updates(h)
                h.tick()
                assert list(partials(h).values()) == [client + 1]
            assert stored(h) == []
    assert h.task().current.phase is Phase.COLLECTING
    h.upload(tokens[4], sum_update(4))
    h.deliver_all()
    assert (int(h.result(1)["ids"]), int(h.result(1)["count"])) == (total(*range(5)), 5)


def test_leftover_of_the_close_continues_an_aged_partial(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=4, minimum=2, chunk=8, shards=1, rounds=2, round_seconds=6000)
    key = h.key()
    for clients in ((0, 1), (2,)):
        contribute(h, *clients)
        age_updates(h)
    contribute(h, 3)
    closings = []
    while not closings:  # the sweep deletes the closing with its round
        h.deliver(next(held for held in h.queue.held if held.due <= h.clock.now()))
        closings = [frozen.closing for frozen in [RoundLedger(h.inner, key).frozen()] if frozen is not None]
    (closing,) = closings
    h.deliver_all()
    assert (closing.onto, closing.superseded, closing.parts()) == ("0000-000001", ("0000-000000",), ("rest-000000",))
    assert int(h.result(1)["ids"]) == total(*range(4))


def run_round(h: CrashingHarness) -> bytes:
    """Runs a round that makes a partial, continues it twice and again at the close.

    Returns the checkpoint.
    """

    retry = h.retry

    def until(reached: Any) -> None:
        for _ in range(4):
            retry(h.deliver_all)
            if reached():
                return
            retry(h.tick)
            h.clock.advance(61)
        assert reached()

    retry(h.put_plan)
    retry(
        lambda: h.create_task(
            goal=6,
            minimum=6,
            chunk=4,
            shards=1,
            rounds=2,
            over_selection=2.0,
            round_seconds=1e6,
            assignment_seconds=5e4,
        )
    )
    until(lambda: h.task().current is not None and h.task().status.value == "active")
    for clients in ((0, 1), (2,), (3,), (4,)):
        for client in clients:
            answer = retry(lambda client=client: h.assigned(client))
            retry(lambda answer=answer, client=client: h.upload(answer.token, sum_update(client)))
            retry(h.deliver_all)
        h.clock.advance(AGE + 1)
        retry(h.deliver_all)
        retry(h.tick)
        retry(h.deliver_all)
        assert all(count >= 2 for count in partials(h).values()), partials(h)
        assert stored(h) == []
    answer = retry(lambda: h.assigned(5))
    retry(lambda: h.upload(answer.token, sum_update(5)))
    until(lambda: h.task().checkpoint == 1)
    retry(lambda: h.operate("cancel"))
    for _ in range(3):
        retry(h.tick)
        retry(h.deliver_all)
        h.clock.advance(61)
    assert h.leftovers() == []
    return h.checkpoint(1)


def test_crash_at_any_write_of_an_aged_fold_changes_no_byte(tmp_path):
    clean = CrashingHarness(tmp_path / "clean")
    expected = run_round(clean)
    writes = list(clean.schedule.writes)
    first = next(at for at, write in enumerate(writes, start=1) if write.startswith("blobs.create updates/"))
    superseding = [write for write in writes if write.startswith("blobs.delete partials/")]
    assert len(superseding) >= 3
    for (number, write), when in itertools.product(enumerate(writes, start=1), When):
        if number < first or write.startswith("documents.increment"):  # covered by other tests
            continue
        lose_work = (number % 2 == 0) is (when is When.BEFORE)
        h = CrashingHarness(tmp_path / f"{number}-{when.value}", Fault(number, when), lose_work=lose_work)
        try:
            checkpoint = run_round(h)
        except (AssertionError, Crash) as error:
            raise AssertionError(f"after a crash {when.value} write {number}, {write}") from error
        assert h.crashes == 1
        assert checkpoint == expected, (write, when)
        assert set(h.runtime.reported) == {6}


STEPS = [
    ("list", "updates/"),
    ("read", "updates/"),
    ("read", "manifests/"),
    ("create", "manifests/"),
    ("stat", "partials/"),
    ("read", "partials/"),
    ("create", "partials/"),
    ("delete", "['partials/"),
    ("delete", "('updates/"),
]


@pytest.mark.parametrize(("method", "prefix"), STEPS)
@pytest.mark.parametrize("replayed", [False, True])
def test_partial_superseded_during_a_fold_is_counted_once(method, prefix, replayed, tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=6, minimum=2, chunk=8, shards=1, round_seconds=60000, rounds=2, assignment_seconds=50000)
    key, tokens = h.key(), [h.assigned(client).token for client in range(6)]
    for client in (0, 1):
        h.upload(tokens[client], sum_update(client))
    age_updates(h)
    h.upload(tokens[2], sum_update(2))
    h.clock.advance(AGE + 1)

    def others():
        # Another aggregator folds the third update, then the fourth, and deletes both earlier
        # partials.
        h.app.update_aggregator.fold_shard(key, 0)
        h.upload(tokens[3], sum_update(3))
        h.clock.advance(AGE + 1)
        h.app.update_aggregator.fold_shard(key, 0)
        if replayed:
            for client in range(3):
                h.upload(tokens[client], sum_update(client))

    blobs = Interposed(h.inner.blobs, method, prefix, others)
    h.application(platform=replace(h.inner, blobs=blobs)).update_aggregator.fold_shard(key, 0)
    assert blobs._actions == []
    assert min(partials(h).values()) >= 2
    h.app.update_aggregator.fold_shard(key, 0)
    for client in (4, 5):
        h.upload(tokens[client], sum_update(client))
    h.deliver_all()
    assert (int(h.result(1)["ids"]), int(h.result(1)["count"])) == (total(*range(6)), 6)
    assert h.committed()[0].tally.dropped == {}
    h.settle()
    assert h.leftovers() == []


@pytest.mark.parametrize("attempt", range(4))
def test_concurrent_aged_folds_count_each_update_once(attempt, tmp_path):
    h = Harness(tmp_path, durable=True)
    h.begin(goal=12, minimum=2, chunk=3 + attempt, shards=1 + attempt % 2, rounds=2, round_seconds=60000)
    key, apps = h.key(), [h.application() for _ in range(3)]
    for clients in ((0, 1, 2, 3), (4,), (5, 6), (7,), (8,)):
        contribute(h, *clients)
        h.clock.advance(AGE + 1)
        barrier = threading.Barrier(len(apps))

        def fold(app, barrier=barrier):
            barrier.wait(timeout=20)
            for shard in range(h.round(key).terms.shards):
                app.update_aggregator.fold_shard(key, shard)

        with ThreadPoolExecutor(len(apps)) as pool:
            list(pool.map(fold, apps))
        assert all(count >= 2 for count in partials(h).values())
    contribute(h, 9, 10, 11)
    h.deliver_all()
    assert (int(h.result(1)["ids"]), int(h.result(1)["count"])) == (total(*range(12)), 12)
    assert h.committed()[0].tally.dropped == {}
    h.settle()
    assert h.leftovers() == []


def test_missing_partial_is_made_before_the_one_that_continues_it(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=4, minimum=2, chunk=8, shards=1, round_seconds=60000, rounds=2)
    key = h.key()
    contribute(h, 0, 1)
    h.clock.advance(AGE + 1)
    ledger = RoundLedger(h.inner, key)
    frozen = [ledger.freeze_chunk(0, chunk=8, limit=AgeLimit(AGE, h.clock.now()))]
    contribute(h, 2)
    h.clock.advance(AGE + 1)
    frozen.append(ledger.freeze_chunk(0, chunk=8, limit=AgeLimit(AGE, h.clock.now())))
    assert [(index, len(manifest.updates), manifest.onto) for index, manifest in frozen] == [(0, 2, None), (1, 1, 0)]
    assert partials(h) == {}
    contribute(h, 3)  # closes the round before any fold
    h.deliver_all()
    assert (int(h.result(1)["ids"]), int(h.result(1)["count"])) == (total(*range(4)), 4)
    assert partial_name(key, shard_part(0, 0)) not in h.blobs("partials/")
