"""Supervisor of `muster up`, with real processes but without TensorFlow."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from support import cloud, direct
from support.plans import sum_plan

from muster.local.coordinator import LocalCoordinator, StartError
from muster.local.emulators import FirestoreEmulator, MissingEmulatorError, StorageEmulator
from muster.local.listening import LOOPBACK
from muster.local.process import Died
from muster.wire.messages import TaskPolicy, TaskSpec

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gunicorn does not run there")


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def eventually(condition: Callable[[], bool], seconds: float = 120.0) -> bool:
    pause = threading.Event()
    return any(condition() or pause.wait(0.05) for _ in range(int(seconds / 0.05)))


def answers(url: str) -> bool:
    try:
        return direct.get(url, timeout=60).ok
    except requests.RequestException:
        return False


def test_dead_process_is_restarted_and_stop_leaves_none(tmp_path: Path) -> None:
    died: list[Died] = []
    folder = tmp_path / "with a space"
    with LocalCoordinator(folder, workers=1, warm=False, on_died=died.append) as coordinator:
        url, first = coordinator.url, coordinator.pids
        assert answers(f"{url}/healthz")
        assert direct.get(f"{url}/v1/tasks", timeout=60).json()["tasks"] == []
        refused = direct.post(f"{url}/internal/tick", timeout=60)
        assert (refused.status_code, refused.headers["Content-Type"]) == (404, "application/problem+json")
        with pytest.raises(StartError, match="choose another"):
            LocalCoordinator(tmp_path / "other", port=int(url.rpartition(":")[2])).start()
        os.killpg(first["web"], signal.SIGKILL)
        assert eventually(lambda: coordinator.pids["web"] != first["web"] and answers(f"{url}/healthz"))
        assert [(death.name, death.code) for death in died] == [("web", -signal.SIGKILL)]
        last = coordinator.pids
    assert all(gone(pid) for pid in (*first.values(), *last.values()))
    assert stat.S_IMODE((folder / "secret").stat().st_mode) == 0o600
    coordinator.stop()


def test_requests_wait_in_the_backlog_during_a_restart(tmp_path: Path) -> None:
    with LocalCoordinator(tmp_path, workers=1, warm=False) as coordinator:
        os.killpg(coordinator.pids["web"], signal.SIGKILL)
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(answers, [f"{coordinator.url}/healthz"] * 8))


def test_restart_after_a_kill_uses_the_same_secret_and_port(tmp_path: Path) -> None:
    coordinator = LocalCoordinator(tmp_path, workers=1, warm=False).start()
    url, pids, secret = coordinator.url, coordinator.pids, (tmp_path / "secret").read_text()
    coordinator.kill()
    assert all(gone(pid) for pid in pids.values())
    with coordinator:
        assert coordinator.url == url
        assert answers(f"{coordinator.url}/healthz")
    assert (tmp_path / "secret").read_text() == secret


@contextlib.contextmanager
def supervisor_process(expression: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Runs a coordinator in a process. Yields the process and the output of `expression`."""
    script = (
        "import sys, threading\n"
        "from muster.local.coordinator import LocalCoordinator\n"
        "coordinator = LocalCoordinator(sys.argv[1], workers=1, warm=False).start()\n"
        f"print({expression}, flush=True)\n"
        "threading.Event().wait()\n"
    )
    command = [sys.executable, "-c", script, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as supervisor:  # noqa: S603
        assert supervisor.stdout is not None
        try:
            yield supervisor, supervisor.stdout.readline().split()
        finally:
            supervisor.kill()


def test_processes_end_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    with supervisor_process("*coordinator.pids.values()", tmp_path) as (supervisor, words):
        pids = [int(pid) for pid in words]
        assert len(pids) == 3
        supervisor.kill()
    assert eventually(lambda: all(gone(pid) for pid in pids))


def test_restart_after_a_killed_supervisor_waits_for_the_port(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with supervisor_process("coordinator.url", tmp_path) as (supervisor, (url,)):
        port = int(url.rpartition(":")[2])
        # An unfinished request delays the end of the worker.
        with socket.create_connection((LOOPBACK, port)) as slow:
            slow.sendall(b"PUT /v1/updates HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\nContent-Length: 1")
            supervisor.kill()
            with LocalCoordinator(tmp_path, port=port, workers=1, warm=False) as coordinator:
                assert answers(f"{coordinator.url}/healthz")
    assert f"{LOOPBACK}:{port} is taken" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere two sockets can't be bound to one port")
def test_start_does_not_mistake_another_server_at_its_port_for_itself(tmp_path: Path) -> None:
    """Another server is bound before the start and tries to listen after it."""
    other = ThreadingHTTPServer((LOOPBACK, 0), BaseHTTPRequestHandler, bind_and_activate=False)
    other.allow_reuse_address = True
    other.server_bind()
    with (
        contextlib.closing(other.socket),
        LocalCoordinator(tmp_path, port=other.server_port, workers=1, warm=False) as coordinator,
    ):
        with pytest.raises(OSError, match="in use"):
            other.server_activate()
        assert direct.get(f"{coordinator.url}/v1/tasks", timeout=60).json()["tasks"] == []


def test_failed_start_shows_the_log_and_leaves_no_process(tmp_path: Path) -> None:
    coordinator = LocalCoordinator(tmp_path / "data", threads=-1, warm=False)
    with pytest.raises(StartError, match=r"(?s)web ended with code 1.*must be positive"):
        coordinator.start()
    assert coordinator.pids == {}


def test_emulators_survive_a_kill_of_the_coordinator_but_not_a_stop(tmp_path: Path) -> None:
    cloud.check_installed(FirestoreEmulator(tmp_path), StorageEmulator(tmp_path))
    plan = sum_plan()
    spec = TaskSpec(name="kept", population="phones", plan=plan.sha256, policy=TaskPolicy())
    with LocalCoordinator(tmp_path, workers=1, warm=False, emulators=True) as coordinator:
        url, emulated = coordinator.url, coordinator.emulated
        assert set(emulated) == {"firestore", "storage"}
        direct.put(f"{url}/v1/plans/{plan.sha256}", data=plan.encode(), timeout=60).raise_for_status()
        direct.post(f"{url}/v1/tasks", data=spec.encode(), timeout=60).raise_for_status()
        coordinator.kill()
        assert not answers(f"{url}/healthz")
        assert coordinator.emulated == emulated
        coordinator.start()
        assert direct.get(f"{url}/v1/tasks", timeout=60).json()["tasks"][0]["spec"]["name"] == "kept"
    assert coordinator.emulated == {}
    assert not answers(f"http://{emulated['firestore']}/")
    assert not answers(f"http://{emulated['storage']}/_internal/healthcheck")
    assert not (tmp_path / "state.db").exists()


def test_error_lists_all_missing_dependencies_of_emulators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "google.cloud.firestore", None)
    coordinator = LocalCoordinator(tmp_path, emulators=True)
    with pytest.raises(MissingEmulatorError, match=r"(?s)cloud.google.com/sdk.*pip install 'muster-fl\[cloud\]'"):
        coordinator.start()
    assert coordinator.pids == coordinator.emulated == {}
