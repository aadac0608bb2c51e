"""Real processes, killed at random moments: every accepted update is counted exactly once."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import requests
from support import direct
from support.persistent_clients import PersistentClients

from muster.local.coordinator import LocalCoordinator
from muster.wire.messages import (
    TaskPolicy,
    TaskSpec,
    TaskStatus,
    TaskView,
)
from muster.wire.plan import Plan
from muster.wire.tensors import decode, encode
from muster_coordinator.adapters.directory import DirectoryBlobs
from muster_coordinator.adapters.local_queue import LocalQueue
from muster_coordinator.adapters.sqlite import SqliteDocuments
from muster_coordinator.adapters.system import SystemClock, SystemRandomness
from muster_coordinator.domain import names
from muster_coordinator.domain.rounds import Abandoned, Committed
from muster_coordinator.state.platform import Platform

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds worker processes in /proc")
PLAN = Plan.load(Path(__file__).resolve().parents[1] / "data" / "client_ids_sum.plan")
CLIENTS, ROUNDS, SEED = 8, 22, 20260101
TIMEOUT = 270.0  # seconds
MINIMUM = 3
# The process to kill in each round. The committer is killed rarely, since it loads TensorFlow at
# each start.
KILLS = ["worker", "pump", "worker", "committer", "web", "worker", "pump", "all", "worker", "pump", "web"]


class Killer:
    """Killer of one process per round, at a random moment."""

    def __init__(self, coordinator: LocalCoordinator) -> None:
        self._coordinator = coordinator
        self._randomness = random.Random(SEED)  # noqa: S311  fixed on purpose
        self._kinds = itertools.cycle(KILLS)
        self._pause = threading.Event()
        self.killed: list[str] = []

    def kill_next(self) -> None:
        self._pause.wait(self._randomness.uniform(0.0, 0.4))
        kind = next(self._kinds)
        pids = self._coordinator.pids
        if kind == "all":
            self._coordinator.kill()
            self._coordinator.start()
        elif kind == "worker":
            workers = _children(pids["web"])
            if not workers:
                return
            _kill(self._randomness.choice(workers))
        elif kind == "committer":
            for pid in [pids[kind], *_children(pids[kind])]:
                _kill(pid)
        else:
            _kill(pids[kind])
        self.killed.append(kind)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def begin(url: str) -> None:
    policy = TaskPolicy(
        rounds=ROUNDS,
        goal=5,
        minimum=MINIMUM,
        over_selection=3.0,
        chunk=2,
        shards=2,
        round_seconds=6,
        assignment_seconds=2,
    )
    spec = TaskSpec(name="sums", population="phones", plan=PLAN.sha256, policy=policy)
    direct.put(f"{url}/v1/plans/{PLAN.sha256}", data=PLAN.encode(), timeout=60).raise_for_status()
    direct.post(f"{url}/v1/tasks", data=spec.encode(), timeout=60).raise_for_status()


def wait_for_end(coordinator: LocalCoordinator, on_round: Callable[[], None]) -> None:
    """Waits for the task's end, and calls `on_round` once in every round."""
    latest, pause, deadline = 0, threading.Event(), time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        try:
            response = direct.get(f"{coordinator.url}/v1/tasks/sums", timeout=60)
        except requests.RequestException:
            response = None
        if response is not None and response.ok:
            task = TaskView.decode(response.content)
            if task.status is TaskStatus.COMPLETED:
                return
            if task.current is not None and task.current.round > latest:
                latest = task.current.round
                on_round()
        pause.wait(0.03)
    raise AssertionError(f"round {latest} has not ended after {TIMEOUT} seconds")


def test_killed_processes_lose_no_update_and_count_none_twice(tmp_path):
    with LocalCoordinator(tmp_path / "a folder", workers=2, threads=8, tick_seconds=0.5) as coordinator:
        begin(coordinator.url)
        killer = Killer(coordinator)
        clients = PersistentClients(
            CLIENTS,
            population="phones",
            address=lambda _: coordinator.url,
            update=lambda client: encode({"0": np.int64(1 << client), "1": np.int64(1)}),
            pause=0.1,
            longest=0.5,
        )
        with clients:
            wait_for_end(coordinator, killer.kill_next)
    assert set(killer.killed) == set(KILLS)
    assert clients.unexpected == []

    folder, clock = tmp_path / "a folder", SystemClock()
    queue = LocalQueue(folder / "queue.db", clock=clock)
    documents = SqliteDocuments(folder / "state.db")
    platform = Platform(documents, DirectoryBlobs(folder / "blobs"), queue, clock, SystemRandomness())
    rounds = [record.value for record in platform.rounds.list(names.rounds_path("sums"))]
    assert all(isinstance(round_, Committed | Abandoned) for round_ in rounds)
    committed = [round_ for round_ in rounds if isinstance(round_, Committed)]
    assert [round_.key.number for round_ in committed] == list(range(1, ROUNDS + 1))
    sums = []
    for round_ in committed:
        result = decode(platform.blobs.read(round_.result.name))
        total, count = int(result["total"]), int(result["count"])
        clients.check(round_, total, count, minimum=MINIMUM)
        sums.append((total, count))
    state = decode(platform.blobs.read(committed[-1].checkpoint.blob.name))
    assert int(state["total"]) == sum(total for total, _ in sums)
    assert int(state["count"]) == sum(count for _, count in sums)
    queue.close()
    documents.close()
