"""Injected faults happen once, at the scheduled call."""

from __future__ import annotations

import pytest
from support.faults import (
    Access,
    Crash,
    DisorderlyQueue,
    Fault,
    FaultyBlobs,
    FaultyDocuments,
    FaultyQueue,
    Schedule,
    When,
)

from muster_coordinator.adapters.directory import DirectoryBlobs
from muster_coordinator.adapters.local_queue import LocalQueue, Pump
from muster_coordinator.adapters.sqlite import SqliteDocuments
from muster_coordinator.adapters.system import ManualClock, SeededRandomness
from muster_coordinator.ports import UnavailableError, WorkItem


@pytest.mark.parametrize("when", When)
def test_crash_happens_before_or_after_the_numbered_write(tmp_path, when):
    schedule = Schedule(
        Fault(3, when), Fault(1, When.AFTER, UnavailableError), Fault(1, when, UnavailableError, Access.READ)
    )
    inner, files = SqliteDocuments.in_memory(), DirectoryBlobs(tmp_path)
    queue = LocalQueue.in_memory(clock=ManualClock())
    documents, blobs = FaultyDocuments(inner, schedule), FaultyBlobs(files, schedule)
    with pytest.raises(UnavailableError):
        documents.create("a/b", {})
    assert inner.get("a/b") is not None
    blobs.create("x/1", [b""])
    with pytest.raises(UnavailableError):
        documents.get("a/b")
    with pytest.raises(Crash, match=r"write 3: queue\.enqueue name"):
        FaultyQueue(queue, schedule).enqueue(WorkItem("aggregator", "fold", {}), name="name")
    assert (queue.next_due() is not None) == (when is When.AFTER)
    blobs.delete(["x/1", "x/2"])
    assert schedule.writes[1:] == ["blobs.create x/1", "queue.enqueue name", "blobs.delete x/1", "blobs.delete x/2"]
    assert schedule.reads == ["documents.get a/b"]
    assert schedule.calls["blobs.delete"] == 2


def test_disorderly_queue_duplicates_and_reorders_but_loses_nothing():
    clock, seen = ManualClock(), []
    inner = LocalQueue.in_memory(clock=clock)
    queue = DisorderlyQueue(inner, SeededRandomness(7))
    for number in range(50):
        queue.enqueue(WorkItem("aggregator", "fold", {"n": number}), name=str(number))
    pump = Pump(inner, lambda delivery: seen.append(delivery.work.payload["n"]) or True, randomness=SeededRandomness(1))
    while (due := inner.next_due()) is not None:
        pump.drain(clock.advance_to(due))
    assert set(seen) == set(range(50))
    assert 55 < len(seen) < 80
    assert seen != sorted(seen)
