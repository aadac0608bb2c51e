"""Rounds on emulated Firestore and Cloud Storage: the same bytes as on embedded stores."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client as StorageClient
from support import cloud
from support.harness import POPULATION, SECRET, Harness
from support.plans import Updated, make_plan
from werkzeug.test import Client, TestResponse
from werkzeug.wrappers import Request

from muster.wire.dtypes import DType
from muster.wire.manifest import TensorSpec
from muster.wire.messages import CheckinRequest, CheckinResponse, TaskPolicy, TaskSpec, TaskStatus, TaskView
from muster.wire.plan import Plan
from muster.wire.tensors import encode
from muster_coordinator.adapters.local_queue import Delivery, LocalQueue, Pump
from muster_coordinator.adapters.system import SystemClock, SystemRandomness
from muster_coordinator.application import CoordinatorConfig, assemble
from muster_coordinator.domain import names
from muster_coordinator.http import router
from muster_coordinator.ports import Blobs, Documents
from muster_coordinator.state.platform import Platform

pytestmark = cloud.EMULATORS
SIZE = 1000  # numbers in an update
ROUNDS, GOAL, CLIENTS = 3, 40, 60
TIMEOUT = 240.0  # seconds
SOON = 60.0  # seconds; work that is due later belongs to rounds that have ended


class MeanRuntime:
    """Runtime that adds the round's sum of floats to the state.

    Another order of the merge changes the bits.
    """

    def prepare(self, state: Any, **_: Any) -> Any:
        return {"w": np.array(state["w"])}

    def report(self, accumulator: Any, **_: Any) -> Any:
        return {"w": np.array(accumulator["w"])}

    def update(self, state: Any, aggregate: Any, clear_sums: Any = None, **_: Any) -> Updated:
        assert not clear_sums
        return Updated(state={"w": state["w"] + aggregate["w"]}, result=dict(aggregate))


def float_plan():
    zero = {"w": np.zeros(SIZE, np.float32)}
    update = (TensorSpec(path="w", dtype=DType.FLOAT32, shape=(SIZE,)),)
    return make_plan("floats", state=zero, update=update, zero=zero)


def test_checkpoints_have_the_same_bytes_on_all_stores(tmp_path, firestore_emulator, storage_emulator):
    plan = float_plan()

    def checkpoints(h: Harness) -> list[bytes]:
        randomness = np.random.default_rng(7)
        h.begin(rounds=3, goal=11, chunk=3, shards=2)
        for number in (1, 2, 3):
            for client in range(11):
                update = randomness.standard_normal(SIZE) * 10.0 ** randomness.integers(-6, 6, SIZE)
                h.upload(h.assigned(f"{number}-{client}").token, {"w": update.astype(np.float32)})
                h.deliver_all()
        assert h.task().status is TaskStatus.COMPLETED
        h.settle()
        assert h.leftovers() == []
        return [h.checkpoint(version) for version in range(4)]

    embedded = checkpoints(Harness(tmp_path / "embedded", plan=plan, runtime=MeanRuntime(), durable=True))
    with cloud.firestore(firestore_emulator.address) as documents, cloud.gcs(storage_emulator) as blobs:
        h = Harness(tmp_path / "cloud", plan=plan, runtime=MeanRuntime(), documents=documents, blobs=blobs)
        emulated = checkpoints(h)
    assert embedded == emulated
    assert len(set(embedded)) == 4


class WatchedBlobs:
    """`Blobs` that record the time at which each update was deleted."""

    def __init__(self, inner: Blobs) -> None:
        self._inner = inner
        self.deleted: dict[str, float] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def delete(self, blobs: Iterable[str]) -> None:
        deleted = list(blobs)
        self._inner.delete(deleted)
        now = time.monotonic()
        for name in deleted:
            if name.startswith(names.UPDATES):
                self.deleted.setdefault(name, now)


class Deployment:
    """Deployment in one process over emulators, with a pump that delivers, and client threads.

    Attributes:
      accepted: The time at which each update was accepted, by its blob's name.
    """

    def __init__(self, documents: Documents, blobs: Blobs) -> None:
        self._clock = SystemClock()
        self._queue = LocalQueue.in_memory(clock=self._clock)
        platform = Platform(documents, blobs, self._queue, self._clock, SystemRandomness())
        config = CoordinatorConfig(
            secret=SECRET, runtime=lambda _: MeanRuntime(), round_cache_seconds=0.2, retry_floor=0.05
        )
        self.app = assemble(platform, config)
        self._serve = Request.application(router(self.app))
        self._stop = threading.Event()
        self.accepted: dict[str, float] = {}

    def ask(self, method: str, path: str, **options: Any) -> TestResponse:
        return Client(self._serve).open(path, method=method, **options)

    def run(self, plan: Plan, policy: TaskPolicy, *, clients: int) -> None:
        """Runs a task to its end, and until all due work is done."""
        self.ask("PUT", f"/v1/plans/{plan.sha256}", data=plan.encode())
        spec = TaskSpec(name="floats", population=POPULATION, plan=plan.sha256, policy=policy)
        assert self.ask("POST", "/v1/tasks", data=spec.encode()).status_code < 300
        pump = Pump(self._queue, self._deliver, randomness=SystemRandomness())
        deadline, pause = time.monotonic() + TIMEOUT, threading.Event()
        with ThreadPoolExecutor(clients + 1) as pool:
            pumping = pool.submit(pump.run, self._stop)
            running = [pool.submit(self._run_client, client) for client in range(clients)]
            try:
                while TaskView.decode(self.ask("GET", "/v1/tasks/floats").data).status is not TaskStatus.COMPLETED:
                    assert time.monotonic() < deadline
                    pause.wait(0.05)
                while (due := self._queue.next_due()) is not None and due < self._clock.now() + SOON:
                    assert time.monotonic() < deadline
                    pause.wait(0.02)
            finally:
                self._stop.set()
            for future in (*running, pumping):
                future.result()
        self.app.maintenance.tick()  # deletes updates that were late for the last round

    def _deliver(self, delivery: Delivery) -> bool:
        work = delivery.work
        return self.ask("POST", f"/internal/{work.kind}", json=dict(work.payload)).status_code < 300

    def _run_client(self, client: int) -> None:
        update = encode({"w": np.full(SIZE, client, np.float32)})
        body = CheckinRequest(client=str(client)).encode()
        while not self._stop.is_set():
            checkin = self.ask("POST", f"/v1/populations/{POPULATION}:checkin", data=body)
            answer = CheckinResponse.decode(checkin.data).answer
            if answer.status == "wait":
                self._stop.wait(min(answer.retry_after, 0.5))
                continue
            headers = {"Authorization": f"Bearer {answer.token}"}
            if self.ask("PUT", "/v1/updates", data=update, headers=headers).status_code == 200:
                claims = self.app.tokens.read_assignment(answer.token, now=self._clock.now())
                name = names.update_name(claims.key, claims.shard, claims.pseudonym)
                self.accepted.setdefault(name, time.monotonic())


def test_no_version_of_an_update_outlives_its_round(firestore_emulator, storage_emulator, measured):
    bucket = "no-update-left"
    storage_emulator.make_bucket(bucket)
    with cloud.firestore(firestore_emulator.address) as documents, cloud.gcs(storage_emulator, bucket=bucket) as inner:
        blobs = WatchedBlobs(inner)
        deployment = Deployment(documents, blobs)
        policy = TaskPolicy(rounds=ROUNDS, goal=GOAL, over_selection=1.5, chunk=8, round_seconds=300)
        deployment.run(float_plan(), policy, clients=CLIENTS)
    accepted, deleted = deployment.accepted, blobs.deleted
    assert len(deleted) >= ROUNDS * GOAL
    assert set(accepted) <= set(deleted)
    with cloud.environment(STORAGE_EMULATOR_HOST=f"http://{storage_emulator.address}"):
        client = StorageClient(project="any", credentials=AnonymousCredentials())
    versions = [blob.name for blob in client.list_blobs(bucket, versions=True)]
    assert versions
    assert not [name for name in versions if name.startswith((names.UPDATES, names.PARTIALS))]
    assert len(set(versions)) == len(versions)  # no blob has a second version
    lifetimes = sorted(max(0.0, deleted[name] - at) for name, at in accepted.items())
    measured(
        f"From accepted to deleted, {len(lifetimes)} updates of {ROUNDS} rounds on the emulators: median "
        f"{statistics.median(lifetimes):.2f} s, 99th percentile {lifetimes[int(0.99 * (len(lifetimes) - 1))]:.2f} s"
    )
