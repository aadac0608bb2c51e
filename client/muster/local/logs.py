"""Bounds the logs of `muster up`, which its processes write through inherited file descriptors."""

from __future__ import annotations

import logging
import shutil
import threading
from pathlib import Path

from muster.private_files import open_to_append

MAX_LOG_BYTES = 16 << 20  # bytes of one log; the previous file, `.1`, has up to as many
_CHECK_SECONDS = 10.0
_LOG = logging.getLogger(__name__)


def rotate(log: Path, *, max_bytes: int = MAX_LOG_BYTES) -> bool:
    """Moves the content of `log` to `<log>.1` if it exceeds `max_bytes`.

    The file itself stays, because processes hold it open: they append, so after the truncation they
    write at its start. A line that arrives between copy and truncation is lost, as with
    `copytruncate` of logrotate.

    Returns:
      Whether the log was rotated.
    """
    if not log.exists() or log.stat().st_size <= max_bytes:
        return False
    older = log.with_name(f"{log.name}.1")
    older.unlink(missing_ok=True)
    with log.open("rb") as source, open_to_append(older) as target:
        shutil.copyfileobj(source, target)
    with log.open("r+b") as file:
        file.truncate(0)
    return True


class LogRotation:
    """Rotation of all logs of a folder in a separate thread, from `start` to `stop`."""

    def __init__(self, folder: Path, *, max_bytes: int = MAX_LOG_BYTES, check_seconds: float = _CHECK_SECONDS) -> None:
        """Configures the rotation; `start` starts it."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._check_seconds = check_seconds
        self._stop = threading.Event()

    def start(self) -> None:
        """Starts the thread."""
        self._stop = threading.Event()
        threading.Thread(target=self._run, args=(self._stop,), name="log-rotation", daemon=True).start()

    def stop(self) -> None:
        """Ends the thread. Idempotent."""
        self._stop.set()

    def rotate_all(self) -> None:
        """Rotates each log that is too long. Logs a failure, such as a full disk.

        The next call retries.
        """
        try:
            for log in self._folder.glob("*.log"):
                rotate(log, max_bytes=self._max_bytes)
        except OSError as error:
            _LOG.warning("The logs in %s can't be rotated now: %s", self._folder, error)

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(self._check_seconds):
            self.rotate_all()
