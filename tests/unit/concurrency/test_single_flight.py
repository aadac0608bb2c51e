"""Blobs that many download at once: one read and one copy for all of them."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from muster_coordinator.adapters.directory import DirectoryBlobs
from muster_coordinator.concurrency.single_flight import SingleFlightReader
from muster_coordinator.ports import BlobNotFoundError, UnavailableError

SECONDS = 20.0  # that a test waits for what must come


class CopyingBlobs(DirectoryBlobs):
    """Gives each reader bytes of its own, as a bucket does, and counts the reads."""

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
    found = CopyingBlobs(tmp_path)
    for name in ("a", "b"):
        found.create(name, [name.encode() * 1000])
    return found


def test_those_who_ask_at_once_are_given_one_copy(blobs):
    shared = SingleFlightReader(blobs, keep_last=False)
    blobs.open.clear()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(shared.read, "a") for _ in range(8)]
        blobs.open.set()
        found = [each.result(SECONDS) for each in asked]
    assert bytes(found[0]) == b"a" * 1000
    assert len({id(each) for each in found}) == 1
    assert blobs.reads == ["a"]


def test_a_slow_read_keeps_nobody_from_another_blob(blobs):
    shared = SingleFlightReader(blobs, keep_last=False)
    held = shared.read("b")
    blobs.open.clear()
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(shared.read, "a")
        assert pool.submit(shared.read, "b").result(SECONDS) is held
        assert not slow.done()
        blobs.open.set()
        assert bytes(slow.result(SECONDS)) == b"a" * 1000


def test_nothing_stays_in_memory_that_nobody_sends(blobs):
    shared = SingleFlightReader(blobs, keep_last=False)
    found = weakref.ref(shared.read("a"))
    gc.collect()
    assert found() is None
    shared.read("a")
    assert blobs.reads == ["a", "a"]


def test_the_last_one_stays_where_it_should(blobs):
    shared = SingleFlightReader(blobs, keep_last=True)
    found = weakref.ref(shared.read("a"))
    assert shared.read("a") is found()
    shared.read("b")
    gc.collect()
    assert found() is None
    assert blobs.reads == ["a", "b"]


def test_a_read_that_fails_is_tried_again_by_the_next(blobs, monkeypatch):
    shared = SingleFlightReader(blobs, keep_last=True)
    with pytest.raises(BlobNotFoundError):
        shared.read("c")
    with monkeypatch.context() as patch:
        patch.setattr(CopyingBlobs, "read", _unavailable)
        with pytest.raises(UnavailableError):
            shared.read("a")
    assert bytes(shared.read("a")) == b"a" * 1000


def _unavailable(*_, **__):
    raise UnavailableError("not now")
