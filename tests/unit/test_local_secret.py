"""Secret file of a local coordinator, on file systems with and without hard links."""

from __future__ import annotations

import errno
import os
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from muster.local.secret import secret_of

NO_LINKS = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS)


@pytest.fixture(params=[None, *NO_LINKS], ids=lambda number: "links" if number is None else errno.errorcode[number])
def links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the test with hard links, and with each error of a file system without them."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    if request.param is not None:
        monkeypatch.setattr(os, "link", refuse)


@pytest.mark.usefixtures("links")
def test_secret_is_created_once_with_mode_0600(tmp_path: Path) -> None:
    made = secret_of(tmp_path)
    assert len(bytes.fromhex(made)) == 32
    assert secret_of(tmp_path) == made
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    if sys.platform != "win32":
        assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


@pytest.mark.usefixtures("links")
def test_concurrent_starts_share_one_secret(tmp_path: Path) -> None:
    together = Barrier(8)

    def start(_: int) -> str:
        together.wait()
        return secret_of(tmp_path)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(start, range(8)))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_full_disk_raises_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="No space"):
        secret_of(tmp_path)
    assert list(tmp_path.iterdir()) == []
