"""Tests of goal checks over several shards: never too late, and few."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from muster_coordinator.domain.goal_thresholds import first_thresholds, is_due, may_be_due, next_thresholds


@given(st.lists(st.integers(0, 50), min_size=1, max_size=9), st.integers(1, 200))
def test_counts_below_the_thresholds_are_below_the_goal(counts, missing):
    goal = sum(counts) + missing
    thresholds = next_thresholds(counts, goal=goal)
    assert all(threshold > count for count, threshold in zip(counts, thresholds, strict=True))
    assert sum(threshold - 1 for threshold in thresholds) < goal


@given(st.integers(1, 8), st.integers(1, 120), st.integers(0, 2**32), st.floats(0.0, 1.0))
def test_goal_is_noticed_at_the_update_that_reaches_it(shards, goal, seed, skew):
    randomness = np.random.default_rng(seed)
    counts, thresholds = [0] * shards, first_thresholds(goal=goal, shards=shards)
    for at in range(1, goal + 1):
        counts[0 if randomness.random() < skew else randomness.integers(shards)] += 1
        noticed = False
        while is_due(counts, thresholds) and not noticed:
            noticed = sum(counts) >= goal
            thresholds = thresholds if noticed else next_thresholds(counts, goal=goal)
        assert noticed == (at == goal)


def test_goal_checks_are_few_for_many_updates():
    randomness, goal = np.random.default_rng(7), 10_000
    counts, thresholds, checks, reads = [0] * 20, first_thresholds(goal=goal, shards=20), 0, 0
    for _ in range(goal):
        shard = randomness.integers(20)
        counts[shard] += 1
        reads += may_be_due(counts[shard], goal=goal, shards=20)
        if is_due(counts, thresholds) and sum(counts) < goal:
            checks += 1
            thresholds = next_thresholds(counts, goal=goal)
    assert checks <= 48
    assert reads < 0.4 * goal
    assert sum(counts) == goal
    assert all(may_be_due(count, goal=goal, shards=20) for count in counts)
