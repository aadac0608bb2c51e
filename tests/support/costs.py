"""Counts the store calls of a round, and computes their price for a million contributions.

`python -m support.costs`, run in `tests`, prints the tables of the documentation.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from muster_coordinator.domain.names import CHECKINS
from muster_coordinator.ports import BlobInfo, Document
from muster_coordinator.state.platform import Platform
from support.faults import Access, FaultyBlobs, FaultyDocuments, FaultyQueue, Schedule
from support.harness import Harness
from support.plans import sum_update

CLIENTS = (10, 100, 1000)
PER_SECOND = 50  # check-ins
MILLION = 1_000_000
PAGE = 1000  # blobs per list operation
INSTANCES = 10  # instances of the client API, for the price


@dataclass(frozen=True)
class Operation:
    """Operation that Google bills."""

    label: str
    dollars: float  # for a million operations


# List prices of us-central1, without free quotas.
READ = Operation("Firestore document reads", 0.30)
WRITE = Operation("Firestore document writes", 0.90)
DELETE = Operation("Firestore document deletes", 0.10)
CLASS_A = Operation("Cloud Storage class A (create, list, look up)", 5.00)
CLASS_B = Operation("Cloud Storage class B (read)", 0.40)
QUEUED = Operation("Cloud Tasks (create and deliver)", 0.80)
OPERATIONS = (READ, WRITE, DELETE, CLASS_A, CLASS_B, QUEUED)
EGRESS = 0.12  # dollars for 2^30 downloaded bytes; uploads are free
BILLED = {
    "documents.get": READ,
    "documents.listed": READ,
    "documents.create": WRITE,
    "documents.replace": WRITE,
    "documents.increment": WRITE,
    "documents.delete": DELETE,
    "blobs.create": CLASS_A,
    "blobs.listed": CLASS_A,
    "blobs.stat": CLASS_A,
    "blobs.read": CLASS_B,
    "queue.enqueue": QUEUED,
}


class CountedDocuments(FaultyDocuments):
    """`Documents` that count listed documents as Firestore bills them: at least one per list."""

    def list(self, collection: str, *, after: str | None = None, limit: int | None = None) -> list[Document]:
        documents = super().list(collection, after=after, limit=limit)
        self._schedule.calls["documents.listed"] += max(1, len(documents))
        return documents


class CountedBlobs(FaultyBlobs):
    """`Blobs` that count the pages of lists."""

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        blobs = list(self._schedule.run(Access.READ, "blobs.list", prefix, lambda: self._inner.list(prefix)))
        self._schedule.calls["blobs.listed"] += max(1, math.ceil(len(blobs) / PAGE))
        return iter(blobs)


def counted(platform: Platform, schedule: Schedule) -> Platform:
    """Returns a platform that counts its calls in `schedule.calls`."""
    return replace(
        platform,
        documents=CountedDocuments(platform.documents, schedule),
        blobs=CountedBlobs(platform.blobs, schedule),
        queue=FaultyQueue(platform.queue, schedule),
    )


@dataclass(frozen=True)
class RoundCost:
    """Store calls of a round, from its first check-in until the next round is open."""

    clients: int
    calls: Counter[str]
    seconds: float  # duration of the collecting phase
    counter_writes: int  # of counters of check-ins, which are among the calls

    def billed(self, operation: Operation) -> int:
        """Returns the number of billed calls of a kind."""
        return sum(self.calls[method] for method, kind in BILLED.items() if kind is operation)

    def dollars(self, operation: Operation) -> float:
        """Returns the price of an operation for a million contributions in such rounds."""
        return self.billed(operation) * (MILLION // self.clients) / MILLION * operation.dollars


def egress_dollars(size: float) -> float:
    """Returns the price of a million downloads of `size` bytes."""
    return size * MILLION / 2**30 * EGRESS


def round_cost(clients: int) -> RoundCost:
    """Counts the calls of the second round, with one instance of each function.

    The clients check in one after another, download the broadcast and upload. They have the plan
    from the first round, as a device's cache does.
    """
    schedule = Schedule()
    with tempfile.TemporaryDirectory() as folder:
        h = Harness(Path(folder), cache_seconds=1.0, wrap=lambda platform: counted(platform, schedule))
        h.begin(rounds=3, goal=clients)
        for number in (1, 2):
            schedule.calls.clear()
            schedule.writes.clear()
            start = h.clock.now()
            for client in range(clients):
                assignment = h.assigned(f"{number}-{client}")
                h.ask("GET", assignment.broadcast.url, headers={"Accept-Encoding": "zstd, gzip"})
                h.upload(assignment.token, sum_update(client % 62))
                h.clock.advance(1 / PER_SECOND)
                h.deliver_all()
            assert len(h.committed()) == number
            h.clock.advance(1.0)  # expires the instance's cached rounds
        counter_writes = sum(f" {CHECKINS}/" in write for write in schedule.writes)
        return RoundCost(clients, Counter(schedule.calls), h.clock.now() - start - 1.0, counter_writes)


def table(costs: list[RoundCost]) -> list[str]:
    """Returns a table of the calls per round, and per contribution of the largest one."""
    heads = "".join(f" {cost.clients:,} clients |" for cost in costs)
    lines = [f"| a round of |{heads} each of {costs[-1].clients:,} |", "|---" * (len(costs) + 2) + "|"]
    for operation in OPERATIONS:
        numbers = [cost.billed(operation) for cost in costs]
        cells = "".join(f" {number:,} |" for number in numbers)
        lines.append(f"| {operation.label} |{cells} {numbers[-1] / costs[-1].clients:.2f} |")
    return lines


def price(cost: RoundCost) -> list[str]:
    """Returns a table of the price of a million contributions in such rounds."""
    rounds = MILLION // cost.clients
    lines = ["| for a million contributions | operations | dollars for a million | dollars |", "|---|---|---|---|"]
    total = 0.0
    for operation in OPERATIONS:
        number = cost.billed(operation) * rounds
        dollars = cost.dollars(operation)
        total += dollars
        lines.append(f"| {operation.label} | {number:,} | {operation.dollars:.2f} | {dollars:.2f} |")
    lines.append(f"| **all calls to the stores and the queue** | | | **{total:.2f}** |")
    return lines


def section() -> str:
    """Returns the tables of the documentation."""
    costs = [round_cost(clients) for clients in CLIENTS]
    return "\n".join([*table(costs), "", *price(costs[-1])])


if __name__ == "__main__":
    print(section())  # noqa: T201
