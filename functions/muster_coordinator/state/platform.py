"""Bundle of the ports, with the repositories of tasks and rounds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from pydantic import TypeAdapter

from muster.wire.messages import TaskStatus
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.domain import names
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import BlobRef, Round
from muster_coordinator.domain.tasks import Run, Task
from muster_coordinator.ports import (
    Blobs,
    Clock,
    ConflictError,
    DirectUploads,
    Documents,
    Randomness,
    WorkItem,
    WorkQueue,
)
from muster_coordinator.state.records import RecordRepository, Versioned

_MAX_ATTEMPTS = 20  # of a compare-and-set among a handful of writers

_TASK: TypeAdapter[Task] = TypeAdapter(Task)
_ROUND: TypeAdapter[Round] = TypeAdapter(Round)
_RUN: TypeAdapter[Run] = TypeAdapter(Run)


@dataclass(frozen=True)
class Platform:
    """The ports of a deployment, with typed access to tasks and rounds.

    Attributes:
      documents: The store of documents.
      blobs: The store of blobs.
      queue: The queue of work.
      clock: The time.
      randomness: The source of randomness.
      direct: The store's direct uploads, or None where clients can't reach the store.
      at_once: Number of store calls that one piece of work may run concurrently: several where each
        call crosses a network, 1 on local stores.
      separate_audit: The store of the audit log and of enrolment revocations, or None if that is
        `documents`.
    """

    documents: Documents
    blobs: Blobs
    queue: WorkQueue
    clock: Clock
    randomness: Randomness
    direct: DirectUploads | None = None
    at_once: int = 1
    separate_audit: Documents | None = None

    @property
    def audit(self) -> Documents:
        """Store of the audit log and of enrolment revocations."""
        return self.documents if self.separate_audit is None else self.separate_audit

    @cached_property
    def tasks(self) -> RecordRepository[Task]:
        """Repository of the tasks."""
        return RecordRepository(self.documents, _TASK)

    @cached_property
    def rounds(self) -> RecordRepository[Round]:
        """Repository of the rounds."""
        return RecordRepository(self.documents, _ROUND)

    @cached_property
    def runs(self) -> RecordRepository[Run]:
        """Repository of the runs of driven tasks, by their requests."""
        return RecordRepository(self.documents, _RUN)

    def task(self, name: str) -> Versioned[Task]:
        """Returns a task. Raises `ProblemError` (`not_found`) if it does not exist."""
        record = self.tasks.get(names.task_path(name))
        if record is None:
            raise ProblemError(
                ProblemType.NOT_FOUND, f"There is no task {name!r}; `muster task list` shows those that are there"
            )
        return record

    def round(self, key: RoundKey) -> Versioned[Round] | None:
        """Returns a round, or None."""
        return self.rounds.get(names.round_path(key))

    def change_task(self, name: str, change: Callable[[Task], Task], *, current: Versioned[Task] | None = None) -> Task:
        """Changes a task by compare-and-set, and retries if another writer was faster.

        Args:
          name: The task's name.
          change: Returns the changed task. Its exceptions pass through.
          current: The record that the caller has just read, which saves a read.

        Returns:
          The changed task.

        Raises:
          ProblemError: `not_found`; `conflict`, if the task is being deleted, which nothing may
            change; `unavailable`, if other writers were faster each time.
        """
        for _ in range(_MAX_ATTEMPTS):
            record, current = current or self.task(name), None
            changed = change(record.value)
            if changed == record.value:
                return changed
            if record.value.status is TaskStatus.DELETING:
                raise being_deleted(name)
            try:
                self.tasks.replace(record, changed)
            except ConflictError:
                continue
            return changed
        raise ProblemError(
            ProblemType.UNAVAILABLE, f"Task {name!r} is being changed by others; try again", retry_after=1.0
        )

    def enqueue(
        self, work: WorkItem, key: RoundKey, *, hint: str = "", once: str | None = None, delay: float = 0.0
    ) -> None:
        """Enqueues work on a round under a fresh name: a queue may block a used one for a day.

        Args:
          work: The work.
          key: The round.
          hint: Text that makes the name readable.
          once: Idempotency key that replaces the fresh component of the name. Of calls with the
            same work, round, hint and key the queue may drop all but the first.
          delay: Seconds until the delivery.
        """
        name = f"{work.kind}-{key.task}-{key.id}-{hint}{'-' if hint else ''}{once or self.randomness.nonce()}"
        self.queue.enqueue(work, name=name, delay=delay)

    def put_output(self, kind: str, key: RoundKey, data: bytes) -> BlobRef:
        """Stores a checkpoint, result or broadcast under a name that no other commit uses.

        Args:
          kind: `checkpoints`, `results` or `broadcasts`.
          key: The round.
          data: The bytes.
        """
        name = names.output_prefix(kind, key.task, key.number) + self.randomness.nonce()
        self.blobs.create(name, [data])
        return BlobRef(name, hashlib.sha256(data).hexdigest(), len(data))


def being_deleted(task: str) -> ProblemError:
    """Returns the refusal of a change of a task that is being deleted."""
    return ProblemError(ProblemType.CONFLICT, f"Task {task!r} is being deleted, so it can't be changed any more")
