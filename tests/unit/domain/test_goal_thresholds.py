"""When to look for a round's goal over several shards: never too late, and not often."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from muster_coordinator.domain.goal_thresholds import first_thresholds, is_due, may_be_due, next_thresholds


@given(st.lists(st.integers(0, 50), min_size=1, max_size=9), st.integers(1, 200))
def test_counts_below_the_looks_are_below_the_goal(counts, lacking):
    goal = sum(counts) + lacking
    looks = next_thresholds(counts, goal=goal)
    assert all(look > count for count, look in zip(counts, looks, strict=True))
    assert sum(look - 1 for look in looks) < goal


@given(st.integers(1, 8), st.integers(1, 120), st.integers(0, 2**32), st.floats(0.0, 1.0))
def test_the_goal_is_seen_at_the_update_that_reaches_it_however_shards_fill(shards, goal, seed, skew):
    randomness = np.random.default_rng(seed)
    counts, looks = [0] * shards, first_thresholds(goal=goal, shards=shards)
    for at in range(1, goal + 1):
        counts[0 if randomness.random() < skew else randomness.integers(shards)] += 1
        seen = False
        while is_due(counts, looks) and not seen:
            seen = sum(counts) >= goal
            looks = looks if seen else next_thresholds(counts, goal=goal)
        assert seen == (at == goal)


def test_looks_are_some_dozens_for_ten_thousand_updates_in_twenty_shards():
    randomness, goal = np.random.default_rng(7), 10_000
    counts, looks, looked, asked = [0] * 20, first_thresholds(goal=goal, shards=20), 0, 0
    for _ in range(goal):
        shard = randomness.integers(20)
        counts[shard] += 1
        asked += may_be_due(counts[shard], goal=goal, shards=20)
        if is_due(counts, looks) and sum(counts) < goal:
            looked += 1
            looks = next_thresholds(counts, goal=goal)
    assert looked <= 48
    assert asked < 0.4 * goal
    assert sum(counts) == goal
    assert all(may_be_due(count, goal=goal, shards=20) for count in counts)
