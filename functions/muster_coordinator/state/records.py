"""Tasks and rounds as typed records over documents, and what a use case works with."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from muster.wire.problems import ProblemError, ProblemType
from muster.wire.times import LENIENT
from muster_coordinator.domain import names
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import BlobRef, Round
from muster_coordinator.domain.tasks import Task
from muster_coordinator.ports import (
    AlreadyExistsError,
    Blobs,
    Clock,
    ConflictError,
    DirectUploads,
    Document,
    Documents,
    Randomness,
    StoreError,
    WorkItem,
    WorkQueue,
)

LOG = logging.getLogger(__name__)
SCHEMA_VERSION = 1
_ATTEMPTS = 20  # of a compare-and-set among a handful of writers

T = TypeVar("T")


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


@dataclass(frozen=True, slots=True)
class Versioned(Generic[T]):
    """A record and the version of the document that it was read from."""

    value: T
    document: Document


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Page of the records of a collection, in order of id.

    Attributes:
      records: The readable records.
      unreadable: The ids of the others.
      last: The id of the last document, readable or not, if more may follow it.
    """

    records: tuple[Versioned[T], ...]
    unreadable: tuple[str, ...]
    last: str | None


class UnreadableError(StoreError):
    """The document is there and is not what this version of Muster can read."""


class NewerSchemaError(UnreadableError):
    """The document was written by a newer version of Muster, and is not guessed at."""


class Records(Generic[T]):
    """Documents of one type; every one carries the schema's version."""

    def __init__(self, documents: Documents, adapter: TypeAdapter[T]) -> None:
        self._documents = documents
        self._adapter = adapter

    def get(self, path: str) -> Versioned[T] | None:
        """The record as it is now, or None."""
        document = self._documents.get(path)
        return None if document is None else self.read(document)

    def list(self, collection: str, *, after: str | None = None, limit: int | None = None) -> list[Versioned[T]]:
        """The records of a collection, in order of id."""
        return [self.read(document) for document in self._documents.list(collection, after=after, limit=limit)]

    def page(self, collection: str, *, after: str | None = None, limit: int | None = None) -> Page[T]:
        """Returns a page like `list`, for a caller that tolerates unreadable records."""
        documents = self._documents.list(collection, after=after, limit=limit)
        records, unreadable = [], []
        for document in documents:
            try:
                records.append(self.read(document))
            except UnreadableError as error:
                LOG.error("%s is left out: %s", document.path, error)  # noqa: TRY400  no fault of the code
                unreadable.append(document.id)
        last = documents[-1].id if documents and len(documents) == limit else None
        return Page(tuple(records), tuple(unreadable), last)

    def create(self, path: str, value: T) -> Versioned[T]:
        """Makes a record; `AlreadyExistsError` if it is there."""
        return Versioned(value, self._documents.create(path, self._write(value)))

    def ensure(self, path: str, value: T) -> Versioned[T]:
        """Makes the record, or reads the one that somebody made before."""
        try:
            return self.create(path, value)
        except AlreadyExistsError:
            found = self.get(path)
            if found is None:
                raise ConflictError(f"{path} was there and is gone") from None
            return found

    def replace(self, found: Versioned[T], value: T) -> Versioned[T]:
        """Compare-and-set; `ConflictError` if somebody was faster."""
        document = self._documents.replace(found.document.path, self._write(value), version=found.document.version)
        return Versioned(value, document)

    def _write(self, value: T) -> dict[str, Any]:
        return {"schema_version": SCHEMA_VERSION, **self._adapter.dump_python(value, mode="json")}

    def read(self, document: Document) -> Versioned[T]:
        """The record in a document. Raises `UnreadableError` (`NewerSchemaError`) for one that can't be read."""
        data = dict(document.data)
        version = data.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            raise NewerSchemaError(
                f"{document.path} has schema version {version}, and this version of Muster reads {SCHEMA_VERSION}: it is left as it "
                "is; deploy the version that wrote it"
            )
        try:
            # Lenient, since an earlier version stored times that are no longer valid in requests.
            return Versioned(self._adapter.validate_python(data, context=LENIENT), document)
        except ValidationError as error:
            raise UnreadableError(f"{document.path} can't be read: {error}") from error


_TASK: TypeAdapter[Task] = TypeAdapter(Task)
_ROUND: TypeAdapter[Round] = TypeAdapter(Round)
