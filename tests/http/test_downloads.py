"""Downloads: content that many clients fetch is read from the stores once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from support.harness import TASK, Harness, problem_of
from support.plans import SumRuntime, sum_plan, sum_update

from muster.wire.problems import ProblemType

ACCEPT = {"Accept-Encoding": "zstd"}
SECONDS = 1.0  # for which an instance caches a round


class CountingPort:
    """Port that counts its calls by method and by the first segment of their subject."""

    def __init__(self, inner, counts):
        self._inner, self._counts = inner, counts

    def __getattr__(self, method):
        call = getattr(self._inner, method)

        def counted(name, *args, **options):
            self._counts[f"{method} {str(name).partition('/')[0]}"] += 1
            return call(name, *args, **options)

        return counted


class WideRuntime(SumRuntime):
    """Runtime whose broadcast is compressible."""

    def prepare(self, state, **limit):
        return {**super().prepare(state, **limit), "extra": np.arange(100_000, dtype=np.int32)}


@pytest.fixture
def counts():
    return Counter()


@pytest.fixture
def h(tmp_path, counts):
    def wrap(platform):
        return replace(
            platform, blobs=CountingPort(platform.blobs, counts), documents=CountingPort(platform.documents, counts)
        )

    h = Harness(tmp_path, plan=sum_plan(), runtime=WideRuntime(), cache_seconds=SECONDS, wrap=wrap)
    h.begin(rounds=2, goal=2)
    return h


@pytest.mark.parametrize("headers", [ACCEPT, {}, {"Range": "bytes=100-199"}], ids=["zstd", "unencoded", "range"])
def test_broadcast_is_read_once_for_all_clients(h, counts, headers):
    url = h.assigned(0).broadcast.url
    first = h.call("GET", url, headers=headers).data
    counts.clear()
    for _ in range(20):
        assert h.call("GET", url, headers=headers).data == first
    assert not counts
    h.clock.advance(SECONDS)
    h.call("GET", url, headers=headers)
    assert counts == {"get tasks": 2}  # the task and its round, read again


def test_cached_broadcast_is_answered_304_without_a_read(h, counts):
    url = h.assigned(0).broadcast.url
    tags = [h.call("GET", url, headers=headers).headers["ETag"] for headers in (ACCEPT, {})]
    h.clock.advance(SECONDS)
    counts.clear()
    for tag in (*tags, "W/" + tags[0], f'"other", {tags[0]}', "*"):
        response = h.call("GET", url, headers={**ACCEPT, "If-None-Match": tag})
        assert (response.status_code, response.data) == (304, b"")
        assert response.headers["ETag"] in tags
        assert "immutable" in response.headers["Cache-Control"]
        assert response.vary.as_set() == {"accept-encoding"}
    assert counts == {"get tasks": 2}


def test_missing_blob_is_never_answered_304(h):
    sha256 = "0" * 64
    answer = h.call("GET", f"/v1/plans/{sha256}", headers={"If-None-Match": f'"{sha256}"'})
    assert problem_of(answer).type is ProblemType.NOT_FOUND
    answer = h.call("GET", f"/v1/tasks/{TASK}/rounds/1/broadcast?sha256={sha256}", headers={"If-None-Match": "*"})
    assert problem_of(answer).type is ProblemType.ROUND_CLOSED


def test_broadcast_swept_during_a_read_is_answered_round_closed(h):
    first, second = h.assigned(0), h.assigned(1)
    url = first.broadcast.url
    h.call(
        "GET", url, headers={**ACCEPT, "If-None-Match": "*"}
    )  # an instance has cached the round, and has not read the broadcast
    for number, assignment in enumerate((first, second)):
        h.upload(assignment.token, sum_update(number))
    h.deliver_all()
    assert len(h.blobs("broadcasts/")) == len(("as it is", "zstd", "gzip"))  # only the next round's
    for seconds in (0.0, SECONDS):
        h.clock.advance(seconds)
        assert problem_of(h.call("GET", url, headers=ACCEPT)).type is ProblemType.ROUND_CLOSED
