"""Guarantees of the embedded adapters beyond the ports: processes, kills, errors, wake-ups."""

from __future__ import annotations

import itertools
import os
import sqlite3
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support import writers

from muster_coordinator.adapters import local_queue
from muster_coordinator.adapters.directory import DirectoryBlobs
from muster_coordinator.adapters.local_queue import Delivery, HttpDelivery, LocalQueue, Pump
from muster_coordinator.adapters.sqlite import SqliteDocuments
from muster_coordinator.adapters.system import ManualClock, SeededRandomness, SystemClock, SystemRandomness
from muster_coordinator.ports import StoreError, UnavailableError, WorkItem

HANGS = 120.0  # seconds after which a test counts as hanging
WORK = WorkItem("aggregator", "fold", {"task": "t1"})


def test_processes_that_create_a_file_concurrently_share_it(tmp_path):
    path = tmp_path / "new" / "documents.db"
    outputs = writers.lines_of(writers.increments, path, 100, processes=8)
    assert sorted(int(value) for output in outputs for value in output) == list(range(1, 801))
    assert SqliteDocuments(path).get("counters/c").data == {"n": 800}


@pytest.mark.parametrize("writer", [writers.creates, writers.replaces])
def test_each_contended_document_write_has_one_winner(tmp_path, writer):
    documents = SqliteDocuments(tmp_path / "documents.db")
    documents.create("counters/r", {"n": 0})
    outputs = writers.lines_of(writer, tmp_path / "documents.db", 50, processes=8)
    total = 400 if writer is writers.replaces else 50
    assert max(Counter(itertools.chain(*outputs)).values()) == 1
    assert sum(map(len, outputs)) == total
    assert total == (documents.get("counters/r").data["n"] or len(documents.list("things")))


@pytest.mark.parametrize("writer", [writers.blobs, writers.churns])
def test_each_contended_blob_has_one_winner(tmp_path, writer):
    outputs = writers.lines_of(writer, tmp_path, 30, processes=8)
    stored = list(DirectoryBlobs(tmp_path).list(""))
    if writer is writers.blobs:
        assert sorted(itertools.chain(*outputs)) == [info.name for info in stored]
        assert {info.size for info in stored} == {writers.BLOB_CHUNK * writers.BLOB_CHUNKS}
    else:
        assert stored == []


@contextmanager
def killed(writer, path, *, after):
    """Runs an endless writer, kills it after some printed lines, and yields all its lines."""
    process = writers.start(writer, path, 0)
    with process:
        lines = [process.stdout.readline() for _ in range(after)]
        process.kill()
        lines += process.stdout.readlines()
    # The last line may be incomplete: its write has completed, but its content is unknown.
    yield [line.strip() for line in lines if line.endswith("\n")]


@pytest.mark.parametrize("after", [1, 50, 301])
def test_killed_process_loses_no_completed_write(tmp_path, after):
    path = tmp_path / "documents.db"
    with killed(writers.increments, path, after=after) as values:
        assert [int(value) for value in values] == list(range(1, len(values) + 1))
        assert len(values) <= SqliteDocuments(path).increment("counters/c", {"n": 1})["n"] - 1 <= len(values) + 1


@pytest.mark.parametrize("after", [1, 20, 51])
def test_killed_process_leaves_only_complete_blobs(tmp_path, after):
    with killed(writers.blobs, tmp_path, after=after) as names:
        blobs = DirectoryBlobs(tmp_path)
        stored = list(blobs.list(""))
        assert [info.name for info in stored][: len(names)] == names
        assert len(stored) <= len(names) + 1
        for info in stored:
            data = bytes(blobs.read(info.name))
            assert data == data[:1] * (writers.BLOB_CHUNK * writers.BLOB_CHUNKS)


def test_opening_deletes_hour_old_temporary_files(tmp_path):
    DirectoryBlobs(tmp_path)
    for name, age in (("old", 3700), ("young", 3500)):
        (tmp_path / "staging" / name).write_bytes(b"half")
        os.utime(tmp_path / "staging" / name, (time.time() - age,) * 2)
    DirectoryBlobs(tmp_path)
    assert [path.name for path in (tmp_path / "staging").iterdir()] == ["young"]


def test_deleting_blobs_removes_empty_folders(tmp_path):
    blobs = DirectoryBlobs(tmp_path)
    for _ in range(2):
        blobs.create("a/b/c", [b"x"])
    blobs.delete(["a/b/c"])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["blobs", "staging"]


def test_concurrent_creates_without_hard_links_have_one_winner(tmp_path, at_once):
    class WithoutLinks(DirectoryBlobs):
        def _link(self, staged, target):
            meeting.wait(timeout=HANGS)  # all threads have staged their bytes, and none has published them
            self._rename(staged, target)

    meeting = threading.Barrier(8)
    DirectoryBlobs(tmp_path).create("a/there", [b""])  # the folder
    blobs = WithoutLinks(tmp_path)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for number in range(40):
            name = f"a/{number}"
            outcomes = at_once(lambda writer, name=name: blobs.create(name, [b"%d" % writer]))
            assert sum(outcome.created for outcome in outcomes) == 1
            assert blobs.read(name) == b"%d" % [outcome.created for outcome in outcomes].index(True)
    finally:
        sys.setswitchinterval(interval)


def test_writes_survive_reopening(tmp_path):
    first = SqliteDocuments(tmp_path / "documents.db")
    made = first.create("a/b", {"n": 1})
    first.close()
    with pytest.raises(StoreError):
        first.get("a/b")
    second = SqliteDocuments(tmp_path / "documents.db")
    assert sqlite3.connect(tmp_path / "documents.db").execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert second.get("a/b") == made
    assert second.create("a/c", {}).version != made.version


def test_locked_database_is_unavailable_to_writers_only(tmp_path):
    documents = SqliteDocuments(tmp_path / "documents.db", patience=0.05)
    documents.create("a/b", {"n": 1})
    other = sqlite3.connect(tmp_path / "documents.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UnavailableError, match="locked"):
        documents.create("a/c", {})
    assert documents.get("a/b").data == {"n": 1}
    other.execute("ROLLBACK")
    documents.create("a/c", {})


def test_invalid_file_and_other_schema_version_are_refused(tmp_path):
    (tmp_path / "text.db").write_text("not a database " * 100)
    with pytest.raises(StoreError, match="not a database"):
        SqliteDocuments(tmp_path / "text.db")
    SqliteDocuments(tmp_path / "new.db").close()
    sqlite3.connect(tmp_path / "new.db", isolation_level=None).execute("PRAGMA user_version=99")
    with pytest.raises(StoreError, match="has version 99"):
        SqliteDocuments(tmp_path / "new.db")
    with pytest.raises(StoreError, match=r"text\.db"):
        SqliteDocuments(tmp_path / "text.db" / "below.db")


def test_file_system_errors_are_translated(tmp_path):
    blobs = DirectoryBlobs(tmp_path)
    with pytest.raises(StoreError, match="too long"):
        blobs.create("a" * 300, [b"x"])
    (tmp_path / "blobs" / "b").write_bytes(b"a file where a folder should be")
    with pytest.raises(StoreError, match="b/c"):
        blobs.create("b/c", [b"x"])
    (tmp_path / "file").touch()
    with pytest.raises(StoreError):
        DirectoryBlobs(tmp_path / "file")
    assert list((tmp_path / "staging").iterdir()) == []


def test_failing_increment_rolls_back_and_unlocks(tmp_path):
    documents = SqliteDocuments(tmp_path / "documents.db", patience=0.05)
    with pytest.raises(TypeError):
        documents.increment("a/b", {"n": 1, "m": "1"})
    assert documents.get("a/b") is None
    assert SqliteDocuments(tmp_path / "documents.db", patience=0.05).increment("a/b", {"n": 1}) == {"n": 1}


@contextmanager
def running(pump):
    stop = threading.Event()
    thread = threading.Thread(target=pump.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=HANGS)
        assert not thread.is_alive()


def test_pump_is_woken_by_enqueue_and_by_stop(tmp_path, monkeypatch):
    # A pump that only polled would exceed the test's timeout.
    monkeypatch.setattr(local_queue, "_POLL_INTERVAL", 3600.0)
    arrived = threading.Semaphore(0)
    queue = LocalQueue(tmp_path / "queue.db", clock=SystemClock())
    other = LocalQueue(tmp_path / "queue.db", clock=SystemClock())
    other.enqueue(WORK, name="before the pump")
    with running(Pump(queue, lambda _: arrived.release() or True, randomness=SystemRandomness(), threads=2)):
        assert arrived.acquire(timeout=HANGS)
        for number in range(20):
            other.enqueue(WORK, name=str(number))
            assert arrived.acquire(timeout=HANGS)
    assert queue.next_due() is None


def test_pump_retries_and_delivers_concurrently(tmp_path):
    queue = LocalQueue(tmp_path / "queue.db", clock=SystemClock())
    meeting = threading.Barrier(3)
    attempts = []

    def deliver(delivery):
        attempts.append(delivery.attempt)
        if delivery.attempt == 1:
            raise LookupError("the first attempt fails")
        return meeting.wait(timeout=HANGS) is not None

    with running(Pump(queue, deliver, randomness=SystemRandomness(), threads=2)):
        for name in ("one", "two"):
            queue.enqueue(WORK, name=name)
        meeting.wait(timeout=HANGS)
    assert sorted(attempts) == [1, 1, 2, 2]
    assert queue.next_due() is None


def test_new_pump_takes_over_leases_of_a_dead_one(tmp_path):
    queue = LocalQueue(tmp_path / "queue.db", clock=SystemClock())
    queue.enqueue(WORK, name="one")
    assert len(queue.claim("the dead pump", limit=5, lease=600, now=time.time())) == 1
    arrived = threading.Event()
    with running(Pump(queue, lambda delivery: arrived.set() or delivery.attempt == 2, randomness=SystemRandomness())):
        assert arrived.wait(timeout=HANGS)
    assert queue.next_due() is None


def test_expired_lease_is_redelivered_and_late_failure_ignored():
    clock = ManualClock(1000.0)
    queue = LocalQueue.in_memory(clock=clock)
    queue.enqueue(WORK, name="one")
    (late,) = queue.claim("slow", limit=1, lease=60, now=clock.now())
    assert queue.claim("other", limit=1, lease=60, now=clock.advance(59)) == []
    (again,) = queue.claim("other", limit=1, lease=60, now=clock.advance(1))
    assert again.attempt == 2
    queue.release(late, holder="slow", backoff=0)
    assert queue.next_due() == 1120.0
    queue.finish(again)
    assert queue.next_due() is None


def test_clock_set_back_delays_no_work():
    clock = ManualClock(1_000_000.0)
    queue = LocalQueue.in_memory(clock=clock)
    queue.enqueue(WORK, name="one")
    assert Pump(queue, lambda _: True, randomness=SeededRandomness(1)).drain(clock.advance(-7200)) == 1


def test_drain_orders_by_due_time_then_arrival():
    clock = ManualClock()
    queue = LocalQueue.in_memory(clock=clock)
    for name, delay in (("c", 2.0), ("a", 1.0), ("d", 2.0), ("b", 1.0), ("e", 3.0)):
        queue.enqueue(WORK, name=name, delay=delay)
    seen = []
    pump = Pump(queue, lambda delivery: seen.append(delivery.name) or True, randomness=SeededRandomness(1))
    assert queue.next_due() == 1.0
    assert pump.drain(clock.advance_to(2.0)) == 4
    assert seen == ["a", "b", "c", "d"]


def test_http_delivery_posts_json_and_checks_the_status():
    requests, statuses = [], iter([204, 500, 404])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.append((self.path, self.headers["Content-Type"], self.headers["X-Muster-Delivery"], body))
            self.send_response(next(statuses))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving = threading.Thread(target=server.serve_forever, args=(0.01,))
    serving.start()
    deliver = HttpDelivery({"aggregator": f"http://127.0.0.1:{server.server_port}/base/"}, timeout=HANGS)
    try:
        assert [deliver(Delivery(WORK, "one", attempt, row=1)) for attempt in (1, 2, 3)] == [True, False, False]
    finally:
        server.shutdown()
        server.server_close()
        serving.join()
    expected = ("/base/internal/fold", "application/json", "1", b'{"task": "t1"}')
    assert requests[0] == expected
    assert (
        HttpDelivery({"aggregator": f"http://127.0.0.1:{server.server_port}"})(Delivery(WORK, "one", 4, row=1)) is False
    )
    assert HttpDelivery({})(Delivery(WORK, "one", 5, row=1)) is False


def test_increment_of_a_non_integer_field_changes_nothing():
    documents = SqliteDocuments.in_memory()
    documents.create("a/b", {"n": 1, "text": "1"})
    with pytest.raises(StoreError):
        documents.increment("a/b", {"n": 1, "text": 1})
    assert documents.get("a/b").data == {"n": 1, "text": "1"}


def test_slow_deliveries_do_not_block_another_function(tmp_path):
    queue = LocalQueue(tmp_path / "queue.db", clock=SystemClock())
    let_go, arrived, answered = threading.Event(), threading.Semaphore(0), threading.Semaphore(0)
    slow = []

    def deliver(delivery):
        if delivery.work.function == "committer":
            slow.append(delivery.name)
            assert let_go.wait(60)
            answered.release()
        else:
            arrived.release()
        return True

    for number in range(5):
        queue.enqueue(WorkItem("committer", "commit", {"n": number}), name=f"slow-{number}")
    pump = Pump(queue, deliver, randomness=SystemRandomness(), threads=3, shares={"committer": 2})
    try:
        with running(pump):
            for number in range(10):
                queue.enqueue(WorkItem("aggregator", "fold", {"n": number}), name=f"quick-{number}")
            for _ in range(10):
                assert arrived.acquire(timeout=30)
            assert len(slow) <= 2
            let_go.set()
            for _ in range(5):
                assert answered.acquire(timeout=30)
    finally:
        let_go.set()
    assert sorted(slow) == [f"slow-{number}" for number in range(5)]
