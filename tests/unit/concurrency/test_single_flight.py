"""Tests of single-flight reads: concurrent readers share one read and one copy."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from muster_coordinator.adapters.directory import DirectoryBlobs
from muster_coordinator.concurrency.single_flight import SingleFlightReader
from muster_coordinator.ports import BlobNotFoundError, UnavailableError

SECONDS = 20.0  # longest wait of a test


class CopyingBlobs(DirectoryBlobs):
    """Blobs that return a copy to each reader, as a bucket does, and record the reads."""

    def __init__(self, root):
        super().__init__(root)
        self.reads = []
        self.open = threading.Event()
        self.open.set()

    def read(self, name, **options):
        self.reads.append(name)
        assert self.open.wait(SECONDS)
        return memoryview(bytes(super().read(name, **options)))


@pytest.fixture
def blobs(tmp_path):
    blobs = CopyingBlobs(tmp_path)
    for name in ("a", "b"):
        blobs.create(name, [name.encode() * 1000])
    return blobs


def test_concurrent_readers_share_one_copy(blobs):
    shared = SingleFlightReader(blobs, cache_last=False)
    blobs.open.clear()
    with ThreadPoolExecutor(8) as pool:
        reads = [pool.submit(shared.read, "a") for _ in range(8)]
        blobs.open.set()
        results = [read.result(SECONDS) for read in reads]
    assert bytes(results[0]) == b"a" * 1000
    assert len({id(data) for data in results}) == 1
    assert blobs.reads == ["a"]


def test_slow_read_does_not_block_other_blobs(blobs):
    shared = SingleFlightReader(blobs, cache_last=False)
    held = shared.read("b")
    blobs.open.clear()
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(shared.read, "a")
        assert pool.submit(shared.read, "b").result(SECONDS) is held
        assert not slow.done()
        blobs.open.set()
        assert bytes(slow.result(SECONDS)) == b"a" * 1000


def test_unused_blob_is_freed(blobs):
    shared = SingleFlightReader(blobs, cache_last=False)
    data = weakref.ref(shared.read("a"))
    gc.collect()
    assert data() is None
    shared.read("a")
    assert blobs.reads == ["a", "a"]


def test_last_blob_is_cached_if_configured(blobs):
    shared = SingleFlightReader(blobs, cache_last=True)
    data = weakref.ref(shared.read("a"))
    assert shared.read("a") is data()
    shared.read("b")
    gc.collect()
    assert data() is None
    assert blobs.reads == ["a", "b"]


def test_failed_read_is_retried_by_the_next(blobs, monkeypatch):
    shared = SingleFlightReader(blobs, cache_last=True)
    with pytest.raises(BlobNotFoundError):
        shared.read("c")
    with monkeypatch.context() as patch:
        patch.setattr(CopyingBlobs, "read", _unavailable)
        with pytest.raises(UnavailableError):
            shared.read("a")
    assert bytes(shared.read("a")) == b"a" * 1000


def _unavailable(*_, **__):
    raise UnavailableError("not now")
