"""Typed records over documents, which carry the version of their schema."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from muster.wire.times import LENIENT
from muster_coordinator.ports import AlreadyExistsError, ConflictError, Document, Documents, StoreError

LOG = logging.getLogger(__name__)
SCHEMA_VERSION = 1

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Versioned(Generic[T]):
    """A record and the document, with its version, that it was read from."""

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
    """Error raised when a document exists, and this version of Muster can't read it."""


class NewerSchemaError(UnreadableError):
    """Error raised when a document was written by a newer version of Muster."""


class RecordRepository(Generic[T]):
    """Repository of documents of one type. Each document carries the version of its schema."""

    def __init__(self, documents: Documents, adapter: TypeAdapter[T]) -> None:
        """Creates a repository over `documents`, whose records `adapter` validates and dumps."""
        self._documents = documents
        self._adapter = adapter

    def get(self, path: str) -> Versioned[T] | None:
        """Returns the current record, or None."""
        document = self._documents.get(path)
        return None if document is None else self.read(document)

    def list(self, collection: str, *, after: str | None = None, limit: int | None = None) -> list[Versioned[T]]:
        """Returns the records of a collection, in order of id.

        Args:
          collection: The collection's path.
          after: Cursor: returns only records with an id behind this one.
          limit: Most records to return.
        """
        return [self.read(document) for document in self._documents.list(collection, after=after, limit=limit)]

    def page(self, collection: str, *, after: str | None = None, limit: int | None = None) -> Page[T]:
        """Returns a page like `list`, for a caller that tolerates unreadable records."""
        documents = self._documents.list(collection, after=after, limit=limit)
        records, unreadable = [], []
        for document in documents:
            try:
                records.append(self.read(document))
            except UnreadableError as error:
                LOG.error("%s is skipped: %s", document.path, error)  # noqa: TRY400  no traceback: the data is at fault
                unreadable.append(document.id)
        last = documents[-1].id if documents and len(documents) == limit else None
        return Page(tuple(records), tuple(unreadable), last)

    def create(self, path: str, value: T) -> Versioned[T]:
        """Creates a record. Raises `AlreadyExistsError` if the document exists."""
        return Versioned(value, self._documents.create(path, self._write(value)))

    def ensure(self, path: str, value: T) -> Versioned[T]:
        """Creates a record, or returns the existing one."""
        try:
            return self.create(path, value)
        except AlreadyExistsError:
            existing = self.get(path)
            if existing is None:
                raise ConflictError(f"{path} existed and was deleted") from None
            return existing

    def replace(self, current: Versioned[T], value: T) -> Versioned[T]:
        """Replaces a record by compare-and-set.

        Raises `ConflictError` if it has changed since it was read.
        """
        document = self._documents.replace(current.document.path, self._write(value), version=current.document.version)
        return Versioned(value, document)

    def _write(self, value: T) -> dict[str, Any]:
        return {"schema_version": SCHEMA_VERSION, **self._adapter.dump_python(value, mode="json")}

    def read(self, document: Document) -> Versioned[T]:
        """Returns the record in a document. Raises `UnreadableError` or `NewerSchemaError`."""
        data = dict(document.data)
        version = data.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            raise NewerSchemaError(
                f"{document.path} has schema version {version}, and this version of Muster reads {SCHEMA_VERSION}: "
                "it is left as it is; deploy the version that wrote it"
            )
        try:
            # Lenient, since an earlier version stored times that are no longer valid in requests.
            return Versioned(self._adapter.validate_python(data, context=LENIENT), document)
        except ValidationError as error:
            raise UnreadableError(f"{document.path} can't be read: {error}") from error
