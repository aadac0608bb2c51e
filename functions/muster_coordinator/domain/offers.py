"""Offers of a population's tasks to a client: their order, and the reasons to refuse the client."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from muster.wire.messages import TaskPolicy, WaitReason
from muster.wire.messages.policy_parts import AttributeValue

T = TypeVar("T")

# Reasons to wait, soonest end first. The response contains the reason of the task that will have
# work soonest.
_BY_URGENCY = (
    WaitReason.ROUND_FULL,
    WaitReason.BETWEEN_ROUNDS,
    WaitReason.ALREADY_IN,
    WaitReason.RESERVED,
    WaitReason.TOO_SOON,
    WaitReason.OUTSIDE_WINDOW,
    WaitReason.TASK_PAUSED,
    WaitReason.NOT_ELIGIBLE,
    WaitReason.NO_TASK,
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Refusal of a client by one task: the reason, and the time until the next check-in."""

    reason: WaitReason
    retry_after: float  # seconds


def most_urgent(refusals: Iterable[Refusal]) -> Refusal:
    """Returns the refusal that ends soonest: by its reason, then by its time."""
    return min(refusals, key=lambda refusal: (_BY_URGENCY.index(refusal.reason), refusal.retry_after))


def in_weighted_order(items: Sequence[T], *, weight: Callable[[T], float], uniform: Callable[[], float]) -> list[T]:
    """Returns the items in a random order in which each is first in proportion to its weight.

    Each item draws an exponential time with its weight as rate, and the earliest is first. This is
    the order of the keys `u ** (1 / weight)` of Efraimidis and Spirakis, without their underflow.

    Args:
      items: The items. One item is returned without a draw.
      weight: Returns an item's weight, above 0.
      uniform: Returns a random number in [0, 1).
    """
    if len(items) < 2:  # noqa: PLR2004
        return list(items)
    times = [-math.log1p(-uniform()) / weight(item) for item in items]
    return [items[index] for index in sorted(range(len(items)), key=times.__getitem__)]


def is_eligible(policy: TaskPolicy, attributes: Mapping[str, AttributeValue]) -> bool:
    """Returns whether a client's attributes satisfy every rule of the policy."""
    return all(rule.admits(attributes) for rule in policy.eligibility)
