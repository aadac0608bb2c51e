"""What one client of a load does, against a coordinator whose store takes updates itself, and against one that does not answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import cloud
from support.bucket import AccountCredentials, Bucket
from support.harness import POPULATION, Harness
from support.served import served
from werkzeug.wrappers import Request, Response

from muster.load.known_sum import ones
from muster.load.served import Access, Served
from muster.load.shape import LoadShape
from muster.load.steps import Steps, Turn
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


def steps_at(url, update, times):
    made = Steps(
        Served(url, threads=2, access=Access()),
        LoadShape(clients=2),
        update=update,
        encoded=encode(update),
        population=POPULATION,
        token_of=None,
        times=times,
    )
    made.begin(1, round_=1)
    return made


def contribute(steps, client):
    _, turn = steps.take(steps.take(Turn(client))[1])
    assert steps.take(turn) is None


def test_an_update_goes_straight_to_the_store_where_that_is_asked_for(harness, bucket):
    times, update = Times(), ones(harness.plan)
    with served(Request.application(router(harness.app))) as url:
        steps = steps_at(url, update, times)
        for client in (0, 1):
            contribute(steps, client)
    assert steps.tally.outcomes == Counter(accepted=2)
    assert bucket.brought == 2 * len(encode(update))
    found = {phase.name: phase for phase in times.phases()}
    assert "upload" not in found
    assert found["upload to the store"].up == bucket.brought
    harness.deliver_all()
    result = harness.result(1)
    assert (int(result["ids"]), int(result["count"])) == (2, 2)


def test_a_client_whose_round_has_closed_meanwhile_is_too_late(harness):
    with served(Request.application(router(harness.app))) as url:
        steps = steps_at(url, ones(harness.plan), Times())
        _, late = steps.take(Turn(2))
        _, later = steps.take(steps.take(Turn(3))[1])
        contribute(steps, 0)
        contribute(steps, 1)
        harness.deliver_all()
        harness.clock.advance(5.0)
        assert steps.take(late) is None  # its broadcast is gone
        assert steps.take(later) is None
    assert steps.tally.outcomes == {"accepted": 2, "too late for its round": 2}


def test_a_client_without_an_answer_comes_again_and_gives_up_in_the_end():
    asked = []

    @Request.application
    def overloaded(request):
        asked.append(request.path)
        return Response(status=503)

    with served(overloaded) as url:
        steps = steps_at(url, {}, Times())
        turn, pauses = Turn(0), []
        while (following := steps.take(turn)) is not None:
            pauses.append(following[0])
            turn = following[1]
    assert len(asked) == 5
    assert sorted(pauses) == pauses
    assert steps.tally.outcomes == {"not answered": 5, "gave up": 1}
