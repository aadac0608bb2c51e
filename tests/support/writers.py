"""Runs concurrent writers: `python -m support.writers WRITER STORE TIMES`.

A writer prints the result of each call on one line. With TIMES 0 it runs until it is killed.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from muster_coordinator.adapters.directory import DirectoryBlobs
from muster_coordinator.adapters.sqlite import SqliteDocuments
from muster_coordinator.ports import AlreadyExistsError, Blobs, ConflictError, Documents

TESTS = Path(__file__).parents[1]
BLOB_CHUNKS = 16
BLOB_CHUNK = 64 * 1024  # bytes


def start(writer: Callable[..., object], store: Path, times: int) -> subprocess.Popen[str]:
    """Starts a process that runs `writer` over the store at `store`."""
    command = [sys.executable, "-m", "support.writers", writer.__name__, str(store), str(times)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=TESTS)  # noqa: S603


def lines_of(writer: Callable[..., object], store: Path, times: int, *, processes: int) -> list[list[str]]:
    """Returns the output of `processes` concurrent writers."""
    running = [start(writer, store, times) for _ in range(processes)]
    outputs = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0] * processes
    return [output.split() for output in outputs]


def increments(documents: Documents, numbers: Iterator[int]) -> Iterator[object]:
    """Increments a counter, and yields each value."""
    for _ in numbers:
        yield documents.increment("counters/c", {"n": 1})["n"]


def creates(documents: Documents, numbers: Iterator[int]) -> Iterator[object]:
    """Creates the same documents as the other writers, and yields those that it created."""
    for number in numbers:
        try:
            documents.create(f"things/{number:06d}", {"by": os.getpid()})
        except AlreadyExistsError:
            continue
        yield number


def replaces(documents: Documents, numbers: Iterator[int]) -> Iterator[object]:
    """Adds 1 with compare-and-set until it succeeds, and yields each written value."""
    for _ in numbers:
        while True:
            document = documents.get("counters/r")
            assert document is not None
            try:
                written = documents.replace("counters/r", {"n": document.data["n"] + 1}, version=document.version)
            except ConflictError:
                continue
            yield written.data["n"]
            break


def blobs(store: Blobs, numbers: Iterator[int]) -> Iterator[object]:
    """Creates the same blobs as other writers, with different bytes; yields those it created."""
    chunk = bytes([os.getpid() % 251]) * BLOB_CHUNK
    for number in numbers:
        name = f"blobs/{number:06d}"
        if store.create(name, (chunk for _ in range(BLOB_CHUNKS))).created:
            yield name


def churns(store: Blobs, numbers: Iterator[int]) -> Iterator[object]:
    """Creates and deletes the only blob of a folder while other writers do the same."""
    for number in numbers:
        name = f"folder/{number % 3}/of/{os.getpid()}"
        assert store.create(name, [b"x"]).created
        store.delete([name])
        yield number


def _main() -> None:
    name, path, times = sys.argv[1:]
    numbers = iter(range(int(times))) if int(times) else itertools.count()
    if name in {"blobs", "churns"}:
        results = {"blobs": blobs, "churns": churns}[name](DirectoryBlobs(path), numbers)
    else:
        results = {"increments": increments, "creates": creates, "replaces": replaces}[name](
            SqliteDocuments(path), numbers
        )
    for result in results:
        print(result, flush=True)  # noqa: T201


if __name__ == "__main__":
    _main()
