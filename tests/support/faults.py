"""Fault injection: wrappers of ports that raise before or after the n-th call.

A crash test runs once without faults to count the writes (`len(schedule.writes)`), then once for
each write and each `When`. After the `Crash` it continues with the inner ports, like a new process.
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
    """Simulated death of the process, which no `except Exception` catches."""


class When(Enum):
    """Time of a fault. AFTER means that the call took effect and its response was lost."""

    BEFORE = "before"
    AFTER = "after"


class Access(Enum):
    """Kind of a store call."""

    READ = "read"
    WRITE = "write"


@dataclass(frozen=True, slots=True)
class Fault:
    """Fault: raises `error` once, at call number `number` (from 1) of kind `of` to any port."""

    number: int
    when: When
    error: type[BaseException] = Crash
    of: Access = Access.WRITE


class Schedule:
    """Schedule of faults for the wrappers of a platform. Calls are numbered over all ports.

    Attributes:
      writes: The writes so far, in order, such as `documents.create tasks/t1`.
      reads: The reads so far, in order.
      calls: The number of calls by method, such as `documents.create`.
    """

    def __init__(self, *faults: Fault) -> None:
        self._faults = {(fault.of, fault.number, fault.when): fault.error for fault in faults}
        self._lock = threading.Lock()
        self.writes: list[str] = []
        self.reads: list[str] = []
        self.calls: Counter[str] = Counter()

    def arm(self, fault: Fault | None) -> None:
        """Replaces the scheduled faults by one, or by none."""
        self._faults = {} if fault is None else {(fault.of, fault.number, fault.when): fault.error}

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
    """`Blobs` that fail as scheduled.

    A batch of deletes is one write per name, so it may stop half-way.
    """

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
    """`WorkQueue` that fails as scheduled."""

    def __init__(self, inner: WorkQueue, schedule: Schedule) -> None:
        self._inner = inner
        self._schedule = schedule

    def enqueue(self, work: WorkItem, *, name: str, delay: float = 0.0) -> None:
        self._schedule.run(
            Access.WRITE, "queue.enqueue", name, lambda: self._inner.enqueue(work, name=name, delay=delay)
        )


class DisorderlyQueue:
    """`WorkQueue` that delivers twice, late and out of order, but at least once."""

    def __init__(
        self, inner: WorkQueue, randomness: Randomness, *, twice: float = 0.3, most_delay: float = 5.0
    ) -> None:
        """Wraps `inner`.

        A fraction `twice` of the work is doubled; each delivery is up to `most_delay` seconds late.
        """
        self._inner = inner
        self._randomness = randomness
        self._twice = twice
        self._most_delay = most_delay

    def enqueue(self, work: WorkItem, *, name: str, delay: float = 0.0) -> None:
        self._inner.enqueue(work, name=name, delay=delay + self._lateness())
        if self._randomness.uniform() < self._twice:
            self._inner.enqueue(work, name=f"{name}-again", delay=delay + self._lateness())

    def _lateness(self) -> float:
        return self._randomness.uniform() * self._most_delay


class Interposed:
    """Port that runs `action` once, before the first call of `method` on a matching name.

    A name matches if it starts with `prefix`.
    """

    def __init__(self, inner: Any, method: str, prefix: str, action: Callable[[], Any]) -> None:
        self._inner = inner
        self._method = method
        self._prefix = prefix
        self._actions = [action]

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(subject: Any, *rest: Any, **options: Any) -> Any:
            if method == self._method and self._actions and str(subject).startswith(self._prefix):
                self._actions.pop()()
            return getattr(self._inner, method)(subject, *rest, **options)

        return call
