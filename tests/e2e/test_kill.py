"""Real processes, killed at random moments over many rounds: every accepted update is counted once, and none twice."""

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
from support.stubborn import StubbornClients

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
LONGEST = 270.0  # seconds; what takes longer hangs
MINIMUM = 3
# What is killed in which round; the committer, which loads TensorFlow anew, is not killed too often for a test's time.
KILLS = ["worker", "pump", "worker", "committer", "web", "worker", "pump", "all", "worker", "pump", "web"]


class Killer:
    """Kills what the plan of kills says, at a random moment of each round."""

    def __init__(self, coordinator: LocalCoordinator) -> None:
        self._coordinator = coordinator
        self._chance = random.Random(SEED)  # noqa: S311  fixed on purpose
        self._kinds = itertools.cycle(KILLS)
        self._pause = threading.Event()
        self.killed: list[str] = []

    def strike(self) -> None:
        self._pause.wait(self._chance.uniform(0.0, 0.4))
        kind = next(self._kinds)
        pids = self._coordinator.pids
        if kind == "all":
            self._coordinator.kill()
            self._coordinator.start()
        elif kind == "worker":
            workers = _children(pids["web"])
            if not workers:
                return
            _kill(self._chance.choice(workers))
        elif kind == "committer":
            for pid in [pids[kind], *_children(pids[kind])]:
                _kill(pid)
        else:
            _kill(pids[kind])
        self.killed.append(kind)


def _children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
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


def play(coordinator: LocalCoordinator, each_round: Callable[[], None]) -> None:
    """Waits for the task's end, and calls `each_round` once in every round."""
    seen, pause, deadline = 0, threading.Event(), time.monotonic() + LONGEST
    while time.monotonic() < deadline:
        try:
            answer = direct.get(f"{coordinator.url}/v1/tasks/sums", timeout=60)
        except requests.RequestException:
            answer = None
        if answer is not None and answer.ok:
            task = TaskView.decode(answer.content)
            if task.status is TaskStatus.COMPLETED:
                return
            if task.current is not None and task.current.round > seen:
                seen = task.current.round
                each_round()
        pause.wait(0.03)
    raise AssertionError(f"round {seen} was not over after {LONGEST} seconds")


def test_no_update_is_lost_or_counted_twice_when_processes_are_killed(tmp_path):
    with LocalCoordinator(tmp_path / "a folder", workers=2, threads=8, tick_seconds=0.5) as coordinator:
        begin(coordinator.url)
        killer = Killer(coordinator)
        clients = StubbornClients(
            CLIENTS,
            population="phones",
            address=lambda _: coordinator.url,
            update=lambda client: encode({"0": np.int64(1 << client), "1": np.int64(1)}),
            pause=0.1,
            longest=0.5,
        )
        with clients:
            play(coordinator, killer.strike)
    assert set(killer.killed) == set(KILLS)
    assert clients.unexpected == []

    folder, clock = tmp_path / "a folder", SystemClock()
    queue = LocalQueue(folder / "queue.db", clock=clock)
    documents = SqliteDocuments(folder / "state.db")
    platform = Platform(documents, DirectoryBlobs(folder / "blobs"), queue, clock, SystemRandomness())
    rounds = [found.value for found in platform.rounds.list(names.rounds_path("sums"))]
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
