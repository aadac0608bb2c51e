"""Contract of `WorkQueue`, over every adapter."""

from __future__ import annotations

from itertools import pairwise

import pytest

from muster_coordinator.ports import WorkItem

FOLD = WorkItem("aggregator", "fold", {"task": "t1", "round": 1, "nested": {"list": [1, None, "ü"]}})
COMMIT = WorkItem("committer", "commit", {})


def delivered(home, *, answer=True):
    seen = []
    home.deliver(lambda work: seen.append(work) or answer)
    return seen


def test_accepted_work_is_delivered_once(home):
    home.queue.enqueue(FOLD, name="one")
    home.queue.enqueue(COMMIT, name="two")
    assert delivered(home) == [FOLD, COMMIT]
    home.wait(3600)
    assert delivered(home) == []


def test_work_is_delivered_after_its_delay(home):
    home.queue.enqueue(COMMIT, name="later", delay=60)
    home.queue.enqueue(FOLD, name="soon", delay=10)
    home.wait(9)
    assert delivered(home) == []
    home.wait(1)
    assert delivered(home) == [FOLD]
    home.wait(50)
    assert delivered(home) == [COMMIT]


def test_failed_delivery_is_retried_with_growing_back_off(home):
    home.queue.enqueue(FOLD, name="one")
    tries = [0]
    for second in range(40):
        home.wait(1)
        if delivered(home, answer=False):
            tries.append(second)
    pauses = [after - before for before, after in pairwise(tries)]
    assert 4 <= len(pauses) <= 12
    assert pauses[-1] > pauses[1]
    home.wait(60)
    assert delivered(home) == [FOLD]


def test_delivery_is_retried_after_a_handler_error(home):
    def broken(_work):
        raise LookupError("broken")

    home.queue.enqueue(FOLD, name="one")
    with pytest.raises(LookupError):
        home.deliver(broken)
    home.wait(60)
    assert delivered(home) == [FOLD]


def test_recently_used_name_is_dropped_silently(home):
    home.queue.enqueue(FOLD, name="one")
    home.queue.enqueue(COMMIT, name="one")
    assert delivered(home) == [FOLD]
    home.wait(60)
    home.queue.enqueue(COMMIT, name="one")
    assert delivered(home) == []
    home.wait(24 * 3600)
    home.queue.enqueue(COMMIT, name="one")
    assert delivered(home) == [COMMIT]


def test_handler_may_enqueue_work(home):
    home.queue.enqueue(FOLD, name="one")

    def handler(work):
        if work == FOLD:
            home.queue.enqueue(COMMIT, name="two")
        return True

    assert home.deliver(handler) + home.deliver(handler) == 2


def test_concurrent_enqueues_of_one_name_are_delivered_once(home, at_once):
    def enqueue(writer):
        for number in range(10):
            home.queue.enqueue(COMMIT, name=f"same-{number}")
            home.queue.enqueue(FOLD, name=f"{writer}-{number}")

    at_once(enqueue)
    seen = delivered(home)
    assert (seen.count(COMMIT), seen.count(FOLD)) == (10, 80)
