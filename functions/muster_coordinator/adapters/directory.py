"""Blobs as files under one directory, for several concurrent threads and processes.

A blob is written under a temporary name and then hard-linked to its final name, which is atomic and
fails if the name is taken. No reader ever sees a partial blob, whichever process is killed.
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

# Suffix of every file. No blob's name may contain it, so that a blob `a` and a folder `a/…` can
# coexist.
_SUFFIX = "~"
_FOLDER_MODE, _FILE_MODE = 0o700, 0o600
_MAX_STAGED_AGE = 3600.0  # seconds without a write after which a temporary file is abandoned
_COMPARE_SIZE = 1 << 20  # bytes
_READ_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_TRANSIENT = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE})
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS})
_MAX_LINK_ATTEMPTS = 1000  # while other processes remove the blob's folder


class DirectoryBlobs:
    """`Blobs` in a directory.

    Reads and lists see every completed write, in all processes. Nothing is retried: a full disk and
    other transient errors of the operating system raise `UnavailableError`, the rest `StoreError`.
    Invalid names raise `ValueError`.
    """

    def __init__(self, root: Path | str) -> None:
        """Creates the directory if needed, and deletes temporary files that are an hour old.

        Raises:
          StoreError: The directory can't be created or read.
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
        """See `Blobs.read`. Maps the file; the view stays valid after the blob is deleted."""
        path = self._path(name)
        with _translated(name):
            try:
                file = os.open(path, _READ_FLAGS)
            except FileNotFoundError as error:
                raise BlobNotFoundError(f"There is no blob {name}") from error
            try:
                size = os.fstat(file).st_size
                if limit is not None and size > limit:
                    raise BlobTooLargeError(f"{name} has {size} bytes, and at most {limit} are read")
                if not size:
                    return memoryview(b"")  # an empty file can't be mapped
                if sys.platform == "win32":  # a mapped file can't be deleted there
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
        """See `Blobs.delete`. Removes folders that become empty."""
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
        info = _info(name, staged.stat())
        for _ in range(_MAX_LINK_ATTEMPTS):
            try:
                self._link(staged, target)
            except FileExistsError:
                # The blob may have been deleted since. Then the name is free again.
                with suppress(FileNotFoundError):
                    return CreateResult(
                        _info(name, target.stat()), created=False, same=_have_same_bytes(staged, target)
                    )
            except FileNotFoundError:
                # The folder is new, or a concurrent delete removed it because it was empty, and may
                # do so again while it is created.
                with suppress(FileNotFoundError, FileExistsError):
                    target.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            else:
                return CreateResult(info, created=True, same=True)
        raise UnavailableError(f"{name}: other processes keep deleting its folder; try again")

    def _link(self, staged: Path, target: Path) -> None:
        try:
            target.hardlink_to(staged)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._rename(staged, target)

    def _rename(self, staged: Path, target: Path) -> None:
        """Publishes like `_link`, on a file system without hard links.

        A file lock makes the check and the rename atomic.
        """
        import fcntl  # not on Windows, whose file systems have hard links

        with open(self._staging / "lock", "ab", opener=_private) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if target.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
            staged.rename(target)

    def _walk(self, folder: str, start: str) -> Iterator[BlobInfo]:
        """Yields the blobs under `folder` whose next segment starts with `start`, in order of name.

        `folder` is empty or ends with `/`.
        """
        children: list[tuple[str, os.stat_result | None]] = []
        with _translated(folder), suppress(FileNotFoundError), os.scandir(self._blobs / folder) as entries:
            for entry in entries:
                if not entry.name.startswith(start):
                    continue
                if not entry.name.endswith(_SUFFIX):
                    # With its `/`, a folder sorts like the names of its blobs: `a-b`, `a/b`, `ab`.
                    children.append((entry.name + "/", None))
                elif len(entry.name) > len(start):
                    with suppress(FileNotFoundError):
                        children.append((entry.name[:-1], entry.stat()))
        for name, status in sorted(children, key=lambda child: child[0]):
            if status is None:
                yield from self._walk(folder + name, "")
            else:
                yield _info(folder + name, status)

    def _prune(self, folder: str) -> None:
        while folder:
            try:
                (self._blobs / folder).rmdir()
            except FileNotFoundError:
                pass  # a concurrent delete removed it; its parent may be empty now
            except OSError:
                return  # it is not empty any more, or can't be removed, which is harmless
            folder = folder.rpartition("/")[0]

    def _sweep(self) -> None:
        with os.scandir(self._staging) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.name != "lock" and entry.stat().st_mtime < time.time() - _MAX_STAGED_AGE:
                        Path(entry.path).unlink()

    def _file(self, name: str) -> Path:
        return Path(self._path(name))

    def _path(self, name: str) -> str:
        """Returns the file's path as text; a fold needs one per update, and a `Path` is slow."""
        check_blob(name)
        return f"{self._blobs}/{name}{_SUFFIX}"


def _private(path: str, flags: int) -> int:
    """Opens a file; a new one is readable only by its owner, whatever the umask.

    Updates are private.
    """
    return os.open(path, flags, _FILE_MODE)


def _info(name: str, status: os.stat_result) -> BlobInfo:
    return BlobInfo(name, status.st_size, status.st_mtime)


def _have_same_bytes(first: Path, second: Path) -> bool:
    with first.open("rb", buffering=0) as left, second.open("rb", buffering=0) as right:
        if os.fstat(left.fileno()).st_size != os.fstat(right.fileno()).st_size:
            return False
        while chunk := left.read(_COMPARE_SIZE):
            if chunk != right.read(_COMPARE_SIZE):
                return False
    return True


@contextmanager
def _translated(name: Path | str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = UnavailableError if error.errno in _TRANSIENT else StoreError
        raise kind(f"{name}: {error.strerror}") from error
