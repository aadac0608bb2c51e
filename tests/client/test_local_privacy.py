"""Privacy of `muster up` on a shared machine: its files, and the secrets of its processes."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.persistent_clients import PersistentClients

from muster.local.coordinator import LocalCoordinator
from muster.local.settings import COMMITTER, WEB_ONLY, environment_for, settings_of
from muster.operator import Operator
from muster.private_files import make_folder, open_to_append, owner_only, tighten
from muster.wire.messages import TaskPolicy, TaskStatus
from muster.wire.plan import Plan
from muster.wire.tensors import encode
from muster_coordinator.settings import Settings

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="files have no modes there")
PLAN = Plan.load(Path(__file__).resolve().parents[1] / "data" / "client_ids_sum.plan")
PROXY_SECRET = "p" * 40
OPERATOR_TOKEN = "muster_operator_token_of_the_shell"  # noqa: S105  a test value


def open_to_others(folder: Path) -> list[str]:
    """Returns the paths in `folder` for which the group or others have any permission."""
    paths = [folder, *folder.rglob("*")]
    return sorted(str(path) for path in paths if not path.is_symlink() and path.stat().st_mode & 0o077)


@contextlib.contextmanager
def muster_up(folder: Path, **variables: str) -> Iterator[dict[str, Any]]:
    """Runs `muster up` under umask 022, as a usual shell does. Yields its first line."""
    command = [sys.executable, "-m", "muster.cli", "up", "--port", "0", "--json", "--data-dir", str(folder)]
    environment = {**os.environ, **variables}
    with subprocess.Popen(  # noqa: S603
        ["/bin/sh", "-c", f"umask 022; exec {shlex.join(command)}"],
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.terminate()
            process.stdout.read()


def run_a_round(url: str) -> None:
    policy = TaskPolicy(rounds=2, goal=3, minimum=2, chunk=2, shards=1, round_seconds=10, assignment_seconds=5)
    pause = threading.Event()
    with Operator(url) as operator:
        operator.create_task("sums", population="phones", plan=PLAN, policy=policy)
        clients = PersistentClients(
            5,
            population="phones",
            address=lambda _: url,
            update=lambda client: encode({"0": np.int64(1 << client), "1": np.int64(1)}),
            pause=0.1,
            longest=0.5,
        )
        with clients:
            for _ in range(1200):
                view = operator.task("sums")
                if view.status is TaskStatus.COMPLETED:
                    return
                pause.wait(0.1)
    raise AssertionError(view)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads processes' environments in /proc")
def test_files_are_private_and_processes_hold_only_their_secrets(tmp_path: Path) -> None:
    folder = tmp_path / "data of a hospital"
    secrets = {"MUSTER_PROXY_SECRET": PROXY_SECRET, "MUSTER_TOKEN": OPERATOR_TOKEN}
    # The processes reach each other although the environment names a proxy.
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")
    with muster_up(folder, **secrets, **proxies) as started:
        run_a_round(started["url"])
        assert open_to_others(folder) == []
        written = {path.relative_to(folder).parts[0] for path in folder.rglob("*")}
        assert {"state.db", "state.db-wal", "state.db-shm", "queue.db", "blobs", "logs", "secret"} <= written
        secret = (folder / "secret").read_text().strip().encode()
        environments = {name: Path(f"/proc/{pid}/environ").read_bytes() for name, pid in started["pids"].items()}
        assert {name for name, held in environments.items() if secret in held} == {"web"}
        assert {name for name, held in environments.items() if PROXY_SECRET.encode() in held} == {"web"}
        assert {name for name, held in environments.items() if OPERATOR_TOKEN.encode() in held} == set()
    assert open_to_others(folder) == []


def test_open_folder_of_an_earlier_version_is_tightened_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "data"
    update = folder / "blobs/blobs/updates/0/a~"
    update.parent.mkdir(parents=True)
    update.write_bytes(b"one client's update")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    with LocalCoordinator(folder, workers=1, warm=False):
        assert open_to_others(folder) == []
    assert f"Other accounts could use {folder}" in caplog.text
    caplog.clear()
    with LocalCoordinator(folder, workers=1, warm=False):
        assert caplog.text == ""


def test_mode_of_a_folder_with_foreign_files_is_unchanged(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    for name in ("notes.txt", "state.db"):
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
        (folder / name).chmod(0o644)
    folder.chmod(0o755)
    note = tighten(folder, ours={"state.db"})
    assert note is not None
    assert "also holds notes.txt" in note
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())} == {
        "home": 0o755,
        "notes.txt": 0o644,
        "state.db": 0o600,
    }


def test_links_in_a_tightened_folder_are_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    folder = tmp_path / "data"
    folder.mkdir(mode=0o755)
    (folder / "blobs").symlink_to(elsewhere)
    assert tighten(folder, ours={"blobs"}) is not None
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o755


def test_new_files_and_folders_are_private_under_any_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_folder(tmp_path / "a/b/c")
        open_to_append(tmp_path / "a/b/c/log").close()
        assert open_to_others(tmp_path / "a") == []
        with owner_only():
            (tmp_path / "a/b/x").touch()
        assert stat.S_IMODE((tmp_path / "a/b/x").stat().st_mode) == 0o600
        assert os.umask(0) == 0
    finally:
        os.umask(before)


def test_every_setting_belongs_to_the_committer_or_to_web() -> None:
    """Add a new setting to one of the two; otherwise no process of `muster up` gets it."""
    fields = {f"MUSTER_{name.upper()}" for name in Settings.model_fields}
    assert fields <= COMMITTER | WEB_ONLY
    assert not COMMITTER & WEB_ONLY


def test_each_process_gets_only_its_settings(tmp_path: Path) -> None:
    everything = {**settings_of(tmp_path), "MUSTER_OPERATORS": "open", "MUSTER_TOKEN": "t", "PATH": "/bin"}
    by_role = {role: environment_for(role, everything) for role in ("web", "committer", "pump")}
    assert set(by_role["web"]) == set(everything) - {"MUSTER_TOKEN"}
    assert set(by_role["committer"]) == {
        "MUSTER_STATE",
        "MUSTER_BLOBS",
        "MUSTER_QUEUE",
        "MUSTER_ROUND_CACHE_SECONDS",
        "PATH",
    }
    assert set(by_role["pump"]) == {"PATH"}
