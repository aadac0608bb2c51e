"""Documents in one SQLite file, for several concurrent threads and processes.

The file is in write-ahead mode (https://www.sqlite.org/wal.html) with `synchronous=NORMAL`: a
completed write survives the death of its process. A power cut may revert the last transactions, but
none of them partly.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from muster_coordinator.adapters.paths import check_collection, check_document
from muster_coordinator.ports import AlreadyExistsError, ConflictError, Document, StoreError, UnavailableError

_PATIENCE = 10.0  # seconds that a writer waits for other writers
_FILE_MODE = 0o600
_RETRY_INTERVAL = 0.001  # seconds; SQLite's back-off grows to 100 ms, many times a transaction here
_TRANSIENT = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_PROTOCOL}
)


class _Connection(sqlite3.Connection):
    """Connection that supports weak references, unlike the built-in type."""


class Database:
    """SQLite database with connections per thread, and one write transaction at a time.

    A writer waits up to `patience` seconds for others, then raises `UnavailableError`, as do
    transient errors of the disk. Other errors of SQLite raise `StoreError`. An instance must not be
    used across a fork; create it in the process that uses it.
    """

    def __init__(self, path: Path | str | None, *, schema: str, version: int, patience: float = _PATIENCE) -> None:
        """Opens the database and applies `schema`.

        Args:
          path: The file, created with its folder if needed; None for a database in memory, which
            exists as long as the object.
          schema: Idempotent statements (`CREATE TABLE IF NOT EXISTS …`), each with a final `;`.
          version: Version of the schema. A file with another version is refused.
          patience: Seconds to wait for other writers.

        Raises:
          StoreError: The file can't be opened, is not a database, or has another version of the
            schema.
        """
        self._name = "the database in memory" if path is None else str(path)
        self._path = path
        self._patience = patience
        self._writer = threading.RLock()
        self._local = threading.local()
        self._open: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._closed = False
        self._shared: _Connection | None = None
        if path is None:
            self._shared = self._connect(":memory:")
        else:
            self._make_file(Path(path))
        self._prepare(schema, version)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yields a connection for single reads, which see every completed write."""
        if self._shared is None:
            with self._translated():
                yield self._connection()
        else:
            with self._writer, self._translated():
                yield self._shared

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Yields a connection in a write transaction, which an error in the block rolls back.

        Raises:
          UnavailableError: Other writers held the database for too long, or the disk failed.
          StoreError: Any other error of SQLite.
        """
        # Threads of one process wait here, where the next one wakes at once; processes poll.
        if not self._writer.acquire(timeout=self._patience):
            raise UnavailableError(f"{self._name}: other threads have been writing for {self._patience:g} s; try again")
        try:
            with self._translated():
                connection = self._connection(writing=True)
                self._execute_when_free(connection, "BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
        finally:
            self._writer.release()

    def close(self) -> None:
        """Closes the connections of all threads. Later calls raise `StoreError`."""
        with self._writer:
            self._closed = True
            for connection in list(self._open):
                connection.close()

    def _prepare(self, schema: str, version: int) -> None:
        if self._shared is None:
            with self._translated():
                self._execute_when_free(self._connection(writing=True), "PRAGMA journal_mode=WAL")
        with self.writing() as connection:
            stored_version = connection.execute("PRAGMA user_version").fetchone()[0]
            if stored_version not in (0, version):
                raise StoreError(
                    f"{self._name} has version {stored_version} of its schema, and this Muster reads {version}: "
                    "use the Muster that wrote it, or another folder"
                )
            for statement in filter(str.strip, schema.split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={version:d}")

    def _connection(self, *, writing: bool = False) -> _Connection:
        """Returns the thread's connection for reads, or the one for writes."""
        if self._shared is not None:
            return self._shared
        name = "writer" if writing else "reader"
        connection: _Connection | None = getattr(self._local, name, None)
        if connection is None:
            connection = self._connect(str(self._path))
            if writing:
                connection.execute("PRAGMA busy_timeout=0")  # `_execute_when_free` waits instead
            setattr(self._local, name, connection)
        return connection

    def _connect(self, path: str) -> _Connection:
        if self._closed:
            raise StoreError(f"{self._name} is closed")
        with self._translated():
            # Autocommit: only `writing` begins transactions. `close` runs in another thread.
            connection = sqlite3.connect(
                path, timeout=self._patience, isolation_level=None, check_same_thread=False, factory=_Connection
            )
            connection.execute("PRAGMA synchronous=NORMAL")
        self._open.add(connection)
        return connection

    def _execute_when_free(self, connection: sqlite3.Connection, statement: str) -> None:
        """Executes `statement`, and retries while other processes hold the database.

        SQLite's own waiting is coarse and does not cover every case.
        """
        until = time.monotonic() + self._patience
        while True:
            try:
                connection.execute(statement)
            except sqlite3.OperationalError as error:
                if _primary(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or time.monotonic() > until:
                    raise
            else:
                return
            time.sleep(_RETRY_INTERVAL)

    def _make_file(self, path: Path) -> None:
        """Creates an empty file that only its owner can read.

        SQLite creates its `-wal` and `-shm` files with the same mode.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{path.parent} can't be created: {error.strerror}") from error
        # SQLite itself reports other faults of the path, such as a folder of that name.
        with suppress(OSError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, _FILE_MODE))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            kind = UnavailableError if _primary(error) in _TRANSIENT else StoreError
            raise kind(f"{self._name}: {error}") from error


def _primary(error: sqlite3.Error) -> int | None:
    """Returns the primary result code, or None for an error of Python's own module.

    An extended result code has the primary one in its lowest byte.
    """
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


# All documents draw their versions from one sequence, so that a document that is deleted and
# created again gets a new version.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
  collection TEXT NOT NULL, id TEXT NOT NULL, data TEXT NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (collection, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS versions (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), last INTEGER NOT NULL);
INSERT OR IGNORE INTO versions VALUES (1, 0);
"""


class SqliteDocuments:
    """`Documents` in an SQLite file.

    Reads see every completed write, in all processes. Errors and retries: see `Database`. Paths
    that do not alternate collection and id raise `ValueError`.
    """

    def __init__(self, path: Path | str | None, *, patience: float = _PATIENCE) -> None:
        """Opens the file at `path`, or a database in memory if None; see `Database`."""
        self._database = Database(path, schema=_SCHEMA, version=1, patience=patience)

    @classmethod
    def in_memory(cls) -> SqliteDocuments:
        """Returns documents that exist as long as the object; its threads share one connection."""
        return cls(None)

    def close(self) -> None:
        """Closes the file for all threads."""
        self._database.close()

    def create(self, path: str, data: Mapping[str, Any]) -> Document:
        """See `Documents.create`."""
        collection, key = _split(path)
        text = _encode(data)
        with self._database.writing() as connection:
            version = _next_version(connection)
            done = connection.execute(
                "INSERT INTO documents VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", (collection, key, text, version)
            )
            if not done.rowcount:
                raise AlreadyExistsError(f"{path} exists already")
        return _document(path, text, version)

    def get(self, path: str) -> Document | None:
        """See `Documents.get`."""
        with self._database.reading() as connection:
            row = connection.execute(
                "SELECT data, version FROM documents WHERE collection = ? AND id = ?", _split(path)
            ).fetchone()
        return None if row is None else _document(path, *row)

    def replace(self, path: str, data: Mapping[str, Any], *, version: str) -> Document:
        """See `Documents.replace`."""
        collection, key = _split(path)
        text = _encode(data)
        with self._database.writing() as connection:
            new_version = _next_version(connection)
            done = connection.execute(
                "UPDATE documents SET data = ?, version = ? WHERE collection = ? AND id = ? AND version = ?",
                (text, new_version, collection, key, _number(version)),
            )
            if not done.rowcount:
                raise ConflictError(f"{path} has changed, or is gone, since version {version}")
        return _document(path, text, new_version)

    def delete(self, path: str, *, version: str | None = None) -> None:
        """See `Documents.delete`."""
        row_key = _split(path)
        with self._database.writing() as connection:
            if version is not None:
                row = connection.execute(
                    "SELECT version FROM documents WHERE collection = ? AND id = ?", row_key
                ).fetchone()
                if row is not None and row[0] != _number(version):
                    raise ConflictError(f"{path} has changed since version {version}")
            connection.execute("DELETE FROM documents WHERE collection = ? AND id = ?", row_key)

    def increment(self, path: str, by: Mapping[str, int]) -> Mapping[str, int]:
        """See `Documents.increment`. Raises `StoreError` if a field is not an integer."""
        collection, key = _split(path)
        with self._database.writing() as connection:
            row = connection.execute(
                "SELECT data FROM documents WHERE collection = ? AND id = ?", (collection, key)
            ).fetchone()
            data = {} if row is None else json.loads(row[0])
            for field, step in by.items():
                value = data.get(field, 0)
                if type(value) is not int:  # not a bool either
                    raise StoreError(f"{path}: {field} is not an integer and can't be incremented")
                data[field] = value + step
            connection.execute(
                "INSERT INTO documents VALUES (?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET data = excluded.data, version = excluded.version",
                (collection, key, _encode(data), _next_version(connection)),
            )
        return {field: data[field] for field in by}

    def list(self, collection: str, *, after: str | None = None, limit: int | None = None) -> list[Document]:
        """See `Documents.list`."""
        check_collection(collection)
        with self._database.reading() as connection:
            # SQLite compares text by its UTF-8 bytes, that is, by code points, as Python does.
            rows = connection.execute(
                "SELECT id, data, version FROM documents WHERE collection = ? AND id > ? ORDER BY id LIMIT ?",
                (collection, after or "", -1 if limit is None else limit),
            ).fetchall()
        return [_document(f"{collection}/{key}", text, version) for key, text, version in rows]


def _next_version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("UPDATE versions SET last = last + 1 RETURNING last").fetchone()[0]
    return version


def _document(path: str, text: str, version: int) -> Document:
    # Decoded from the stored text, so that writer and reader have equal data and share no object.
    return Document(path, json.loads(text), str(version))


def _encode(data: Mapping[str, Any]) -> str:
    # NaN and infinity are stored: the loss of a diverging model is worth recording, and Python's
    # JSON decoder accepts what its encoder wrote.
    return json.dumps(dict(data), separators=(",", ":"), ensure_ascii=False)


def _number(version: str) -> int:
    """Returns the number of a version, or one that no document has if it is not a version."""
    return int(version) if version.isascii() and version.isdigit() else -1


def _split(path: str) -> tuple[str, str]:
    check_document(path)
    collection, _, key = path.rpartition("/")
    return collection, key
