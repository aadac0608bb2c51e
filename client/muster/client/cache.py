"""A folder that keeps what clients have downloaded, by hash. Several processes may share it, on any system.

A file is written beside its place and moved there, so that nobody sees half of one, and whoever reads checks the hash: no lock is
needed. A cache that can't be read or written costs downloads, and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path
from typing import Optional

PLAN, BROADCAST = ".plan", ".broadcast"
_KEPT = {PLAN: 16, BROADCAST: 4}  # files of each kind
_MOST = 1 << 30  # bytes of each kind
_TEMPORARY = ".part"
_STALE = 3600.0  # seconds, after which a file that was never finished has nobody who writes it


class Cache:
    """The folder.

    Args:
      folder: Where; made when something is kept. None: nothing is kept.
      most: Bytes of each kind that are kept at most.
    """

    def __init__(self, folder: Optional[Path], *, most: int = _MOST) -> None:
        self._folder = folder
        self._most = most

    def get(self, sha256: str, kind: str) -> Optional[bytes]:
        """What is kept under a hash, unchecked; None: nothing that can be read."""
        if self._folder is None:
            return None
        file = self._folder / f"{sha256}{kind}"
        try:
            data = file.read_bytes()
        except OSError:
            return None
        with contextlib.suppress(OSError):
            os.utime(file)  # it was of use: others go first
        return data

    def put(self, sha256: str, kind: str, data: bytes) -> None:
        """Keeps what has been checked, and drops what was longest of no use beyond the bounds."""
        if self._folder is None or len(data) > self._most:
            return
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(kind, len(data))
            handle, name = tempfile.mkstemp(dir=self._folder, suffix=_TEMPORARY)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                # Windows refuses while somebody reads the file that is there, which then is the same one.
                Path(name).replace(self._folder / f"{sha256}{kind}")
            finally:
                Path(name).unlink(missing_ok=True)

    def _make_room(self, kind: str, size: int) -> None:
        if self._folder is None:
            return
        found: list[tuple[float, int, Path]] = []
        for file in self._folder.iterdir():
            with contextlib.suppress(OSError):  # another process was faster
                status = file.stat()
                if file.suffix == _TEMPORARY and status.st_mtime < time.time() - _STALE:
                    file.unlink()
                elif file.suffix == kind:
                    found.append((status.st_mtime, status.st_size, file))
        found.sort(key=lambda item: item[0], reverse=True)
        for place, (_, held, file) in enumerate(found, start=1):
            size += held
            if place >= _KEPT[kind] or size > self._most:
                with contextlib.suppress(OSError):
                    file.unlink()
