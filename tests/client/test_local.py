"""The supervisor of `muster up`, with real processes and without TensorFlow's part in them."""

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
from muster.local.held_port import LOOPBACK
from muster.local.process import Died
from muster.wire.messages import TaskPolicy, TaskSpec

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gunicorn does not run there")


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def soon(true: Callable[[], bool], seconds: float = 120.0) -> bool:
    pause = threading.Event()
    return any(true() or pause.wait(0.05) for _ in range(int(seconds / 0.05)))


def answers(url: str) -> bool:
    try:
        return direct.get(url, timeout=60).ok
    except requests.RequestException:
        return False


def test_serves_restarts_what_dies_and_leaves_nothing_behind(tmp_path: Path) -> None:
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
        assert soon(lambda: coordinator.pids["web"] != first["web"] and answers(f"{url}/healthz"))
        assert [(each.name, each.code) for each in died] == [("web", -signal.SIGKILL)]
        last = coordinator.pids
    assert all(gone(pid) for pid in (*first.values(), *last.values()))
    assert stat.S_IMODE((folder / "secret").stat().st_mode) == 0o600
    coordinator.stop()


def test_goes_on_with_the_same_secret_after_a_kill(tmp_path: Path) -> None:
    coordinator = LocalCoordinator(tmp_path, workers=1, warm=False).start()
    pids, secret = coordinator.pids, (tmp_path / "secret").read_text()
    coordinator.kill()
    assert all(gone(pid) for pid in pids.values())
    with coordinator:
        assert answers(f"{coordinator.url}/healthz")
    assert (tmp_path / "secret").read_text() == secret


@contextlib.contextmanager
def supervisor_that_tells(what: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A process that runs a coordinator until it is killed, and the words that `what`, an expression, gives of it."""
    script = (
        "import sys, threading\n"
        "from muster.local.coordinator import LocalCoordinator\n"
        "coordinator = LocalCoordinator(sys.argv[1], workers=1, warm=False).start()\n"
        f"print({what}, flush=True)\n"
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
    with supervisor_that_tells("*muster_coordinator.pids.values()", tmp_path) as (supervisor, words):
        pids = [int(pid) for pid in words]
        assert len(pids) == 3
        supervisor.kill()
    assert soon(lambda: all(gone(pid) for pid in pids))


def test_a_restart_right_after_the_supervisor_was_killed_waits_for_the_port(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with supervisor_that_tells("coordinator.url", tmp_path) as (supervisor, (url,)):
        port = int(url.rpartition(":")[2])
        # A request that never ends keeps the worker for as long as it waits for any.
        with socket.create_connection((LOOPBACK, port)) as slow:
            slow.sendall(b"PUT /v1/updates HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\nContent-Length: 1")
            supervisor.kill()
            with LocalCoordinator(tmp_path, port=port, workers=1, warm=False) as coordinator:
                assert answers(f"{coordinator.url}/healthz")
    assert f"{LOOPBACK}:{port} is taken" in caplog.text


class Everything(BaseHTTPRequestHandler):
    """Answers to anything that all is well."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="two sockets have one port there alone")
def test_does_not_take_another_that_answers_at_its_port_for_itself(tmp_path: Path) -> None:
    """As of two starts at once: both hold the port, and one listens first."""
    other = ThreadingHTTPServer((LOOPBACK, 0), Everything, bind_and_activate=False)
    other.allow_reuse_address = True
    other.server_bind()

    def listen() -> None:
        assert soon((tmp_path / "logs" / "web.log").exists)  # the start has looked at the port, and web has not yet
        other.server_activate()
        other.serve_forever(poll_interval=0.05)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(listen)
        try:
            with (
                pytest.raises(StartError, match=r"(?s)web ended with code 1.*Connection in use"),
                LocalCoordinator(tmp_path, port=other.server_port, workers=1, warm=False),
            ):
                pass
        finally:
            other.shutdown()
            other.server_close()


def test_a_start_that_fails_shows_why_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "functions_framework.py").write_text("raise RuntimeError('no framework here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(
        "muster.local.coordinator.functions_folder", lambda: tmp_path
    )  # puts the folder first on the path
    with pytest.raises(StartError, match=r"(?s)ended with code.*no framework here"):
        LocalCoordinator(tmp_path / "data").start()


def test_emulators_outlive_a_kill_of_the_coordinator_and_end_with_it(tmp_path: Path) -> None:
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


def test_says_all_that_is_missing_for_emulators_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "google.cloud.firestore", None)
    coordinator = LocalCoordinator(tmp_path, emulators=True)
    with pytest.raises(MissingEmulatorError, match=r"(?s)cloud.google.com/sdk.*pip install 'muster-fl\[cloud\]'"):
        coordinator.start()
    assert coordinator.pids == coordinator.emulated == {}
