"""Documents in Firestore.

A document is stored as `{data: {…}, write: "…"}`. `data` is a single map, so that one index
exemption covers all its fields and a compare-and-set can replace it as a whole. `write` is a random
id of each write. It identifies a write after a lost response, and gives a write that changes
nothing a new version, which Firestore otherwise would not. Transactions are not used: they lock
documents and fail under contention.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any

from google.api_core import exceptions
from google.cloud import firestore
from google.protobuf.timestamp_pb2 import Timestamp

from muster_coordinator.adapters.google_calls import PATIENCE, Attempts, if_idempotent, if_not_done, translated
from muster_coordinator.adapters.loopback import exclude_loopback_from_proxies
from muster_coordinator.adapters.paths import check_collection, check_document
from muster_coordinator.ports import AlreadyExistsError, ConflictError, Document, StoreError

_DATA, _WRITE = "data", "write"
_NANOS_PER_SECOND = 1_000_000_000
_NEVER = Timestamp(seconds=1)  # update time that no document has
_VERSION_MISMATCH = (exceptions.FailedPrecondition, exceptions.NotFound)
# Firestore refuses a list directly inside a list. Such a list is wrapped in a map under this key. A
# map whose only key looks like it is escaped by one more bracket.
_LIST_KEY = "[]"
_LIKE_LIST_KEY = re.compile(r"\[\]+\Z")


class FirestoreDocuments:
    """`Documents` in a Firestore database.

    Reads are strongly consistent. Calls are retried with back-off for `patience` seconds, then
    raise `UnavailableError`; other failures raise `StoreError`. A guarded write that is retried
    after a lost response recognizes its earlier attempt by the write id, and succeeds. A version is
    the document's update time, in nanoseconds.

    Paths that do not alternate collection and id raise `ValueError`. Field names must not be empty
    or of the form `__name__`.
    """

    def __init__(self, project: str, database: str = "(default)", *, patience: float = PATIENCE) -> None:
        """Creates a client with the environment's credentials; it connects with the first call.

        Uses the emulator at `FIRESTORE_EMULATOR_HOST` if that is set.

        Args:
          project: Google Cloud project.
          database: Database in the project.
          patience: Seconds that a call may take, retries included.

        Raises:
          StoreError: There are no credentials.
        """
        exclude_loopback_from_proxies()
        self._patience = patience
        with translated(f"firestore://{project}/{database}"):
            self._client = firestore.Client(project=project, database=database)

    def create(self, path: str, data: Mapping[str, Any]) -> Document:
        """See `Documents.create`."""
        reference = self._reference(path)
        attempts = Attempts(self._patience)
        fields = _fields(data)
        with translated(path):
            try:
                done = reference.create(fields, retry=attempts.retry, timeout=self._patience)
            except exceptions.AlreadyExists as error:
                version = self._version_if_written(reference, fields) if attempts.lost else None
                if version is None:
                    raise AlreadyExistsError(f"{path} exists already") from error
            else:
                version = _version(done.update_time)
        return Document(path, _unpack(fields[_DATA]), version)

    def get(self, path: str) -> Document | None:
        """See `Documents.get`. Costs one read."""
        return _document(path, self._read(self._reference(path)))

    def replace(self, path: str, data: Mapping[str, Any], *, version: str) -> Document:
        """See `Documents.replace`."""
        reference = self._reference(path)
        attempts = Attempts(self._patience)
        fields = _fields(data)
        stale = ConflictError(f"{path} has changed, or is gone, since version {version}")
        with translated(path):
            try:
                done = reference.update(
                    fields,
                    option=self._client.write_option(last_update_time=_timestamp(version)),
                    retry=attempts.retry,
                    timeout=self._patience,
                )
            except _VERSION_MISMATCH as error:
                written = self._version_if_written(reference, fields) if attempts.lost else None
                if written is None:
                    raise stale from error
            else:
                written = _version(done.update_time)
        return Document(path, _unpack(fields[_DATA]), written)

    def delete(self, path: str, *, version: str | None = None) -> None:
        """See `Documents.delete`."""
        reference = self._reference(path)
        with translated(path):
            try:
                option = None
                if version is not None:
                    option = self._client.write_option(last_update_time=_timestamp(version))
                reference.delete(option=option, retry=if_idempotent(self._patience), timeout=self._patience)
            except _VERSION_MISMATCH as error:
                if self._read(reference).exists:
                    raise ConflictError(f"{path} has changed since version {version}") from error

    def increment(self, path: str, by: Mapping[str, int]) -> Mapping[str, int]:
        """See `Documents.increment`.

        Retried only after a response that says that nothing was written. A field that is not a
        number is overwritten, as Firestore does. Raises `StoreError` if a field is a float.
        """
        reference = self._reference(path)
        fields: dict[str, Any] = {}
        if by:
            fields[_DATA] = {field: firestore.Increment(step) for field, step in by.items()}
        if not any(by.values()):
            fields[_WRITE] = secrets.token_hex(8)  # otherwise the write would not change the version
        batch = self._client.batch()
        batch.set(reference, fields, merge=True)
        with translated(path):
            (done,) = batch.commit(retry=if_not_done(self._patience), timeout=self._patience)
        values: dict[str, int] = {}
        for field, value in zip(sorted(by), done.transform_results, strict=True):  # in the client's order
            if "integer_value" not in value:
                raise StoreError(f"{path}: {field} is not an integer and can't be incremented")
            values[field] = value.integer_value
        return values

    def list(self, collection: str, *, after: str | None = None, limit: int | None = None) -> list[Document]:
        """See `Documents.list`. Costs one read per document; needs no additional index."""
        check_collection(collection)
        if limit == 0:
            return []  # 0 means no limit to Firestore
        query = self._client.collection(collection).order_by("__name__")
        if after:
            query = query.start_after({"__name__": after})
        if limit is not None:
            query = query.limit(limit)
        with translated(collection):
            snapshots = query.get(retry=if_idempotent(self._patience), timeout=self._patience)
        documents = (_document(f"{collection}/{snapshot.id}", snapshot) for snapshot in snapshots)
        return [document for document in documents if document is not None]

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def _reference(self, path: str) -> firestore.DocumentReference:
        check_document(path)
        return self._client.document(path)

    def _read(self, reference: firestore.DocumentReference) -> firestore.DocumentSnapshot:
        with translated(reference.path):
            return reference.get(retry=if_idempotent(self._patience), timeout=self._patience)

    def _version_if_written(self, reference: firestore.DocumentReference, fields: Mapping[str, Any]) -> str | None:
        """Returns the stored document's version if this call has written it, else None."""
        snapshot = self._read(reference)
        stored = snapshot.to_dict() or {}
        return _version(snapshot.update_time) if stored.get(_WRITE) == fields[_WRITE] else None


def _fields(data: Mapping[str, Any]) -> dict[str, Any]:
    return {_DATA: _pack(dict(data)), _WRITE: secrets.token_hex(8)}


def _document(path: str, snapshot: firestore.DocumentSnapshot) -> Document | None:
    stored = snapshot.to_dict()
    return None if stored is None else Document(path, _unpack(stored.get(_DATA, {})), _version(snapshot.update_time))


def _version(instant: Any) -> str:
    stamp = instant.timestamp_pb()
    return str(stamp.seconds * _NANOS_PER_SECOND + stamp.nanos)


def _timestamp(version: str) -> Timestamp:
    """Returns the update time of a version, or one that no document has if it is not a version."""
    if not (version.isascii() and version.isdigit()):
        return _NEVER
    seconds, nanos = divmod(int(version), _NANOS_PER_SECOND)
    return Timestamp(seconds=seconds, nanos=nanos)


def _pack(value: Any) -> Any:
    """Returns a copy of `value` that Firestore can store."""
    if isinstance(value, dict):
        packed = {key: _pack(item) for key, item in value.items()}
        return {f"{key}]": item for key, item in packed.items()} if _has_list_key(packed) else packed
    if isinstance(value, list | tuple):
        return [{_LIST_KEY: _pack(item)} if isinstance(item, list | tuple) else _pack(item) for item in value]
    return value


def _unpack(value: Any) -> Any:
    """Returns the value that `_pack` received."""
    if isinstance(value, dict):
        items = {key: _unpack(item) for key, item in value.items()}
        if not _has_list_key(items):
            return items
        ((key, item),) = items.items()
        return item if key == _LIST_KEY else {key[:-1]: item}
    if isinstance(value, list):
        return [_unpack(item) for item in value]
    return value


def _has_list_key(items: Mapping[str, Any]) -> bool:
    return len(items) == 1 and _LIKE_LIST_KEY.match(next(iter(items))) is not None
