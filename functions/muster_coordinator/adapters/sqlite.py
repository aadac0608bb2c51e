"""Documents in one SQLite file that several threads and processes use at once, and that outlives a kill at any moment.

The file is in write-ahead mode (https://www.sqlite.org/wal.html) with `synchronous=NORMAL`: a write that has returned is safe
from the death of a process; a power cut may take the last ones back, never half of one.
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

_PATIENCE = 10.0  # seconds that a writer waits for the others
_FILE_MODE = 0o600
_PAUSE = 0.001  # seconds; SQLite's own waits grow to 100 ms, which is many times what a transaction here takes
_PASSING = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_PROTOCOL}
)


class _Connection(sqlite3.Connection):
    """A connection that can be referred to weakly, which the built-in type can't."""


class Database:
    """An SQLite file, or one in memory: connections for each thread, write transactions one at a time, errors of ours.

    Not to be carried over a fork: make it in the process that uses it.
    """

    def __init__(self, path: Path | str | None, *, schema: str, version: int, patience: float = _PATIENCE) -> None:
        """Opens the database and makes what `schema` names where it is missing.

        Args:
          path: The file, made with its folder where missing; None for a database in memory, which dies with the object.
          schema: Statements that are harmless to repeat (`CREATE TABLE IF NOT EXISTS …`), with `;` after each.
          version: The schema's version. A file with another one is refused.
          patience: Seconds to wait for other writers before `UnavailableError`.

        Raises:
          StoreError: The file can't be opened, is no database, or has another version of the schema.
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
        """A connection for single reads; each sees every write that has returned."""
        if self._shared is None:
            with self._translated():
                yield self._connection()
        else:
            with self._writer, self._translated():
                yield self._shared

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A write transaction: committed when the block ends, rolled back if it raises.

        Raises:
          UnavailableError: Other writers held the database for too long, or the disk refused.
          StoreError: Anything else that SQLite refuses.
        """
        # Threads of a process queue up here, where the next one wakes at once; between processes there is only waiting.
        if not self._writer.acquire(timeout=self._patience):
            raise UnavailableError(f"{self._name}: other threads have been writing for {self._patience:g} s; try again")
        try:
            with self._translated():
                connection = self._connection(writing=True)
                self._patiently(connection, "BEGIN IMMEDIATE")
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
                self._patiently(self._connection(writing=True), "PRAGMA journal_mode=WAL")
        with self.writing() as connection:
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            if found not in (0, version):
                raise StoreError(
                    f"{self._name} has version {found} of its schema, and this Muster reads {version}: "
                    "use the Muster that wrote it, or another folder"
                )
            for statement in filter(str.strip, schema.split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={version:d}")

    def _connection(self, *, writing: bool = False) -> _Connection:
        """The thread's connection; one for writing is another, since it waits for others in another way."""
        if self._shared is not None:
            return self._shared
        name = "writer" if writing else "reader"
        connection: _Connection | None = getattr(self._local, name, None)
        if connection is None:
            connection = self._connect(str(self._path))
            if writing:
                connection.execute("PRAGMA busy_timeout=0")  # it waits by `_patiently`
            setattr(self._local, name, connection)
        return connection

    def _connect(self, path: str) -> _Connection:
        if self._closed:
            raise StoreError(f"{self._name} is closed")
        with self._translated():
            # Autocommit, so that transactions are where this module says; closed by another thread, if at all.
            connection = sqlite3.connect(
                path, timeout=self._patience, isolation_level=None, check_same_thread=False, factory=_Connection
            )
            connection.execute("PRAGMA synchronous=NORMAL")
        self._open.add(connection)
        return connection

    def _patiently(self, connection: sqlite3.Connection, statement: str) -> None:
        """Runs `statement`, again while other processes hold the database: SQLite's own waiting is coarse and has gaps."""
        until = time.monotonic() + self._patience
        while True:
            try:
                connection.execute(statement)
            except sqlite3.OperationalError as error:
                if _primary(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or time.monotonic() > until:
                    raise
            else:
                return
            time.sleep(_PAUSE)

    def _make_file(self, path: Path) -> None:
        """Creates an empty file that only its owner can read. SQLite's `-wal` and `-shm` files get the same mode."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{path.parent} can't be made: {error.strerror}") from error
        # SQLite itself reports other faults of the path, such as a folder of that name.
        with suppress(OSError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, _FILE_MODE))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            kind = UnavailableError if _primary(error) in _PASSING else StoreError
            raise kind(f"{self._name}: {error}") from error


def _primary(error: sqlite3.Error) -> int | None:
    """The error's primary result code; extended ones carry it in their lowest byte. None for errors of Python's module."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


# A version comes from one sequence for all documents, so that one that is deleted and made again has a version never seen before.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
  collection TEXT NOT NULL, id TEXT NOT NULL, data TEXT NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (collection, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS versions (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), last INTEGER NOT NULL);
INSERT OR IGNORE INTO versions VALUES (1, 0);
"""


class SqliteDocuments:
    """`Documents` in an SQLite file. Paths that do not alternate collection and id raise `ValueError`."""

    def __init__(self, path: Path | str | None, *, patience: float = _PATIENCE) -> None:
        """Opens the file at `path`, made where missing; None: in memory. For `patience` and the errors see `Database`."""
        self._database = Database(path, schema=_SCHEMA, version=1, patience=patience)

    @classmethod
    def in_memory(cls) -> SqliteDocuments:
        """Documents that die with the object; its threads take turns."""
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
                raise AlreadyExistsError(f"{path} is there already")
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
            fresh = _next_version(connection)
            done = connection.execute(
                "UPDATE documents SET data = ?, version = ? WHERE collection = ? AND id = ? AND version = ?",
                (text, fresh, collection, key, _number(version)),
            )
            if not done.rowcount:
                raise ConflictError(f"{path} has changed, or is gone, since version {version}")
        return _document(path, text, fresh)

    def delete(self, path: str, *, version: str | None = None) -> None:
        """See `Documents.delete`."""
        place = _split(path)
        with self._database.writing() as connection:
            if version is not None:
                row = connection.execute(
                    "SELECT version FROM documents WHERE collection = ? AND id = ?", place
                ).fetchone()
                if row is not None and row[0] != _number(version):
                    raise ConflictError(f"{path} has changed since version {version}")
            connection.execute("DELETE FROM documents WHERE collection = ? AND id = ?", place)

    def increment(self, path: str, by: Mapping[str, int]) -> Mapping[str, int]:
        """See `Documents.increment`. Raises `StoreError` where a field holds something else than an integer."""
        collection, key = _split(path)
        with self._database.writing() as connection:
            row = connection.execute(
                "SELECT data FROM documents WHERE collection = ? AND id = ?", (collection, key)
            ).fetchone()
            data = {} if row is None else json.loads(row[0])
            for field, step in by.items():
                value = data.get(field, 0)
                if type(value) is not int:  # not a bool either
                    raise StoreError(f"{path}: {field} is no integer and can't be counted up")
                data[field] = value + step
            connection.execute(
                "INSERT INTO documents VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET data = excluded.data, version = excluded.version",
                (collection, key, _encode(data), _next_version(connection)),
            )
        return {field: data[field] for field in by}

    def list(self, collection: str, *, after: str | None = None, limit: int | None = None) -> list[Document]:
        """See `Documents.list`."""
        check_collection(collection)
        with self._database.reading() as connection:
            # Text compares by its UTF-8 bytes, which is the order of code points and so Python's.
            rows = connection.execute(
                "SELECT id, data, version FROM documents WHERE collection = ? AND id > ? ORDER BY id LIMIT ?",
                (collection, after or "", -1 if limit is None else limit),
            ).fetchall()
        return [_document(f"{collection}/{key}", text, version) for key, text, version in rows]


def _next_version(connection: sqlite3.Connection) -> int:
    number: int = connection.execute("UPDATE versions SET last = last + 1 RETURNING last").fetchone()[0]
    return number


def _document(path: str, text: str, version: int) -> Document:
    # What was written is read back from its text, so that a writer and a reader hold equal data, and none shares an object.
    return Document(path, json.loads(text), str(version))


def _encode(data: Mapping[str, Any]) -> str:
    # NaN and infinity pass: a diverging model's loss is worth keeping, and JSON in Python reads back what it wrote.
    return json.dumps(dict(data), separators=(",", ":"), ensure_ascii=False)


def _number(version: str) -> int:
    """The version's number; for one that is not of this store, a number that no document has."""
    return int(version) if version.isascii() and version.isdigit() else -1


def _split(path: str) -> tuple[str, str]:
    check_document(path)
    collection, _, key = path.rpartition("/")
    return collection, key
