"""What ticks cost, and what they still find, once a task's rounds have long ended."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.faults import FaultyBlobs, Schedule
from support.harness import Harness
from support.plans import sum_update

from coordinator.domain import names
from muster.wire.tensors import encode

HOURS = 3 * 3600.0  # after which nobody can still be at work on a round
LIST = "blobs.list "
ALWAYS = {"updates/", "partials/"}  # what every tick lists


@pytest.fixture
def schedule():
    """Knows what was read of the blobs."""
    return Schedule()


@pytest.fixture
def harness(schedule, tmp_path):
    """Four rounds of two clients have ended, and the fifth, which lasts a day, is open."""
    h = Harness(tmp_path, wrap=lambda platform: replace(platform, blobs=FaultyBlobs(platform.blobs, schedule)))
    h.begin(goal=2, rounds=9, round_seconds=86_400)
    for number in range(1, 5):
        for client in range(2):
            h.upload(h.assigned(f"{number} {client}").token, sum_update(client))
        h.deliver_all()
    assert h.key().number == 5
    return h


def listed_by_a_tick(h: Harness, schedule: Schedule) -> set[str]:
    """What a tick lists, but for the round that is open."""
    schedule.reads.clear()
    h.tick()
    h.deliver_all()
    listed = {read.removeprefix(LIST) for read in schedule.reads if read.startswith(LIST)}
    return {prefix for prefix in listed if h.key().id not in prefix} - ALWAYS


def test_rounds_that_have_just_ended_are_swept_again(harness, schedule):
    assert {prefix.partition("/")[0] for prefix in listed_by_a_tick(harness, schedule)} >= {
        "updates",
        "partials",
        "checkpoints",
    }


@pytest.mark.parametrize("cancelled", [False, True])
def test_rounds_that_ended_hours_ago_cost_no_lists(cancelled, harness, schedule):
    if cancelled:
        harness.operate("cancel")
        harness.deliver_all()
    harness.clock.advance(HOURS)
    assert listed_by_a_tick(harness, schedule) == set()


def test_an_update_that_comes_hours_after_its_round_is_removed(harness):
    old = next(round_ for round_ in harness.committed() if round_.key.number == 4)
    harness.clock.advance(HOURS)
    harness.platform.blobs.create(names.update_name(old.key, 0, "0" * 32), [encode(sum_update(0))])
    harness.tick()
    assert harness.blobs(names.UPDATES) == []
