"""Blobs as files under one directory, made by several threads and processes at once.

A blob is written under a temporary name and then linked to its own, which either succeeds whole or finds the name taken. So no
reader ever sees a part of one, whatever is killed.
"""

from __future__ import annotations

import errno
import mmap
import os
import secrets
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from muster_coordinator.adapters.paths import check_blob, check_prefix
from muster_coordinator.ports import (
    BlobInfo,
    BlobNotFoundError,
    BlobTooLargeError,
    Buffer,
    CreateResult,
    StoreError,
    UnavailableError,
)

# Ends the name of every file: no name may hold it, so a blob `a` and a folder of blobs `a/…` live side by side.
_MARK = "~"
_FOLDER_MODE, _FILE_MODE = 0o700, 0o600
_STALE = 3600.0  # seconds without a write after which nobody can still be writing a temporary file
_COMPARED = 1 << 20  # bytes at a time
_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE})
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})
_RACES = 1000  # how often another process may remove the folder before we give in


class DirectoryBlobs:
    """`Blobs` in a directory. Names with empty parts, `.`, `..` or other characters than the port allows raise `ValueError`."""

    def __init__(self, root: Path | str) -> None:
        """Makes the directory where missing, and removes what killed processes left half-written there an hour ago or longer.

        Raises:
          StoreError: The directory can't be made or read.
        """
        self._blobs = Path(root) / "blobs"
        self._staging = Path(root) / "staging"
        with _translated(str(root)):
            for folder in (Path(root), self._blobs, self._staging):
                folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            self._sweep()

    def create(self, name: str, chunks: Iterable[Buffer]) -> CreateResult:
        """See `Blobs.create`."""
        target = self._file(name)
        staged = self._staging / f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            self._write(staged, chunks)
            with _translated(name):
                return self._publish(staged, target, name)
        finally:
            with suppress(OSError):
                staged.unlink()

    def read(self, name: str, *, limit: int | None = None, into: memoryview | None = None) -> memoryview:
        """See `Blobs.read`. A mapped view stays valid after the blob is deleted."""
        path = self._path(name)
        with _translated(name):
            try:
                file = os.open(path, _READ)
            except FileNotFoundError as error:
                raise BlobNotFoundError(f"There is no blob {name}") from error
            try:
                size = os.fstat(file).st_size
                if limit is not None and size > limit:
                    raise BlobTooLargeError(f"{name} has {size} bytes, and at most {limit} are read")
                if not size:
                    return memoryview(b"")  # nothing can't be mapped
                if sys.platform == "win32":  # where a file that is mapped can't be deleted
                    return memoryview(Path(path).read_bytes())
                if into is not None and size <= len(into):
                    view = into[:size]
                    if os.readv(file, [view]) == size:
                        return view.toreadonly()
                return memoryview(mmap.mmap(file, 0, access=mmap.ACCESS_READ))
            finally:
                os.close(file)

    def stat(self, name: str) -> BlobInfo | None:
        """See `Blobs.stat`."""
        target = self._file(name)
        with _translated(name):
            try:
                return _info(name, target.stat())
            except FileNotFoundError:
                return None

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        """See `Blobs.list`."""
        check_prefix(prefix)
        folder, _, start = prefix.rpartition("/")
        return self._walk(folder + "/" if folder else "", start)

    def delete(self, names: Iterable[str]) -> None:
        """See `Blobs.delete`. Removes folders that it leaves empty."""
        parents: dict[str, None] = {}
        try:
            for name in names:
                target = self._file(name)
                with _translated(name), suppress(FileNotFoundError):
                    target.unlink()
                    parents[name.rpartition("/")[0]] = None
        finally:
            for parent in parents:
                self._prune(parent)

    def _write(self, staged: Path, chunks: Iterable[Buffer]) -> None:
        with _translated(staged):
            file = open(staged, "xb", buffering=0, opener=_private)  # noqa: SIM115  closed below
        with file:
            for chunk in chunks:
                rest = memoryview(chunk)
                rest = rest.cast("B") if rest.nbytes else rest
                while rest.nbytes:
                    with _translated(staged):
                        rest = rest[file.write(rest) :]

    def _publish(self, staged: Path, target: Path, name: str) -> CreateResult:
        mine = _info(name, staged.stat())
        for _ in range(_RACES):
            try:
                self._link(staged, target)
            except FileExistsError:
                # Between our attempt and our look the blob may have been deleted: then the name is free, and we try again.
                with suppress(FileNotFoundError):
                    return CreateResult(_info(name, target.stat()), created=False, same=_same(staged, target))
            except FileNotFoundError:
                # Most often the folder is there; else it is new, or a concurrent delete removed it, empty as it was.
                with suppress(FileNotFoundError, FileExistsError):  # which may be there or gone while we make it
                    target.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            else:
                return CreateResult(mine, created=True, same=True)
        raise UnavailableError(f"{name}: others kept deleting its folder; try again")

    def _link(self, staged: Path, target: Path) -> None:
        try:
            target.hardlink_to(staged)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._rename(staged, target)

    def _rename(self, staged: Path, target: Path) -> None:
        """What `_link` does, where the file system has no hard links: the lock makes look and rename one step."""
        import fcntl  # not on Windows, whose file systems have links

        with open(self._staging / "lock", "ab", opener=_private) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if target.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
            staged.rename(target)

    def _walk(self, folder: str, start: str) -> Iterator[BlobInfo]:
        """The blobs under `folder` (empty, or with `/` at its end) whose next part starts with `start`, in order of name."""
        found: list[tuple[str, os.stat_result | None]] = []
        with _translated(folder), suppress(FileNotFoundError), os.scandir(self._blobs / folder) as entries:
            for entry in entries:
                if not entry.name.startswith(start):
                    continue
                if not entry.name.endswith(_MARK):
                    # With its `/` a folder sorts among the files as the names of its blobs do: `a-b`, `a/b`, `ab`.
                    found.append((entry.name + "/", None))
                elif len(entry.name) > len(start):
                    with suppress(FileNotFoundError):
                        found.append((entry.name[:-1], entry.stat()))
        for part, status in sorted(found, key=lambda pair: pair[0]):
            if status is None:
                yield from self._walk(folder + part, "")
            else:
                yield _info(folder + part, status)

    def _prune(self, folder: str) -> None:
        while folder:
            try:
                (self._blobs / folder).rmdir()
            except FileNotFoundError:
                pass  # another delete was faster; what is above may be ours to remove
            except OSError:
                return  # it holds something again, or has to stay for another reason, which is harmless
            folder = folder.rpartition("/")[0]

    def _sweep(self) -> None:
        with os.scandir(self._staging) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.name != "lock" and entry.stat().st_mtime < time.time() - _STALE:
                        Path(entry.path).unlink()

    def _file(self, name: str) -> Path:
        return Path(self._path(name))

    def _path(self, name: str) -> str:
        """The file's path as text, which costs a tenth of a `Path`: a fold asks for it once an update."""
        check_blob(name)
        return f"{self._blobs}/{name}{_MARK}"


def _private(path: str, flags: int) -> int:
    """Opens a file; a new one is readable only by its owner, whatever the umask, since updates are private."""
    return os.open(path, flags, _FILE_MODE)


def _info(name: str, status: os.stat_result) -> BlobInfo:
    return BlobInfo(name, status.st_size, status.st_mtime)


def _same(one: Path, other: Path) -> bool:
    with one.open("rb", buffering=0) as left, other.open("rb", buffering=0) as right:
        if os.fstat(left.fileno()).st_size != os.fstat(right.fileno()).st_size:
            return False
        while chunk := left.read(_COMPARED):
            if chunk != right.read(_COMPARED):
                return False
    return True


@contextmanager
def _translated(name: Path | str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = UnavailableError if error.errno in _PASSING else StoreError
        raise kind(f"{name}: {error.strerror}") from error
