"""Bundle of the ports, with the repositories of tasks and rounds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from pydantic import TypeAdapter

from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.domain import names
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import BlobRef, Round
from muster_coordinator.domain.tasks import Task
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
from muster_coordinator.state.records import Records, Versioned

_ATTEMPTS = 20  # of a compare-and-set among a handful of writers

_TASK: TypeAdapter[Task] = TypeAdapter(Task)
_ROUND: TypeAdapter[Round] = TypeAdapter(Round)


@dataclass(frozen=True)
class Platform:
    """The ports, as one argument.

    `direct` is None where clients can't reach the store. `at_once` is how many calls to the stores one piece of work may have under
    way at a time: several where each crosses a network.
    """

    documents: Documents
    blobs: Blobs
    queue: WorkQueue
    clock: Clock
    randomness: Randomness
    direct: DirectUploads | None = None
    at_once: int = 1

    @cached_property
    def tasks(self) -> Records[Task]:
        """All tasks."""
        return Records(self.documents, _TASK)

    @cached_property
    def rounds(self) -> Records[Round]:
        """All rounds."""
        return Records(self.documents, _ROUND)

    def task(self, name: str) -> Versioned[Task]:
        """A task that must be there. Raises `ProblemError` (`not_found`)."""
        found = self.tasks.get(names.task_path(name))
        if found is None:
            raise ProblemError(
                ProblemType.NOT_FOUND, f"There is no task {name!r}; `muster task list` shows those that are there"
            )
        return found

    def round(self, key: RoundKey) -> Versioned[Round] | None:
        """A round, if it is there."""
        return self.rounds.get(names.round_path(key))

    def change_task(self, name: str, change: Callable[[Task], Task], *, found: Versioned[Task] | None = None) -> Task:
        """Applies `change` to the task as it then is, with compare-and-set. What `change` raises passes through.

        `found`: the task as it was a moment ago, for whoever has read it.
        """
        for _ in range(_ATTEMPTS):
            seen, found = found or self.task(name), None
            changed = change(seen.value)
            if changed == seen.value:
                return changed
            try:
                self.tasks.replace(seen, changed)
            except ConflictError:
                continue
            return changed
        raise ProblemError(
            ProblemType.UNAVAILABLE, f"Task {name!r} is being changed by others; try again", retry_after=1.0
        )

    def enqueue(
        self, work: WorkItem, key: RoundKey, *, hint: str = "", once: str | None = None, delay: float = 0.0
    ) -> None:
        """Enqueues work on a round. Names are fresh, since a queue may block a used name for a day: repeats are harmless.

        With `once` the name is not: the queue may drop all but the first of those who ask for the same with the same `once`.
        """
        name = f"{work.kind}-{key.task}-{key.id}-{hint}{'-' if hint else ''}{once or self.randomness.nonce()}"
        self.queue.enqueue(work, name=name, delay=delay)

    def put_output(self, kind: str, key: RoundKey, data: bytes) -> BlobRef:
        """Stores a checkpoint, result or broadcast under a name of its own, so that no two commits touch one blob."""
        name = names.output_prefix(kind, key.task, key.number) + self.randomness.nonce()
        self.blobs.create(name, [data])
        return BlobRef(name, hashlib.sha256(data).hexdigest(), len(data))
