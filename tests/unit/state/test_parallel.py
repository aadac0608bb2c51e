"""Tests of concurrent store calls: their order, their bound, and that none is left running."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace

import pytest
from support.harness import Harness
from support.plans import sum_update

from muster_coordinator.ports import BlobNotFoundError, BlobTooLargeError
from muster_coordinator.state.parallel import map_concurrently, prefetch

SECONDS = 120.0  # longest wait of a test


@dataclass
class RecordingBlobs:
    """Blobs that record the names of reads. `before` is called with each name before its read."""

    inner: object
    before: Callable[[str], None] = lambda _: None

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self.reads: list[str] = []

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def read(self, name, **options):
        with self.lock:
            self.reads.append(name)
        self.before(name)
        return self.inner.read(name, **options)


@pytest.fixture
def platform(tmp_path):
    """Returns ports with blobs `b/0` to `b/7`, which hold their numbers; 8 concurrent calls."""
    blobs = RecordingBlobs(Harness(tmp_path).inner.blobs)
    for number in range(8):
        blobs.create(f"b/{number}", [b"%d" % number])
    return replace(Harness(tmp_path).inner, blobs=blobs, at_once=8)


NAMES = [f"b/{number}" for number in range(8)]


def test_calls_run_concurrently_and_results_are_in_order(platform):
    meeting = threading.Barrier(8)

    def call(number: int) -> int:
        meeting.wait(SECONDS)
        return number

    assert map_concurrently(platform, call, range(8)) == list(range(8))


def test_single_calls_run_in_the_calling_thread(platform):
    alone = replace(platform, at_once=1)
    assert set(map_concurrently(alone, lambda _: threading.get_ident(), range(5))) == {threading.get_ident()}
    with prefetch(alone, NAMES, size=1) as read:
        assert platform.blobs.reads == []
        assert bytes(read("b/0")) == b"0"
        assert platform.blobs.reads == ["b/0"]


def test_error_of_a_call_is_raised(platform):
    def call(number: int) -> int:
        return 12 // number

    with pytest.raises(ZeroDivisionError):
        map_concurrently(platform, call, [3, 0, 4])


def test_blobs_are_read_in_order_and_prefetched(platform):
    meeting = threading.Barrier(7)
    platform.blobs.before = lambda name: meeting.wait(SECONDS) if name < "b/7" else None
    with prefetch(platform, NAMES, size=1) as read:
        assert [bytes(read(name)) for name in NAMES] == [b"%d" % number for number in range(8)]
    assert sorted(platform.blobs.reads) == NAMES


@pytest.mark.parametrize(("size", "ahead"), [(1 << 20, 4), (3 << 20, 1), (4 << 20, 1), (5 << 20, 0), (1 << 40, 0)])
def test_prefetched_bytes_are_bounded(size, ahead, platform):
    reached = threading.Semaphore(0)
    platform.blobs.before = lambda _: reached.release()
    with prefetch(platform, NAMES, size=size) as read:
        for _ in range(ahead):
            assert reached.acquire(timeout=SECONDS)
        assert sorted(platform.blobs.reads) == NAMES[:ahead]
        read("b/0")
        assert reached.acquire(timeout=SECONDS)
        assert len(platform.blobs.reads) == ahead + 1


def test_error_is_raised_by_the_read_of_its_blob(platform):
    platform.blobs.delete(["b/1"])
    with prefetch(platform, NAMES, size=1, limit=1) as read:
        assert bytes(read("b/0")) == b"0"
        with pytest.raises(BlobNotFoundError):
            read("b/1")
        assert bytes(read("b/2")) == b"2"
    with prefetch(platform, NAMES, size=1, limit=0) as read, pytest.raises(BlobTooLargeError):
        read("b/0")


def test_no_prefetch_is_left_running(platform):
    threads = threading.active_count()
    with prefetch(platform, NAMES, size=1) as read:
        read("b/0")
    assert threading.active_count() == threads


@pytest.mark.parametrize("at_once", [1, 8])
def test_close_reads_each_manifest_once_and_counts_every_update(at_once, tmp_path):
    blobs = RecordingBlobs(Harness(tmp_path / "blobs").inner.blobs)
    h = Harness(tmp_path, durable=True, wrap=lambda inner: replace(inner, blobs=blobs, at_once=at_once))
    h.begin(rounds=1, goal=40, minimum=40, shards=3, chunk=4)
    tokens = [h.assigned(client).token for client in range(40)]
    for client, token in enumerate(tokens):
        h.deliver_all()  # full chunks are folded before the last update arrives
        blobs.reads.clear()
        h.upload(token, sum_update(client))
    (close,) = [held for held in h.queue.held if held.work.kind == "close" and held.due <= h.clock.now()]
    h.deliver(close)
    manifests = [name for name in blobs.reads if name.startswith("manifests/") and not name.endswith("closing")]
    assert len(manifests) == len(set(manifests)) > 6
    h.settle()
    assert [ended.tally.folded for ended in h.committed()] == [40]
    assert int(h.result(1)["ids"]) == (1 << 40) - 1


@pytest.mark.parametrize(("shards", "folded_here"), [(3, True), (12, False)])
def test_tick_folds_few_shards_itself_and_enqueues_many(shards, folded_here, tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=200, shards=shards, chunk=2)
    for client in range(60):
        h.upload(h.assigned(client).token, sum_update(client))
    h.queue.held.clear()  # all messages are lost
    h.tick()
    folds = [held.work.payload["shard"] for held in h.queue.held if held.work.kind == "fold"]
    assert folds == [] if folded_here else len(folds) == len(set(folds)) > 4
    h.deliver_all()
    assert len(h.blobs("updates/")) <= shards
    h.tick()
    assert [held for held in h.queue.held if held.work.kind == "fold"] == []


def test_calls_run_in_the_context_of_their_caller(platform):
    """Log lines of these threads then name the request."""
    request = ContextVar("request", default="")
    contexts = []
    platform.blobs.before = lambda _: contexts.append(request.get())
    request.set("this one")
    assert map_concurrently(platform, lambda _: request.get(), range(8)) == ["this one"] * 8
    with prefetch(platform, NAMES, size=1) as read:
        assert [bytes(read(name)) for name in NAMES] == [b"%d" % number for number in range(8)]
    assert contexts == ["this one"] * 8
