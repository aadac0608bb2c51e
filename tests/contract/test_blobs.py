"""Contract of `Blobs`, over every adapter."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest

from muster_coordinator.ports import BlobInfo, BlobNotFoundError, BlobTooLargeError, CreateResult


def names(blobs, prefix=""):
    return [info.name for info in blobs.list(prefix)]


def test_create_streams_chunks_of_every_buffer_type(blobs):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    made = blobs.create("a/b", iter([b"one", bytearray(b"two"), memoryview(b"xthreex")[1:-1], b"", array.data]))
    expected = b"onetwothree" + array.tobytes()
    assert blobs.read("a/b") == expected
    assert made == CreateResult(BlobInfo("a/b", len(expected), made.blob.created), created=True, same=True)
    assert abs(made.blob.created - time.time()) < 60
    assert blobs.stat("a/b") == made.blob
    assert list(blobs.list("a/b")) == [made.blob]


@pytest.mark.parametrize("chunks", [[], [b""], [memoryview(b"")]])
def test_empty_blob_is_stored(blobs, chunks):
    assert blobs.create("empty", chunks).blob.size == 0
    assert blobs.read("empty") == b""
    assert names(blobs) == ["empty"]


@pytest.mark.parametrize(("second", "same"), [(b"first", True), (b"fir$t", False), (b"first!", False), (b"", False)])
def test_create_on_a_taken_name_reports_if_bytes_are_the_same(blobs, second, same):
    first = blobs.create("a", [b"first"])
    assert blobs.create("a", [second]) == CreateResult(first.blob, created=False, same=same)
    assert blobs.read("a") == b"first"


def test_create_propagates_errors_of_chunks_and_creates_nothing(blobs):
    def broken():
        yield b"x" * 100_000
        raise OSError(28, "the client's connection, not our disk")

    with pytest.raises(OSError, match="not our disk"):
        blobs.create("a/b", broken())
    assert blobs.stat("a/b") is None
    assert names(blobs) == []
    assert blobs.create("a/b", [b"x"]).created


def test_blob_appears_only_after_the_last_chunk(blobs):
    seen = []

    def chunks():
        for _ in range(3):
            yield b"x" * 100_000
            seen.extend([blobs.stat("a/b"), *names(blobs)])

    blobs.create("a/b", chunks())
    assert seen == [None] * 3
    assert names(blobs) == ["a/b"]


def test_create_uses_about_one_chunk_of_memory(blobs):
    tracemalloc.start()
    blobs.create("a", (bytes(1 << 20) for _ in range(32)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_read_and_stat_of_a_missing_blob(blobs):
    blobs.create("a/b", [b"x"])
    for name in ("a", "a/b/c", "b"):
        with pytest.raises(BlobNotFoundError):
            blobs.read(name)
        assert blobs.stat(name) is None


def test_read_respects_its_limit(blobs):
    blobs.create("a", [b"12345"])
    blobs.create("large", [bytes(1 << 20)] * 3)
    assert blobs.read("a", limit=5) == b"12345"
    for name, limit in (("a", 4), ("a", 0), ("large", 1 << 20)):
        with pytest.raises(BlobTooLargeError):
            blobs.read(name, limit=limit)
    with pytest.raises(BlobNotFoundError):
        blobs.read("none", limit=1)


def test_read_into_given_memory_if_the_blob_fits(blobs):
    memory = memoryview(bytearray(8))
    stored = {"fits": b"12345678", "larger": b"123456789", "short": b"abc", "empty": b""}
    for name, data in stored.items():
        blobs.create(name, [data])
    for name, data in stored.items():
        view = blobs.read(name, into=memory)
        assert view == data
        assert view.readonly
    with pytest.raises(BlobTooLargeError):
        blobs.read("fits", limit=7, into=memory)
    with pytest.raises(BlobNotFoundError):
        blobs.read("none", into=memory)


def test_read_returns_immutable_bytes(blobs):
    blobs.create("a", [b"abc"])
    view = blobs.read("a")
    assert view.readonly
    blobs.delete(["a"])
    blobs.create("a", [b"xyz"])
    assert view == b"abc"


def test_list_is_sorted_by_full_name(blobs):
    every = ["a", "a-b/x", "a.b", "a/b", "a/b-c", "a/b/c", "a/b0/c", "a0", "ab", "ab/c", "b/a"]
    for name in reversed(every):
        blobs.create(name, [name.encode()])
    assert names(blobs) == every == sorted(every)
    for prefix in ("a", "a/", "a/b", "a/b/", "a-", "b", "c", "x/y/z"):
        assert names(blobs, prefix) == [name for name in every if name.startswith(prefix)]


def test_list_sees_completed_creates_and_deletes(blobs):
    for number in range(5):
        blobs.create(f"a/{number}", [b""])
        assert len(names(blobs, "a/")) == number + 1
    blobs.delete(["a/1", "a/3"])
    assert names(blobs, "a/") == ["a/0", "a/2", "a/4"]


def test_blobs_may_be_deleted_during_a_list(blobs):
    for name in ("a/1", "b/1", "b/2", "c/1"):
        blobs.create(name, [b""])
    seen = []
    for info in blobs.list(""):
        seen.append(info.name)
        blobs.delete([info.name, "b/1", "b/2"])
    assert seen[0] == "a/1"
    assert seen[-1] == "c/1"
    assert names(blobs) == []


def test_delete_ignores_missing_names(blobs):
    for name in ("a/b", "a/b/c", "a/d/e", "f"):
        blobs.create(name, [b"x"])
    blobs.delete(iter(["a/b", "none", "a/none/x", "f", "f"]))
    assert names(blobs) == ["a/b/c", "a/d/e"]
    blobs.delete([])
    assert blobs.create("a/b", [b"y"]).created


@pytest.mark.parametrize(
    "name", ["", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/.", "a\\b", "a b", "a~", "ä", "a\0", "a\n"]
)
def test_invalid_names_are_refused(blobs, name):
    for call in (blobs.read, blobs.stat, lambda name: blobs.create(name, [b""]), lambda name: blobs.delete([name])):
        with pytest.raises(ValueError, match="is not a valid name of a blob"):
            call(name)
    assert names(blobs) == []


@pytest.mark.parametrize("prefix", ["/", "../", "a/../b", "a//", "a b", "~", "./"])
def test_invalid_prefixes_are_refused(blobs, prefix):
    with pytest.raises(ValueError, match="blob"):
        list(blobs.list(prefix))


def test_dots_inside_names_are_allowed(blobs):
    for name in ("..a", "a/...", "a..b/c"):
        assert blobs.create(name, [b""]).created
    assert names(blobs, "..") == ["..a"]


def test_one_concurrent_create_wins_and_all_learn_the_outcome(blobs, at_once):
    def create(writer):
        return [blobs.create(f"same/{number}", [bytes([writer % 4]) * 70_000] * 3) for number in range(10)]

    for number, outcomes in enumerate(zip(*at_once(create), strict=True)):
        assert sum(outcome.created for outcome in outcomes) == 1
        stored = bytes(blobs.read(f"same/{number}"))
        assert len(stored) == 210_000
        assert [outcome.same for outcome in outcomes] == [
            stored == bytes([writer % 4]) * 210_000 for writer in range(8)
        ]


def test_deletes_that_empty_a_folder_do_not_break_creates(blobs, at_once):
    def churn(writer):
        for number in range(50):
            assert blobs.create(f"folder/{number % 3}/{writer}", [b"x"]).created
            blobs.delete([f"folder/{number % 3}/{writer}"])

    at_once(churn)
    assert names(blobs) == []
