"""The contract of `WorkQueue`, over every adapter."""

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


def test_delivers_work_as_it_was_enqueued_and_once_it_has_arrived_no_more(home):
    home.queue.enqueue(FOLD, name="one")
    home.queue.enqueue(COMMIT, name="two")
    assert delivered(home) == [FOLD, COMMIT]
    home.wait(3600)
    assert delivered(home) == []


def test_delivers_after_the_delay(home):
    home.queue.enqueue(COMMIT, name="later", delay=60)
    home.queue.enqueue(FOLD, name="soon", delay=10)
    home.wait(9)
    assert delivered(home) == []
    home.wait(1)
    assert delivered(home) == [FOLD]
    home.wait(50)
    assert delivered(home) == [COMMIT]


def test_delivers_again_after_a_failure_with_growing_pauses(home):
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


def test_delivers_again_after_an_error_of_the_handler(home):
    def broken(_work):
        raise LookupError("broken")

    home.queue.enqueue(FOLD, name="one")
    with pytest.raises(LookupError):
        home.deliver(broken)
    home.wait(60)
    assert delivered(home) == [FOLD]


def test_a_name_that_was_used_lately_is_dropped_silently(home):
    home.queue.enqueue(FOLD, name="one")
    home.queue.enqueue(COMMIT, name="one")
    assert delivered(home) == [FOLD]
    home.wait(60)
    home.queue.enqueue(COMMIT, name="one")
    assert delivered(home) == []
    home.wait(24 * 3600)
    home.queue.enqueue(COMMIT, name="one")
    assert delivered(home) == [COMMIT]


def test_a_handler_may_enqueue(home):
    home.queue.enqueue(FOLD, name="one")

    def handler(work):
        if work == FOLD:
            home.queue.enqueue(COMMIT, name="two")
        return True

    assert home.deliver(handler) + home.deliver(handler) == 2


def test_concurrent_enqueues_of_one_name_are_delivered_once_and_others_all(home, at_once):
    def enqueue(writer):
        for number in range(10):
            home.queue.enqueue(COMMIT, name=f"same-{number}")
            home.queue.enqueue(FOLD, name=f"{writer}-{number}")

    at_once(enqueue)
    seen = delivered(home)
    assert (seen.count(COMMIT), seen.count(FOLD)) == (10, 80)
