"""Folder cache of downloads, by hash. Several processes may share it, on any system.

No lock is needed: a file is written under a temporary name and then renamed, and each reader checks
the hash. If the folder can't be read or written, clients download again.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path
from typing import Optional

PLAN, BROADCAST = ".plan", ".broadcast"
_MAX_FILES = {PLAN: 16, BROADCAST: 4}  # files of each kind
_MAX_BYTES = 1 << 30  # bytes of each kind
_TEMPORARY = ".part"
_ABANDONED_SECONDS = 3600.0  # age of a temporary file whose writer must have ended


class DownloadCache:
    """Cache of plans and broadcasts in one folder, with a bound for each kind.

    Args:
      folder: The folder, created with the first file; None: nothing is cached.
      max_bytes: Bytes of each kind.
    """

    def __init__(self, folder: Optional[Path], *, max_bytes: int = _MAX_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def get(self, sha256: str, kind: str) -> Optional[bytes]:
        """Returns the cached file of a hash, unchecked, or None if there is no readable one."""
        if self._folder is None:
            return None
        file = self._folder / f"{sha256}{kind}"
        try:
            data = file.read_bytes()
        except OSError:
            return None
        with contextlib.suppress(OSError):
            os.utime(file)  # the least recently used file is evicted first
        return data

    def put(self, sha256: str, kind: str, data: bytes) -> None:
        """Stores `data`, whose hash the caller has checked. Evicts least recently used files."""
        if self._folder is None or len(data) > self._max_bytes:
            return
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(kind, len(data))
            handle, name = tempfile.mkstemp(dir=self._folder, suffix=_TEMPORARY)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                # Fails on Windows while a process reads the existing file, which has the same
                # bytes.
                Path(name).replace(self._folder / f"{sha256}{kind}")
            finally:
                Path(name).unlink(missing_ok=True)

    def _make_room(self, kind: str, size: int) -> None:
        if self._folder is None:
            return
        files: list[tuple[float, int, Path]] = []
        for file in self._folder.iterdir():
            with contextlib.suppress(OSError):  # another process has removed the file
                status = file.stat()
                if file.suffix == _TEMPORARY and status.st_mtime < time.time() - _ABANDONED_SECONDS:
                    file.unlink()
                elif file.suffix == kind:
                    files.append((status.st_mtime, status.st_size, file))
        files.sort(key=lambda item: item[0], reverse=True)
        for position, (_, file_bytes, file) in enumerate(files, start=1):
            size += file_bytes
            if position >= _MAX_FILES[kind] or size > self._max_bytes:
                with contextlib.suppress(OSError):
                    file.unlink()
