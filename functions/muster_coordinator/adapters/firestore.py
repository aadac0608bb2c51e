"""Documents in Firestore.

A document is stored as `{data: {…}, write: "…"}`. `data` is a single map, so that one index exemption covers all that it holds,
and so that a compare-and-set can replace it whole. `write` is drawn anew with each write: it tells a write whose answer was
lost from somebody else's, and gives a write that changes nothing a version of its own (Firestore would keep the old one).
No transactions: they lock, and fail under contention.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any

from google.api_core import exceptions
from google.cloud import firestore
from google.protobuf.timestamp_pb2 import Timestamp

from muster_coordinator.adapters.google_calls import PATIENCE, Attempts, harmless, if_refused, translated
from muster_coordinator.adapters.loopback import exclude_loopback_from_proxies
from muster_coordinator.adapters.paths import check_collection, check_document
from muster_coordinator.ports import AlreadyExistsError, ConflictError, Document, StoreError

_DATA, _WRITE = "data", "write"
_SECOND = 1_000_000_000  # nanoseconds
_NEVER = Timestamp(seconds=1)  # no document's update time
_STALE = (exceptions.FailedPrecondition, exceptions.NotFound)
# Firestore takes no list directly in a list: such a one goes into a map under this key, and a map that has just a key which
# looks so gets one more bracket.
_LIST = "[]"
_LIKE_LIST = re.compile(r"\[\]+\Z")


class FirestoreDocuments:
    """`Documents` in a Firestore database. Paths that do not alternate collection and id raise `ValueError`.

    A version is the document's update time, in nanoseconds. Field names must not be empty nor look like `__name__`.
    """

    def __init__(self, project: str, database: str = "(default)", *, patience: float = PATIENCE) -> None:
        """Connects with the first call, under the credentials of the environment, or to `FIRESTORE_EMULATOR_HOST`.

        Args:
          project: The Google Cloud project.
          database: The database in it.
          patience: Seconds that a call may take, its repeats included.

        Raises:
          StoreError: there are no credentials.
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
                version = self._version_if_ours(reference, fields) if attempts.lost else None
                if version is None:
                    raise AlreadyExistsError(f"{path} is there already") from error
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
            except _STALE as error:
                written = self._version_if_ours(reference, fields) if attempts.lost else None
                if written is None:
                    raise stale from error
            else:
                written = _version(done.update_time)
        return Document(path, _unpack(fields[_DATA]), written)

    def delete(self, path: str, *, version: str | None = None) -> None:
        """See `Documents.delete`."""
        reference = self._reference(path)
        held = None if version is None else _timestamp(version)
        with translated(path):
            try:
                option = None if version is None else self._client.write_option(last_update_time=held)
                reference.delete(option=option, retry=harmless(self._patience), timeout=self._patience)
            except _STALE as error:
                if self._read(reference).exists:
                    raise ConflictError(f"{path} has changed since version {version}") from error

    def increment(self, path: str, by: Mapping[str, int]) -> Mapping[str, int]:
        """See `Documents.increment`. A field that holds something else than a number is overwritten, as Firestore does.

        Repeated only where Firestore says that it did nothing. Raises `StoreError` if a field holds a float.
        """
        reference = self._reference(path)
        fields: dict[str, Any] = {}
        if by:
            fields[_DATA] = {field: firestore.Increment(step) for field, step in by.items()}
        if not any(by.values()):
            fields[_WRITE] = secrets.token_hex(8)  # else nothing would change, and so the version would not
        batch = self._client.batch()
        batch.set(reference, fields, merge=True)
        with translated(path):
            (done,) = batch.commit(retry=if_refused(self._patience), timeout=self._patience)
        values: dict[str, int] = {}
        for field, value in zip(sorted(by), done.transform_results, strict=True):  # the client sends them in this order
            if "integer_value" not in value:
                raise StoreError(f"{path}: {field} is no integer and can't be counted up")
            values[field] = value.integer_value
        return values

    def list(self, collection: str, *, after: str | None = None, limit: int | None = None) -> list[Document]:
        """See `Documents.list`. Costs one read for each document; needs no index but the one of ids, which is always there."""
        check_collection(collection)
        if limit == 0:
            return []  # for Firestore it means: no limit
        query = self._client.collection(collection).order_by("__name__")
        if after:
            query = query.start_after({"__name__": after})
        if limit is not None:
            query = query.limit(limit)
        with translated(collection):
            snapshots = query.get(retry=harmless(self._patience), timeout=self._patience)
        found = (_document(f"{collection}/{snapshot.id}", snapshot) for snapshot in snapshots)
        return [document for document in found if document is not None]

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def _reference(self, path: str) -> firestore.DocumentReference:
        check_document(path)
        return self._client.document(path)

    def _read(self, reference: firestore.DocumentReference) -> firestore.DocumentSnapshot:
        with translated(reference.path):
            return reference.get(retry=harmless(self._patience), timeout=self._patience)

    def _version_if_ours(self, reference: firestore.DocumentReference, fields: Mapping[str, Any]) -> str | None:
        """The version of the document that is there, if it is what `fields` wrote."""
        found = self._read(reference)
        stored = found.to_dict() or {}
        return _version(found.update_time) if stored.get(_WRITE) == fields[_WRITE] else None


def _fields(data: Mapping[str, Any]) -> dict[str, Any]:
    return {_DATA: _pack(dict(data)), _WRITE: secrets.token_hex(8)}


def _document(path: str, snapshot: firestore.DocumentSnapshot) -> Document | None:
    stored = snapshot.to_dict()
    return None if stored is None else Document(path, _unpack(stored.get(_DATA, {})), _version(snapshot.update_time))


def _version(instant: Any) -> str:
    stamp = instant.timestamp_pb()
    return str(stamp.seconds * _SECOND + stamp.nanos)


def _timestamp(version: str) -> Timestamp:
    """The update time that a version stands for; for one that is not of this store, a time that no document has."""
    if not (version.isascii() and version.isdigit()):
        return _NEVER
    seconds, nanos = divmod(int(version), _SECOND)
    return Timestamp(seconds=seconds, nanos=nanos)


def _pack(value: Any) -> Any:
    """A copy of `value` that Firestore can hold."""
    if isinstance(value, dict):
        packed = {key: _pack(item) for key, item in value.items()}
        return {f"{key}]": item for key, item in packed.items()} if _is_like_list(packed) else packed
    if isinstance(value, list | tuple):
        return [{_LIST: _pack(item)} if isinstance(item, list | tuple) else _pack(item) for item in value]
    return value


def _unpack(value: Any) -> Any:
    """What `_pack` was given."""
    if isinstance(value, dict):
        items = {key: _unpack(item) for key, item in value.items()}
        if not _is_like_list(items):
            return items
        ((key, item),) = items.items()
        return item if key == _LIST else {key[:-1]: item}
    if isinstance(value, list):
        return [_unpack(item) for item in value]
    return value


def _is_like_list(items: Mapping[str, Any]) -> bool:
    return len(items) == 1 and _LIKE_LIST.match(next(iter(items))) is not None
