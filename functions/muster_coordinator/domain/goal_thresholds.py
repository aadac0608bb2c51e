"""Schedules goal checks for rounds with several shards, so that not every update needs one.

Each shard counts its own updates; one counter for the whole round would be a hot document. A check
reads every shard and sets a threshold for each: its count plus an even share of what the round
still lacks. While every shard is below its threshold, the sum is below the goal. So only the update
that brings a shard to its threshold triggers a check, and the goal is never passed unseen. Shards
fill about evenly, so the missing number shrinks quickly from check to check: a round takes some
dozens of checks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_SIGMAS = 6.0  # standard deviations; a count is lower than its mean by as much once in 10^9
_MIN_NORMAL_MEAN = 100  # updates of a shard from which on the normal approximation is used


def first_thresholds(*, goal: int, shards: int) -> tuple[int, ...]:
    """Returns the shards' thresholds for the first check."""
    return next_thresholds((0,) * shards, goal=goal)


def next_thresholds(counts: Sequence[int], *, goal: int) -> tuple[int, ...]:
    """Returns the shards' thresholds for the next check.

    Any counts below them sum to less than `goal`.

    Args:
      counts: Number of updates of each shard. Their sum is below `goal`.
      goal: Number of updates that closes the round.
    """
    share = -(-(goal - sum(counts)) // len(counts))
    return tuple(count + share for count in counts)


def is_due(counts: Sequence[int], thresholds: Sequence[int]) -> bool:
    """Returns whether any shard has reached its threshold."""
    return any(count >= threshold for count, threshold in zip(counts, thresholds, strict=True))


def may_be_due(count: int, *, goal: int, shards: int) -> bool:
    """Returns False if an update is very unlikely to be the one that reaches the goal.

    Clients are assigned to shards at random, so at the goal all shards have about as many
    updates. In the unlikely case the round closes at the next tick.

    Args:
      count: Number of updates of the shard, including the update.
      goal: Number of updates that closes the round.
      shards: Number of shards.
    """
    mean = goal / shards
    return mean < _MIN_NORMAL_MEAN or count >= mean - _SIGMAS * math.sqrt(mean)
