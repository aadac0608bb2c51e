"""Ports that fail on purpose: wrappers that count calls and raise before or after the n-th one, and a disorderly queue.

A crash test runs once without faults to learn how many writes there are (`len(schedule.writes)`), then once for each write and
each `When`; after the `Crash` it goes on with the inner ports, as a fresh process would.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, TypeVar

from muster_coordinator.ports import (
    BlobInfo,
    Blobs,
    Buffer,
    CreateResult,
    Document,
    Documents,
    Randomness,
    WorkItem,
    WorkQueue,
)

T = TypeVar("T")


class Crash(BaseException):
    """The process dies here; no `except Exception` stands in the way."""


class When(Enum):
    """Where a fault strikes: AFTER means that the call took effect and its answer was lost."""

    BEFORE = "before"
    AFTER = "after"


class Access(Enum):
    """What a call does to the store."""

    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, slots=True)
class Fault:
    """`error` is raised once, at the `number`-th call (from 1) of kind `of`, counted over all ports of a schedule."""

    number: int
    when: When
    error: type[BaseException] = Crash
    of: Access = Access.WRITE


class Schedule:
    """Which calls fail. Shared by the wrappers of one platform, so that numbers run through all its ports.

    Attributes:
      writes: Every write so far, as `documents.create tasks/t1`, in order.
      reads: Every read so far, likewise.
      calls: How often each method was called, as `documents.create`.
    """

    def __init__(self, *faults: Fault) -> None:
        self._faults = {(fault.of, fault.number, fault.when): fault.error for fault in faults}
        self._lock = threading.Lock()
        self.writes: list[str] = []
        self.reads: list[str] = []
        self.calls: Counter[str] = Counter()

    def run(self, access: Access, method: str, subject: str, action: Callable[[], T]) -> T:
        """Calls `action`, or fails as scheduled."""
        with self._lock:
            log = self.writes if access is Access.WRITE else self.reads
            log.append(f"{method} {subject}")
            number = len(log)
            self.calls[method] += 1
        self._strike(access, number, When.BEFORE, method, subject)
        result = action()
        self._strike(access, number, When.AFTER, method, subject)
        return result

    def _strike(self, access: Access, number: int, when: When, method: str, subject: str) -> None:
        error = self._faults.get((access, number, when))
        if error is not None:
            raise error(f"{when.value} {access.value} {number}: {method} {subject}")


class FaultyDocuments:
    """`Documents` that fail as scheduled."""

    def __init__(self, inner: Documents, schedule: Schedule) -> None:
        self._inner = inner
        self._schedule = schedule

    def create(self, path: str, data: Mapping[str, Any]) -> Document:
        return self._write("create", path, lambda: self._inner.create(path, data))

    def get(self, path: str) -> Document | None:
        return self._schedule.run(Access.READ, "documents.get", path, lambda: self._inner.get(path))

    def replace(self, path: str, data: Mapping[str, Any], *, version: str) -> Document:
        return self._write("replace", path, lambda: self._inner.replace(path, data, version=version))

    def delete(self, path: str, *, version: str | None = None) -> None:
        self._write("delete", path, lambda: self._inner.delete(path, version=version))

    def increment(self, path: str, by: Mapping[str, int]) -> Mapping[str, int]:
        return self._write("increment", path, lambda: self._inner.increment(path, by))

    def list(self, collection: str, *, after: str | None = None, limit: int | None = None) -> list[Document]:
        return self._schedule.run(
            Access.READ, "documents.list", collection, lambda: self._inner.list(collection, after=after, limit=limit)
        )

    def _write(self, method: str, path: str, action: Callable[[], T]) -> T:
        return self._schedule.run(Access.WRITE, f"documents.{method}", path, action)


class FaultyBlobs:
    """`Blobs` that fail as scheduled; a batch of deletes is one write for each name, so it may stop half-way."""

    def __init__(self, inner: Blobs, schedule: Schedule) -> None:
        self._inner = inner
        self._schedule = schedule

    def create(self, name: str, chunks: Iterable[Buffer]) -> CreateResult:
        return self._schedule.run(Access.WRITE, "blobs.create", name, lambda: self._inner.create(name, chunks))

    def read(self, name: str, *, limit: int | None = None, into: memoryview | None = None) -> memoryview:
        return self._schedule.run(
            Access.READ, "blobs.read", name, lambda: self._inner.read(name, limit=limit, into=into)
        )

    def stat(self, name: str) -> BlobInfo | None:
        return self._schedule.run(Access.READ, "blobs.stat", name, lambda: self._inner.stat(name))

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        return self._schedule.run(Access.READ, "blobs.list", prefix, lambda: self._inner.list(prefix))

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            self._schedule.run(Access.WRITE, "blobs.delete", name, partial(self._inner.delete, [name]))


class FaultyQueue:
    """A `WorkQueue` that fails as scheduled."""

    def __init__(self, inner: WorkQueue, schedule: Schedule) -> None:
        self._inner = inner
        self._schedule = schedule

    def enqueue(self, work: WorkItem, *, name: str, delay: float = 0.0) -> None:
        self._schedule.run(
            Access.WRITE, "queue.enqueue", name, lambda: self._inner.enqueue(work, name=name, delay=delay)
        )


class DisorderlyQueue:
    """A `WorkQueue` that does all that the port allows: delivers twice, late and out of order, but always at least once."""

    def __init__(
        self, inner: WorkQueue, randomness: Randomness, *, twice: float = 0.3, most_delay: float = 5.0
    ) -> None:
        """Wraps `inner`: a share `twice` of the work is doubled, and each delivery is up to `most_delay` seconds late."""
        self._inner = inner
        self._chance = randomness
        self._twice = twice
        self._most_delay = most_delay

    def enqueue(self, work: WorkItem, *, name: str, delay: float = 0.0) -> None:
        self._inner.enqueue(work, name=name, delay=delay + self._lateness())
        if self._chance.uniform() < self._twice:
            self._inner.enqueue(work, name=f"{name}-again", delay=delay + self._lateness())

    def _lateness(self) -> float:
        return self._chance.uniform() * self._most_delay
