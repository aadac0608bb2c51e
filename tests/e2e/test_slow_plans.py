"""Real processes with an endless plan: rounds of other tasks commit, and its task pauses."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests
from support.endless import endless

from muster.local.coordinator import LocalCoordinator
from muster.wire.messages import CheckinRequest, CheckinResponse, Phase, TaskPolicy, TaskSpec, TaskStatus, TaskView
from muster.wire.plan import Plan
from muster.wire.tensors import encode

PLAN = Plan.load(Path(__file__).resolve().parents[1] / "data" / "client_ids_sum.plan")
HEALTHY = [f"healthy-{number:02d}" for number in range(20)]
TIMEOUT = 300.0  # seconds
POLL_INTERVAL = 0.002  # seconds


class Operator:
    """Operator and clients of several tasks."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = requests.Session()
        self._session.trust_env = False

    def call(self, method: str, path: str, *, token: str | None = None, data: bytes = b"") -> bytes:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        response = self._session.request(method, self._url + path, data=data, headers=headers, timeout=60)
        response.raise_for_status()
        return response.content

    def create(self, task: str, plan: Plan, **policy: Any) -> None:
        self.call("PUT", f"/v1/plans/{plan.sha256}", data=plan.encode())
        task_policy = TaskPolicy(goal=2, minimum=2, round_seconds=3000, **policy)
        spec = TaskSpec(name=task, population=task, plan=plan.sha256, policy=task_policy)
        self.call("POST", "/v1/tasks", data=spec.encode())

    def task(self, task: str) -> TaskView:
        return TaskView.decode(self.call("GET", f"/v1/tasks/{task}"))

    def until(self, reached: Callable[[], bool], describe: Callable[[], object]) -> None:
        """Polls until `reached` is true. A failure shows the result of `describe`."""
        deadline = time.monotonic() + TIMEOUT
        while not reached():
            assert time.monotonic() < deadline, describe()
            time.sleep(POLL_INTERVAL)

    def contribute(self, task: str) -> None:
        for client in ("a", "b"):
            request = CheckinRequest(client=client).encode()
            answer = CheckinResponse.decode(self.call("POST", f"/v1/populations/{task}:checkin", data=request)).answer
            assert answer.status == "assigned", answer
            update = encode({"0": np.int64(1), "1": np.int64(1)})
            self.call("PUT", "/v1/updates", token=answer.token, data=update)

    def round_seconds(self, task: str) -> float:
        """Runs a round of the task. Returns the seconds from the last update to the commit."""
        before = self.task(task).checkpoint
        self.contribute(task)
        start = time.monotonic()
        self.until(lambda: self.task(task).checkpoint > before, lambda: self.task(task))
        return time.monotonic() - start

    def rounds(self) -> list[float]:
        return [self.round_seconds(task) for task in HEALTHY]


def test_endless_update_delays_no_other_task_and_pauses_its_own(tmp_path, measured):
    with LocalCoordinator(tmp_path) as coordinator:
        operator = Operator(coordinator.url)
        for task in HEALTHY:
            operator.create(task, PLAN, rounds=4)
        operator.until(
            lambda: all(operator.task(task).status is TaskStatus.ACTIVE for task in HEALTHY),
            lambda: [operator.task(task) for task in HEALTHY],
        )
        operator.rounds()  # the first rounds load the graphs
        started = time.monotonic()
        before = operator.rounds()
        # The healthy rounds must fit into the limit, also on a busy machine.
        limit = 20.0 + 5 * (time.monotonic() - started)
        operator.create("endless", endless(PLAN, "update"), rounds=1, graph_seconds=limit)
        operator.until(lambda: operator.task("endless").status is TaskStatus.ACTIVE, lambda: operator.task("endless"))
        operator.contribute("endless")
        operator.until(
            lambda: operator.task("endless").current.phase is Phase.AGGREGATING, lambda: operator.task("endless")
        )
        began = time.monotonic()
        during = operator.rounds()
        endless_task = operator.task("endless")
        # Every healthy round was committed while the endless update ran.
        assert (endless_task.status, endless_task.current.phase) == (TaskStatus.ACTIVE, Phase.AGGREGATING)
        operator.until(lambda: operator.task("endless").status is TaskStatus.PAUSED, lambda: operator.task("endless"))
        paused = time.monotonic() - began
        note = operator.task("endless").note
        assert note.startswith("Round 1 can't be committed: The plan's update ran for more than")
        after = operator.rounds()
    before_ms, during_ms, after_ms = (1000 * statistics.median(times) for times in (before, during, after))
    measured(
        f"20 healthy tasks: a round's end took {before_ms:.0f} ms before, {during_ms:.0f} ms during "
        f"({during_ms / before_ms:.2f} times) and {after_ms:.0f} ms after an endless update (medians; at most "
        f"{1000 * max(during):.0f} ms during it); the endless update had a limit of {limit:.0f} s, and its task was "
        f"paused {paused:.0f} s after its round had closed"
    )


def test_endless_openings_delay_no_other_task(tmp_path):
    with LocalCoordinator(tmp_path) as coordinator:
        operator = Operator(coordinator.url)
        plan = endless(PLAN, "prepare")
        for number in range(12):
            named = plan.manifest.model_copy(update={"name": f"endless {number}"})
            operator.create(f"endless-{number}", Plan(named, plan.parts), rounds=1, graph_seconds=3000)
        for task in HEALTHY[:3]:
            operator.create(task, PLAN, rounds=2)
            operator.until(
                lambda task=task: operator.task(task).status is TaskStatus.ACTIVE, lambda task=task: operator.task(task)
            )
            operator.round_seconds(task)
        assert all(operator.task(f"endless-{number}").status is TaskStatus.OPENING for number in range(12))


def committer_workers() -> set[int]:
    """Returns the ids of the committer's worker processes under this process."""
    committers: dict[int, int] = {}  # the id of the parent, by process
    for child in psutil.Process().children(recursive=True):
        # A process that has just ended is a zombie until its parent reads its exit code.
        with contextlib.suppress(psutil.NoSuchProcess):
            if "committer" in child.cmdline():
                committers[child.pid] = child.ppid()
    return committers.keys() - set(committers.values())
