"""Real processes, killed at random moments over many rounds: every accepted update is counted once, and none twice."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Self

import jwt
import numpy as np
import pytest
import requests

from coordinator.adapters.directory import DirectoryBlobs
from coordinator.adapters.local_queue import LocalQueue
from coordinator.adapters.sqlite import SqliteDocuments
from coordinator.adapters.system import SystemChance, SystemClock
from coordinator.domain import names
from coordinator.domain.names import RoundKey
from coordinator.domain.rounds import Abandoned, Committed
from coordinator.use_cases.records import Platform
from muster.local import LocalCoordinator
from muster.wire.messages import (
    Assignment,
    CheckinRequest,
    CheckinResponse,
    Receipt,
    TaskPolicy,
    TaskSpec,
    TaskStatus,
    TaskView,
)
from muster.wire.plan import Plan
from muster.wire.tensors import decode, encode

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds worker processes in /proc")
PLAN = Plan.load(Path(__file__).resolve().parents[1] / "data" / "client_ids_sum.plan")
CLIENTS, ROUNDS, SEED = 8, 22, 20260101
LONGEST = 150.0  # seconds; what takes longer hangs
MINIMUM = 3
# What is killed in which round; the committer, which loads TensorFlow anew, is not killed too often for a test's time.
KILLS = ["worker", "pump", "worker", "committer", "web", "worker", "pump", "all", "worker", "pump", "web"]


class Clients:
    """Clients as threads that speak the protocol, and what they know: whose update was sent, and when it was accepted."""

    def __init__(self, coordinator: LocalCoordinator) -> None:
        self._coordinator = coordinator
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._live, args=(client,)) for client in range(CLIENTS)]
        self.sent: dict[RoundKey, set[int]] = defaultdict(set)
        self.accepted: dict[RoundKey, dict[int, float]] = defaultdict(dict)
        self.unexpected: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _live(self, client: int) -> None:
        with requests.Session() as session:
            session.trust_env = False
            while not self._stop.is_set():
                self._stop.wait(self._once(session, client))

    def _once(self, session: requests.Session, client: int) -> float:
        """One check-in, and its update if it brings work; seconds to the next."""
        body = CheckinRequest(client=f"client-{client}").encode()
        answer = self._ask(session, "POST", "/v1/populations/phones:checkin", data=body)
        if answer is None or not answer.ok:
            return 0.1
        found = CheckinResponse.decode(answer.content).answer
        if not isinstance(found, Assignment):
            return min(found.retry_after, 0.5)
        claims = jwt.decode(found.token, options={"verify_signature": False})
        key = RoundKey(claims["task"], claims["round"], claims["epoch"])
        with self._lock:
            self.sent[key].add(client)
        update = encode({"0": np.int64(1 << client), "1": np.int64(1)})
        headers = {"Authorization": f"Bearer {found.token}"}
        for _ in range(50):
            answer = self._ask(session, "PUT", "/v1/updates", data=update, headers=headers)
            if answer is not None and answer.ok:
                receipt = Receipt.decode(answer.content)
                with self._lock:
                    self.accepted[key].setdefault(client, time.time())
                return min(receipt.retry_after, 0.5)
            if answer is not None and answer.status_code < 500:
                return 0.05  # the round has closed, or the assignment has run out
            if self._stop.wait(0.1):
                break
        return 0.1

    def _ask(self, session: requests.Session, method: str, path: str, **more: object) -> requests.Response | None:
        try:
            answer = session.request(method, self._coordinator.url + path, timeout=10, **more)
        except requests.RequestException:
            return None
        if answer.status_code == 500:
            self.unexpected.append(answer.text)
        return answer


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
    requests.put(f"{url}/v1/plans/{PLAN.sha256}", data=PLAN.encode(), timeout=20).raise_for_status()
    requests.post(f"{url}/v1/tasks", data=spec.encode(), timeout=20).raise_for_status()


def play(coordinator: LocalCoordinator, each_round: Callable[[], None]) -> None:
    """Waits for the task's end, and calls `each_round` once in every round."""
    seen, pause, deadline = 0, threading.Event(), time.monotonic() + LONGEST
    while time.monotonic() < deadline:
        try:
            answer = requests.get(f"{coordinator.url}/v1/tasks/sums", timeout=10)
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
        with Clients(coordinator) as clients:
            play(coordinator, killer.strike)
    assert set(killer.killed) == set(KILLS)
    assert clients.unexpected == []

    folder, clock = tmp_path / "a folder", SystemClock()
    queue = LocalQueue(folder / "queue.db", clock=clock)
    documents = SqliteDocuments(folder / "state.db")
    platform = Platform(documents, DirectoryBlobs(folder / "blobs"), queue, clock, SystemChance())
    rounds = [found.value for found in platform.rounds.list(names.rounds_path("sums"))]
    assert all(isinstance(round_, Committed | Abandoned) for round_ in rounds)
    committed = [round_ for round_ in rounds if isinstance(round_, Committed)]
    assert [round_.key.number for round_ in committed] == list(range(1, ROUNDS + 1))
    sums = []
    for round_ in committed:
        result = decode(platform.blobs.read(round_.result.name))
        total, count = int(result["total"]), int(result["count"])
        counted = {client for client in range(62) if total >> client & 1}
        assert len(counted) == count == round_.tally.folded >= MINIMUM, (round_.key, total, count)
        # A receipt that came before the round closed promises that the update counts; one without an answer may count too.
        promised = {who for who, at in clients.accepted[round_.key].items() if at < round_.closed_at}
        assert promised <= counted <= clients.sent[round_.key], round_.key
        sums.append((total, count))
    state = decode(platform.blobs.read(committed[-1].checkpoint.blob.name))
    assert int(state["total"]) == sum(total for total, _ in sums)
    assert int(state["count"]) == sum(count for _, count in sums)
    queue.close()
    documents.close()
