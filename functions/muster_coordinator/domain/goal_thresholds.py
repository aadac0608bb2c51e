"""When to look whether a round with several shards has reached its goal, without a look for each update.

Each shard counts its own updates, and nobody counts them all: one counter for everyone would be a hot document. So a look reads every
shard, and sets for each the count at which the next look is due: what it has, plus an even share of what the round still lacks.
While every shard is below its own, their sum is below the goal; so whoever brings a shard there looks again, and the goal is never
passed unseen. As shards fill about evenly, a look halves what is missing several times over: some dozens of looks make a round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_SIGMAS = 6.0  # below its mean by so many standard deviations a shard is once in a thousand million
_MANY = 100  # updates of a shard, from which on its count is near enough a normal distribution


def first_thresholds(*, goal: int, shards: int) -> tuple[int, ...]:
    """The counts of the shards at which the first look is due."""
    return next_thresholds((0,) * shards, goal=goal)


def next_thresholds(counts: Sequence[int], *, goal: int) -> tuple[int, ...]:
    """The counts at which the next look is due. The counts below them add up to less than `goal`, whatever they are.

    Args:
      counts: How many updates each shard has; their sum is below `goal`.
      goal: Updates that close the round.
    """
    share = -(-(goal - sum(counts)) // len(counts))
    return tuple(count + share for count in counts)


def is_due(counts: Sequence[int], looks: Sequence[int]) -> bool:
    """Whether a shard has come to its look."""
    return any(count >= look for count, look in zip(counts, looks, strict=True))


def may_be_due(count: int, *, goal: int, shards: int) -> bool:
    """Whether a shard with `count` updates can be the one that brings the round to its goal, but by a chance not worth a read.

    Clients fall to shards at random, so at the goal each has about as many. A round that closes unseen waits for the tick.
    """
    mean = goal / shards
    return mean < _MANY or count >= mean - _SIGMAS * math.sqrt(mean)
