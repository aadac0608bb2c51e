"""Fifty rounds on emulators of Google's services, with several instances and failures.

Instances are killed with SIGKILL, store calls fail before and after they take effect, and
deliveries are repeated and late. A failure is: an accepted update that is not counted exactly once,
a round that neither commits nor is abandoned below its minimum, an unexpected error, or obsolete
data at the end.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest
import requests
from support import cloud
from support.cloud_tasks_double import CloudTasksDouble, Disorder
from support.harness import POPULATION, SECRET, Harness
from support.instances import FrontEnd, Instance
from support.persistent_clients import PersistentClients
from support.plans import sum_update

from muster.local.emulators import FirestoreEmulator, StorageEmulator
from muster.wire.messages import TaskStatus
from muster.wire.tensors import decode, encode
from muster_coordinator.adapters.cloud_tasks import CloudTasksQueue
from muster_coordinator.adapters.system import SeededRandomness, SystemClock, SystemRandomness
from muster_coordinator.domain import names
from muster_coordinator.domain.rounds import Committed

pytestmark = [cloud.EMULATORS, pytest.mark.timeout(900)]
CLIENTS, ROUNDS, MINIMUM, SEED = 30, 50, 5, 20261124
INSTANCES = {"client_api": 3, "aggregator": 2, "committer": 2}
FAILING = 0.02  # fraction of store calls that fail
TIMEOUT = 700.0  # seconds
QUEUE = f"projects/{cloud.PROJECT}/locations/{cloud.LOCATION}/queues/{cloud.QUEUE}"


class Deployment:
    """Deployment with a queue, a tick every second, and a thread that kills instances."""

    def __init__(self, environment: dict[str, str], *, double: CloudTasksDouble, issuer, fronts, logs: Path) -> None:
        self.killed: Counter[str] = Counter()
        self.instances = [
            Instance(function, environment, logs=logs, failing=FAILING)
            for function, number in INSTANCES.items()
            for _ in range(number)
        ]
        for function, front in fronts.items():
            front.ports = [instance.port for instance in self.instances if instance.function == function]
        self._double = double
        self._issuer = issuer
        self._aggregator = fronts["aggregator"].url
        self._randomness = random.Random(SEED)  # noqa: S311  fixed on purpose
        self._stop = threading.Event()
        self._end_kills = threading.Event()
        self._threads = [threading.Thread(target=target) for target in (self._deliver, self._tick, self._kill)]

    def __enter__(self) -> Self:
        for instance in self.instances:
            instance.start()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end_kills.set()
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for instance in self.instances:
            instance.end()

    def end_kills(self) -> None:
        self._end_kills.set()

    def _deliver(self) -> None:
        self._double.run(self._stop, threads=6)

    def _tick(self) -> None:
        with requests.Session() as session:
            session.trust_env = False
            while not self._stop.wait(1.0):
                token = self._issuer.token(account=cloud.ACCOUNT, audience=self._aggregator)
                headers = {"Authorization": f"Bearer {token}"}
                _post(session, f"{self._aggregator}/internal/tick", headers=headers)

    def _kill(self) -> None:
        while not self._end_kills.wait(self._randomness.uniform(0.5, 3.0)):
            instance = self._randomness.choice(self.instances)
            instance.kill()
            self.killed[instance.function] += 1
            self._end_kills.wait(self._randomness.uniform(0.0, 0.5))
            instance.start()


def _post(session: requests.Session, url: str, **options: object) -> int | None:
    try:
        return session.post(url, timeout=20, **options).status_code
    except requests.RequestException:
        return None


@pytest.fixture
def stores(
    firestore_emulator: FirestoreEmulator, storage_emulator: StorageEmulator
) -> Iterator[tuple[dict[str, str], dict[str, object]]]:
    """Yields an instance's settings of the stores, and adapters over the same stores."""
    project, bucket = "chaos", "chaos"
    storage_emulator.make_bucket(bucket)
    environment = {
        **firestore_emulator.environment,
        **storage_emulator.environment,
        "MUSTER_STATE": f"firestore://{project}/(default)",
        "MUSTER_BLOBS": f"gs://{bucket}",
    }
    with (
        cloud.firestore(firestore_emulator.address, project) as documents,
        cloud.gcs(storage_emulator, bucket=bucket) as blobs,
    ):
        yield environment, {"documents": documents, "blobs": blobs}


def test_rounds_survive_kills_failing_stores_and_a_disorderly_queue(tmp_path, stores, issuer, measured):
    clock, (environment, adapters) = SystemClock(), stores
    disorder = Disorder(SeededRandomness(SEED), twice=0.1, late=0.1, most_delay=10.0)
    started = time.monotonic()
    with ExitStack() as stack:
        fronts = {name: stack.enter_context(FrontEnd()) for name in ("aggregator", "committer")}
        double = stack.enter_context(CloudTasksDouble(QUEUE, clock=clock, issuer=issuer, disorder=disorder))
        queue = CloudTasksQueue(
            cloud.PROJECT,
            cloud.LOCATION,
            cloud.QUEUE,
            targets={name: front.url for name, front in fronts.items()},
            account=cloud.ACCOUNT,
            clock=clock,
            endpoint=double.address,
        )
        stack.callback(queue.close)
        environment |= {
            "MUSTER_QUEUE": f"cloudtasks://{cloud.PROJECT}/{cloud.LOCATION}/{cloud.QUEUE}?endpoint={double.address}",
            "MUSTER_SECRET": SECRET.hex(),
            "MUSTER_ROUND_CACHE_SECONDS": "0.3",
            "MUSTER_RETRY_FLOOR": "0.1",
            "MUSTER_AGGREGATOR_URL": fronts["aggregator"].url,
            "MUSTER_COMMITTER_URL": fronts["committer"].url,
            "MUSTER_INVOKER": cloud.ACCOUNT,
            "MUSTER_TOKEN_ISSUER": issuer.url,
        }
        h = Harness(
            tmp_path,
            wrap=lambda platform: replace(platform, queue=queue, clock=clock, randomness=SystemRandomness()),
            **adapters,
        )
        deployment = stack.enter_context(
            Deployment(environment, double=double, issuer=issuer, fronts=fronts, logs=tmp_path)
        )
        h.put_plan()
        h.create_task(
            rounds=ROUNDS,
            goal=20,
            minimum=MINIMUM,
            over_selection=1.5,
            chunk=6,
            shards=2,
            round_seconds=8,
            assignment_seconds=3,
        )
        ports = [instance.port for instance in deployment.instances if instance.function == "client_api"]
        pause = threading.Event()
        clients = PersistentClients(
            CLIENTS,
            population=POPULATION,
            address=lambda randomness: f"http://127.0.0.1:{randomness.choice(ports)}",
            update=lambda client: encode(sum_update(client)),
            pause=0.2,
            longest=1.0,
        )
        with clients:
            while h.task().status is not TaskStatus.COMPLETED:
                assert time.monotonic() < started + TIMEOUT, (h.task(), double.next_due())
                pause.wait(0.2)
        seconds = time.monotonic() - started
        deployment.end_kills()
        while h.leftovers() or h.blobs("updates/") or h.blobs("partials/") or h.blobs("broadcasts/"):
            assert time.monotonic() < started + TIMEOUT, h.leftovers()
            pause.wait(0.2)
        delivered = double.delivered
    assert set(deployment.killed) == set(INSTANCES)
    assert clients.unexpected == []
    # An unavailable store is logged in another way, and is expected here.
    logs = "".join(instance.log() for instance in deployment.instances)
    assert re.findall(r"^\w+ /\S+ failed$", logs, re.MULTILINE) == []

    committed, abandoned = h.committed(), h.abandoned()
    assert len(committed) + len(abandoned) == len(h.rounds())
    assert [round_.key.number for round_ in committed] == list(range(1, ROUNDS + 1))
    assert all("the minimum is" in round_.reason for round_ in abandoned)
    total = sum(_checked_sum(round_, h, clients) for round_ in committed)
    assert int(decode(h.checkpoint(ROUNDS))["total"]) == total
    assert {name.partition("/")[0] for name in h.blobs()} == {"checkpoints", "plans", "results"}
    counters = [
        h.inner.documents.list(f"{names.round_path(round_.key)}/{collection}")
        for round_ in h.rounds()
        for collection in ("tickets", "shards", "keys", "holders")
    ]
    assert not any(counters)
    updates = sum(round_.tally.folded for round_ in committed)
    kills = ", ".join(f"{number} {function}" for function, number in sorted(deployment.killed.items()))
    measured(
        f"Chaos on the emulators: {ROUNDS} rounds in {seconds:.0f} s, {updates} updates each counted once, "
        f"{len(abandoned)} attempts abandoned, {delivered} deliveries; killed: {kills}"
    )


def _checked_sum(round_: Committed, h: Harness, clients: PersistentClients) -> int:
    """Returns the sum of a round's updates, and asserts that it contains the right clients."""
    result = decode(h.inner.blobs.read(round_.result.name))
    ids = int(result["ids"])
    clients.check(round_, ids, int(result["count"]), minimum=MINIMUM)
    return ids
