"""Rotation of the logs of `muster up`, with real files that a writer holds open."""

from __future__ import annotations

import sys
from pathlib import Path

from muster.local.logs import LogRotation, rotate
from muster.private_files import open_to_append


def test_long_log_is_rotated_under_its_writer(tmp_path: Path) -> None:
    log = tmp_path / "web.log"
    with open_to_append(log) as writer:
        writer.write(b"old" * 100)
        writer.flush()
        assert rotate(log, max_bytes=299)
        writer.write(b"new")
        writer.flush()
        assert log.read_bytes() == b"new"
        assert not rotate(log, max_bytes=299)
    older = tmp_path / "web.log.1"
    assert older.read_bytes() == b"old" * 100
    if sys.platform != "win32":
        assert older.stat().st_mode & 0o077 == 0


def test_logs_of_a_folder_are_bounded(tmp_path: Path) -> None:
    rotation = LogRotation(tmp_path, max_bytes=100)
    with open_to_append(tmp_path / "web.log") as writer:
        for _ in range(50):
            writer.write(b"a traceback\n" * 20)
            writer.flush()
            rotation.rotate_all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["web.log", "web.log.1"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2 * (100 + 240)


def test_missing_log_is_ignored(tmp_path: Path) -> None:
    assert not rotate(tmp_path / "web.log", max_bytes=1)
