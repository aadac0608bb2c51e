"""What ticks cost, and what they still find, once a task's rounds have long ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from support.harness import Harness
from support.plans import sum_update

from coordinator.domain import names
from coordinator.ports import BlobInfo
from muster.wire.tensors import encode

HOURS = 3 * 3600.0  # after which nobody can still be at work on a round
ALWAYS = {"updates/", "partials/"}  # what every tick lists


class Listed:
    """Blobs that remember what was listed."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.prefixes: list[str] = []

    def __getattr__(self, method: str) -> Callable[..., Any]:
        return getattr(self._inner, method)

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        self.prefixes.append(prefix)
        return self._inner.list(prefix)


@pytest.fixture
def harness(tmp_path):
    """Four rounds of two clients have ended, and the fifth, which lasts a day, is open."""
    blobs: list[Listed] = []

    def wrap(platform):
        blobs.append(Listed(platform.blobs))
        return replace(platform, blobs=blobs[0])

    h = Harness(tmp_path, wrap=wrap)
    h.begin(goal=2, rounds=9, round_seconds=86_400)
    for number in range(1, 5):
        for client in range(2):
            h.upload(h.assigned(f"{number} {client}").token, sum_update(client))
        h.deliver_all()
    assert h.key().number == 5
    return h


def listed_by_a_tick(h: Harness) -> set[str]:
    """What a tick lists, but for the round that is open."""
    h.platform.blobs.prefixes.clear()
    h.tick()
    h.deliver_all()
    return {prefix for prefix in h.platform.blobs.prefixes if h.key().id not in prefix} - ALWAYS


def test_rounds_that_have_just_ended_are_swept_again(harness):
    assert {prefix.partition("/")[0] for prefix in listed_by_a_tick(harness)} >= {"updates", "partials", "checkpoints"}


@pytest.mark.parametrize("cancelled", [False, True])
def test_rounds_that_ended_hours_ago_cost_no_lists(cancelled, harness):
    if cancelled:
        harness.operate("cancel")
        harness.deliver_all()
    harness.clock.advance(HOURS)
    assert listed_by_a_tick(harness) == set()


def test_an_update_that_comes_hours_after_its_round_is_removed(harness):
    old = next(round_ for round_ in harness.committed() if round_.key.number == 4)
    harness.clock.advance(HOURS)
    harness.platform.blobs.create(names.update_name(old.key, 0, "0" * 32), [encode(sum_update(0))])
    harness.tick()
    assert harness.blobs(names.UPDATES) == []
