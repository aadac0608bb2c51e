"""Check-in: a client that is done with a round takes no further slot of it."""

from __future__ import annotations

import pytest
from support.harness import Harness
from support.plans import sum_update

from muster.wire.messages import Assignment, Wait, WaitReason


@pytest.fixture
def harness(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=3, minimum=3)
    return h


def test_client_waits_after_its_upload(harness):
    harness.upload(harness.assigned("a").token, sum_update(1))
    answer = harness.checkin("a")
    assert isinstance(answer, Wait)
    assert answer.reason is WaitReason.ALREADY_IN


def test_client_waits_after_its_report(harness):
    harness.report(harness.assigned("a").token)
    assert isinstance(harness.checkin("a"), Wait)
    # Its slot is free, so the goal can still be reached.
    assert all(isinstance(harness.checkin(client), Assignment) for client in "bcd")


def test_client_with_cookie_waits_after_its_update_is_folded(tmp_path):
    harness = Harness(tmp_path)
    harness.begin(goal=5, minimum=2, chunk=2)
    cookies = {c: harness.upload(harness.assigned(c).token, sum_update(n)).cookie for n, c in enumerate("ab")}
    harness.deliver_all()
    assert not harness.blobs("updates/")
    assert isinstance(harness.checkin("a", cookie=cookies["a"]), Wait)


def test_clients_that_return_too_early_do_not_block_the_goal(harness):
    for number, client in enumerate("abc"):
        harness.upload(harness.assigned(client).token, sum_update(number))
        assert isinstance(harness.checkin(client), Wait)
    harness.deliver_all()
    assert harness.task().checkpoint == 1


def test_client_is_assigned_again_in_the_next_round(harness):
    cookie = None
    for number, client in enumerate("abc"):
        cookie = harness.upload(harness.assigned(client).token, sum_update(number)).cookie
    harness.deliver_all()
    assert isinstance(harness.checkin("c", cookie=cookie), Assignment)


def test_retry_after_grows_while_last_update_is_awaited(tmp_path):
    h = Harness(tmp_path, cache_seconds=1.0)
    h.begin(goal=20, over_selection=1.0, round_seconds=900)
    tokens = [h.assigned(client).token for client in range(20)]
    h.clock.advance(5.0)
    for client, token in enumerate(tokens[:-1]):
        h.upload(token, sum_update(client))
    polls, end = 0, h.clock.now() + 250.0
    while h.clock.now() < end:
        answer = h.checkin("waits")
        assert answer.reason is WaitReason.ROUND_FULL
        h.clock.advance(answer.retry_after)
        polls += 1
    assert polls < 45  # judged by the number of updates alone, it would poll 90 times
