"""Adapters that the contract suites test.

To add one, add a line to `DOCUMENTS`, `BLOBS` or `QUEUES`. Google's adapters run on emulators and a
double of Cloud Tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
from support import cloud
from support.faults import FaultyBlobs, FaultyDocuments, FaultyQueue, Schedule

from muster_coordinator.adapters.directory import DirectoryBlobs
from muster_coordinator.adapters.local_queue import LocalQueue, Pump
from muster_coordinator.adapters.split_blobs import SplitBlobs
from muster_coordinator.adapters.sqlite import SqliteDocuments
from muster_coordinator.adapters.system import ManualClock, SeededRandomness
from muster_coordinator.ports import Blobs, Documents, WorkItem, WorkQueue

T = TypeVar("T")


class DirectoryWithoutLinks(DirectoryBlobs):
    """Directory on a file system without hard links."""

    def _link(self, staged: Path, target: Path) -> None:
        self._rename(staged, target)


class QueueHome(Protocol):
    """Queue with the means to deliver its work in a test."""

    queue: WorkQueue

    def deliver(self, handler: Callable[[WorkItem], bool]) -> int:
        """Delivers all due work to `handler` and returns the number of deliveries."""

    def wait(self, seconds: float) -> None:
        """Advances the clock."""


@dataclass
class LocalHome:
    queue: WorkQueue
    pump: Pump
    clock: ManualClock
    handler: Callable[[WorkItem], bool] | None = None

    @classmethod
    def make(cls, folder: Path | None, wrap: Callable[[WorkQueue], WorkQueue] = lambda queue: queue) -> LocalHome:
        clock = ManualClock(1_000_000.0)
        queue = LocalQueue(folder / "queue.db" if folder else None, clock=clock)
        pump = Pump(
            queue,
            lambda delivery: home.handler is not None and home.handler(delivery.work),
            randomness=SeededRandomness(1),
        )
        home = cls(wrap(queue), pump, clock)
        return home

    def deliver(self, handler: Callable[[WorkItem], bool]) -> int:
        self.handler = handler
        return self.pump.drain(self.clock.now())

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)


DOCUMENTS: dict[str, Callable[[Path], Documents]] = {
    "sqlite": lambda folder: SqliteDocuments(folder / "documents.db"),
    "sqlite in memory": lambda _: SqliteDocuments.in_memory(),
    "faulty, without a fault": lambda _: FaultyDocuments(SqliteDocuments.in_memory(), Schedule()),
}
BLOBS: dict[str, Callable[[Path], Blobs]] = {
    "directory": DirectoryBlobs,
    "directory without links": DirectoryWithoutLinks,
    "split": lambda folder: SplitBlobs(
        DirectoryBlobs(folder / "rest"), {part: DirectoryBlobs(folder / part) for part in ("a", "a-b", "folder")}
    ),
    "faulty, without a fault": lambda folder: FaultyBlobs(DirectoryBlobs(folder), Schedule()),
}
QUEUES: dict[str, Callable[[Path], QueueHome]] = {
    "local": LocalHome.make,
    "local in memory": lambda _: LocalHome.make(None),
    "faulty, without a fault": lambda folder: LocalHome.make(folder, lambda queue: FaultyQueue(queue, Schedule())),
}


FIRESTORE = pytest.param("firestore", marks=cloud.EMULATORS)
GCS = pytest.param("gcs", marks=cloud.EMULATORS)


@pytest.fixture(params=[*DOCUMENTS, FIRESTORE])
def documents(request: Any, tmp_path: Path) -> Iterator[Documents]:
    if request.param == "firestore":
        with cloud.firestore(request.getfixturevalue("firestore_emulator").address) as documents:
            yield documents
    else:
        yield DOCUMENTS[request.param](tmp_path)


@pytest.fixture(params=[*BLOBS, GCS])
def blobs(request: Any, tmp_path: Path) -> Iterator[Blobs]:
    if request.param == "gcs":
        with cloud.gcs(request.getfixturevalue("storage_emulator"), prefix="home/1") as blobs:
            yield blobs
    else:
        yield BLOBS[request.param](tmp_path)


@pytest.fixture(params=[*QUEUES, "cloud tasks"])
def home(request: Any, tmp_path: Path) -> Iterator[QueueHome]:
    if request.param == "cloud tasks":
        with cloud.cloud_tasks(request.getfixturevalue("issuer")) as home:
            yield home
    else:
        yield QUEUES[request.param](tmp_path)


@pytest.fixture
def at_once() -> Callable[[Callable[[int], T]], list[T]]:
    """Calls a function in 8 threads with the thread's number; returns all results."""

    def run(function: Callable[[int], T]) -> list[T]:
        with ThreadPoolExecutor(8) as pool:
            return [future.result(timeout=300) for future in [pool.submit(function, number) for number in range(8)]]

    return run
