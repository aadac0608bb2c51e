"""Repairs by the tick: what it repairs, what it ignores, and isolation of broken tasks."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import numpy as np
import pytest
from support.faults import FaultyDocuments, Schedule
from support.harness import POPULATION, Harness
from support.plans import SumRuntime, folded_by_graphs, make_plan, sum_plan, sum_update

from muster.wire.dtypes import DType
from muster.wire.manifest import ClearSum, TensorSpec
from muster.wire.messages import TaskStatus
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import encode
from muster_coordinator.domain import names
from muster_coordinator.domain.rounds import Aggregating, Committed
from muster_coordinator.ports import StoreError
from muster_coordinator.state.round_cache import RoundCache

SECONDS = 20.0  # timeout of an expected event


def queued(h: Harness, kind: str) -> int:
    return sum(held.work.kind == kind for held in h.queue.held)


def contribute(h: Harness, *clients: int) -> None:
    for token in [h.assigned(client).token for client in clients]:
        h.upload(token, sum_update(clients[0]))


def test_irreparable_task_does_not_block_repairs_of_others(tmp_path):
    h = Harness(tmp_path)
    h.begin(rounds=1, goal=2)
    contribute(h, 0, 1)
    h.queue.held.clear()  # the close is lost
    late = names.update_name(replace(h.key(), task="gone"), 0, "0" * 32)
    h.inner.blobs.create(late, [encode(sum_update(0))])
    h.create_task("aaa")  # sorts before the others
    h.deliver_all()
    open_ = h.inner.rounds.get(names.round_path(h.inner.task("aaa").value.current))
    h.inner.blobs.create(names.manifest_name(open_.value.key, 0, 0), [b"no manifest"])
    with pytest.raises(StoreError, match=r"manifests/aaa/.* can't be read"):
        h.app.maintenance.tick()
    h.deliver_all()
    assert len(h.committed()) == 1
    assert late not in h.blobs(names.UPDATES)


class FailingMerge(SumRuntime):
    """Runtime whose `merge` fails."""

    def accumulate(self, accumulator, update, *, only, **_):
        return {name: accumulator[name] + update[name] for name in only}

    def merge(self, *_, **__):
        raise ProblemError(ProblemType.COMPUTATION_FAILED, "merge divides by nothing")


def test_failing_merge_pauses_the_task_with_reason(tmp_path):
    h = Harness(tmp_path, plan=folded_by_graphs(sum_plan()), runtime=FailingMerge())
    h.begin(rounds=2, goal=4, chunk=2)
    contribute(h, 0, 1, 2, 3)
    h.deliver_all()
    assert (h.task().status, h.task().note) == (
        TaskStatus.PAUSED,
        "Round 1 can't be committed: merge divides by nothing",
    )
    h.settle()
    assert queued(h, "commit") == 0
    h.runtime.merge = lambda left, right, *, only, **_: {name: left[name] + right[name] for name in only}
    h.operate("resume")
    h.deliver_all()
    assert [round_.tally.folded for round_ in h.committed()] == [4]


def test_overflowing_clear_sum_pauses_the_task(tmp_path):
    most = (1 << 62) - 1
    clear = ClearSum(path="wide", dtype=DType.INT64, shape=(), kind="secure_sum", maximum=most)
    spec = TensorSpec(path="count", dtype=DType.INT64, shape=())
    plan = make_plan(
        "wide",
        state={"total": np.int64(0)},
        update=(spec, TensorSpec(path="wide", dtype=DType.INT64, shape=())),
        zero={"count": np.int64(0)},
        clear_sums=(clear,),
    )
    h = Harness(tmp_path, plan=plan)
    h.begin(rounds=1, goal=4, chunk=2)
    for client in range(4):
        update = {"count": np.int64(1), "wide": np.int64(1 << 61)}
        h.upload(h.assigned(client).token, {name: np.asarray(value) for name, value in update.items()})
    h.deliver_all()
    assert h.task().status is TaskStatus.PAUSED
    assert "wide: the sum would not fit int64" in h.task().note


def test_paused_task_computes_nothing_before_resume(tmp_path):
    def fail():
        raise ProblemError(ProblemType.COMPUTATION_FAILED, "no")

    h = Harness(tmp_path, runtime=SumRuntime(before_update=fail))
    h.begin(rounds=1, goal=1)
    contribute(h, 0)
    h.deliver_all()
    assert h.task().status is TaskStatus.PAUSED
    tried = len(h.runtime.reported)
    h.settle(minutes=10)
    assert len(h.runtime.reported) == tried


def test_concurrent_closes_enqueue_one_commit(tmp_path):
    h = Harness(tmp_path)
    h.begin(rounds=1, goal=4, over_selection=3.0)
    contribute(h, *range(12))
    while closes := [held for held in h.queue.held if held.work.kind == "close" and "deadline" not in held.name]:
        h.deliver(closes[0])
    assert queued(h, "commit") == 1
    h.deliver_all()
    assert [round_.tally.folded for round_ in h.committed()] == [12]


def test_update_after_the_close_enqueues_nothing(tmp_path):
    h = Harness(tmp_path, cache_seconds=60.0)
    h.begin(rounds=1, goal=2, over_selection=2.0)
    tokens = [h.assigned(client).token for client in range(4)]
    for client in (0, 1):
        h.upload(tokens[client], sum_update(client))
    h.app.round_closer.close(h.key())
    assert isinstance(h.round(), Aggregating)
    before = len(h.queue.held)
    # In this instance's cache, the round still collects.
    assert h.upload(tokens[2], sum_update(2)).status == "accepted"
    assert len(h.queue.held) == before
    h.deliver_all()
    assert h.committed()[0].tally.folded == 2


def test_ticks_enqueue_slow_work_once_per_interval(tmp_path):
    h = Harness(tmp_path)
    h.begin(rounds=1, goal=2)
    contribute(h, 0, 1)
    h.deliver(next(held for held in h.queue.held if held.work.kind == "close"))
    h.queue.held = [held for held in h.queue.held if held.work.kind != "commit"]  # lost, or slow
    counts = []
    for _ in range(60):
        h.tick()
        h.clock.advance(5.0)
        counts.append(queued(h, "commit"))
    assert counts[0] == 1
    assert counts[-1] == 4  # at once, after a minute, after two, after four
    h.deliver_all()
    assert isinstance(h.round(), Committed)


def test_tick_cost_does_not_grow_with_attempts(tmp_path):
    schedule = Schedule()
    h = Harness(
        tmp_path, wrap=lambda platform: replace(platform, documents=FaultyDocuments(platform.documents, schedule))
    )
    h.begin(rounds=1, goal=3, minimum=2, round_seconds=60)
    costs = []
    for attempt in range(30):
        contribute(h, attempt)
        h.clock.advance(61.0)
        h.settle(minutes=1)
        if attempt in (6, 29):
            schedule.calls.clear()
            h.tick()
            costs.append(sum(schedule.calls.values()))
    assert len(h.abandoned()) >= 29
    assert costs[1] <= costs[0]


def test_concurrent_check_ins_share_one_read(tmp_path):
    calls = Counter()

    class Counted:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            def call(*args, **options):
                calls[name] += 1
                return getattr(self.inner, name)(*args, **options)

            return call

    h = Harness(tmp_path, durable=True)
    h.begin(rounds=1, goal=2)
    open_rounds = RoundCache(replace(h.inner, documents=Counted(h.inner.documents)), seconds=10.0)
    meeting = Barrier(8)

    def read(_):
        meeting.wait(SECONDS)
        return open_rounds.of(POPULATION)

    with ThreadPoolExecutor(8) as pool:
        snapshots = list(pool.map(read, range(8)))
    assert all(snapshot is snapshots[0] for snapshot in snapshots)
    assert calls == {"list": 2, "get": 2}
