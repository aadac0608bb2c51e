"""Clients of a load: direct uploads, a closed round, and a server that does not answer."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support import cloud
from support.bucket import AccountCredentials, Bucket
from support.harness import POPULATION, Harness
from support.served import served
from werkzeug.wrappers import Request, Response

from muster.load.clients import Contribution, RoundClients
from muster.load.loop import LoadLoop
from muster.load.rounds import ones
from muster.load.served import Access, Served
from muster.load.shape import LoadShape
from muster.load.times import Times
from muster.wire.tensors import encode
from muster_coordinator.adapters.directory import DirectoryBlobs
from muster_coordinator.adapters.gcs_uploads import GcsDirectUploads, IamSigner
from muster_coordinator.http import router
from muster_coordinator.state.platform import Platform


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Bucket]:
    with Bucket(DirectoryBlobs(tmp_path / "blobs")) as bucket:
        yield bucket


@pytest.fixture
def harness(tmp_path: Path, bucket: Bucket) -> Harness:
    with cloud.environment(STORAGE_EMULATOR_HOST=bucket.url):
        signer = IamSigner(credentials=AccountCredentials(), endpoint=bucket.url)
        direct = GcsDirectUploads("bucket", signer=signer, patience=2.0)

    def wrap(platform: Platform) -> Platform:
        return Platform(**{**vars(platform), "direct": direct})

    made = Harness(tmp_path, wrap=wrap, direct_above=10, durable=True)
    made.begin(goal=2, over_selection=2.0)
    return made


class Gate:
    """A place where a client waits until the test opens it."""

    def __init__(self):
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()


class Clients(RoundClients):
    """Clients that the test can hold before a step, and that note pauses instead of waiting."""

    def __init__(self, target, update, times):
        contribution = Contribution(POPULATION, update, encode(update))
        super().__init__(target, LoadShape(clients=4), contribution, attempt=1, number=1, times=times)
        self.gates = {}  # by step; for the next client
        self.pauses = []

    async def _fetch(self, assignment):
        await self._pass("fetch")
        await super()._fetch(assignment)

    async def _upload(self, assignment):
        await self._pass("upload")
        await super()._upload(assignment)

    async def _pass(self, step):
        if (gate := self.gates.pop(step, None)) is not None:
            gate.reached.set()
            await gate.opened.wait()

    async def _wait_until(self, instant):
        self.pauses.append(instant - self._loop.time())


def play(url, update, play_with, *, times=None):
    """Runs a coroutine function of clients at `url`, and returns them."""

    async def main(target):
        clients = Clients(target, update, times or Times())
        await play_with(clients)
        return clients

    with closing(Served(url, lanes=2, access=Access())) as target:
        return LoadLoop(skip_idle=False).run(main(target))


def test_update_above_the_limit_goes_directly_to_the_store(harness, bucket):
    times, update = Times(), ones(harness.plan)

    async def contribute(clients):
        for client in (0, 1):
            await clients.run_client(client, time.time())

    with served(Request.application(router(harness.app))) as url:
        clients = play(url, update, contribute, times=times)
    assert clients.tally.outcomes == Counter(accepted=2)
    assert bucket.brought == 2 * len(encode(update))
    phases = {phase.name: phase for phase in times.phases()}
    assert "upload" not in phases
    assert phases["upload to the store"].up == bucket.brought
    harness.deliver_all()
    result = harness.result(1)
    assert (int(result["ids"]), int(result["count"])) == (2, 2)


def test_client_of_a_closed_round_is_too_late(harness):
    async def contribute(clients):
        gates, waiting = [], []
        for client, step in ((2, "fetch"), (3, "upload")):
            gate = clients.gates[step] = Gate()
            waiting.append(asyncio.ensure_future(clients.run_client(client, time.time())))
            await gate.reached.wait()
            gates.append(gate)
        for client in (0, 1):
            await clients.run_client(client, time.time())
        harness.deliver_all()
        harness.clock.advance(5.0)
        for gate in gates:
            gate.opened.set()
        await asyncio.gather(*waiting)

    with served(Request.application(router(harness.app))) as url:
        clients = play(url, ones(harness.plan), contribute)
    assert clients.tally.outcomes == {"accepted": 2, "too late for its round": 2}


def test_unanswered_client_backs_off_and_gives_up():
    asked = []

    @Request.application
    def overloaded(request):
        asked.append(request.path)
        return Response(status=503)

    async def contribute(clients):
        await clients.run_client(0, time.time())

    with served(overloaded) as url:
        clients = play(url, {}, contribute)
    pauses = clients.pauses[1:]  # the first one is for the arrival
    assert len(asked) == 5
    assert sorted(pauses) == pauses
    assert clients.tally.outcomes == {"not answered": 5, "gave up": 1}
