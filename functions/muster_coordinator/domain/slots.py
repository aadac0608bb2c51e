"""The slots of a round: how many assignments may be out, counted without a document per client.

The cap is split over a few ticket counters. Taking a slot adds one to `issued` and reads the new value, which no other
taker gets; it stands if it is within the counter's limit, else the one is taken back. The limit is the counter's share of the
cap, plus the slots that came back: failed at once, and those whose assignment ran out unused. The latter are counted by the
interval of their issue: once an interval's last assignment has expired, what was issued in it and not used is free again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

INTERVALS = 4  # intervals of issue in one assignment's life: an unused slot is back after 1 to 1.25 lives

_SHORTEST = 1e-3  # seconds of an assignment

ISSUED = "issued"
FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Ticket:
    """A slot: of which counter, issued in which interval."""

    counter: int
    interval: int


def interval_of(now: float, *, assignment_seconds: float) -> int:
    """The interval in which an assignment is issued."""
    return math.floor(now / _length(assignment_seconds))


def _length(assignment_seconds: float) -> float:
    """Returns the seconds of an interval. Bounded below: earlier versions stored lengths too short to divide by."""
    return max(assignment_seconds, _SHORTEST) / INTERVALS


def issued_field(interval: int) -> str:
    """The field that counts an interval's assignments."""
    return f"issued_{interval}"


def used_field(interval: int) -> str:
    """The field that counts those of an interval's assignments that ended in an update or a report."""
    return f"used_{interval}"


def failed_field(reason: str) -> str:
    """The field that counts the failures of one reason."""
    return f"failed_{reason}"


def share(counter: int, *, cap: int, counters: int) -> int:
    """A counter's share of the cap; the shares add up to it."""
    return cap // counters + (1 if counter < cap % counters else 0)


def limit(
    fields: Mapping[str, int], counter: int, *, cap: int, counters: int, now: float, assignment_seconds: float
) -> int:
    """What `issued` may reach. It only grows with time and with newer `fields`, so that a stale reading is a safe one."""
    length = _length(assignment_seconds)
    back = fields.get(FAILED, 0)
    for name, issued in fields.items():
        prefix, _, interval = name.partition("_")
        if prefix == ISSUED and interval and now >= (int(interval) + 1) * length + assignment_seconds:
            back += max(0, issued - fields.get(used_field(int(interval)), 0))
    return share(counter, cap=cap, counters=counters) + back


def assigned(fields: Mapping[str, int]) -> int:
    """How many assignments a counter gave out in all."""
    return fields.get(ISSUED, 0)


def updates(fields: Mapping[str, int]) -> int:
    """How many of a counter's assignments ended in an update."""
    return sum(n for name, n in fields.items() if name.startswith("used_")) - fields.get(FAILED, 0)


def failures(fields: Mapping[str, int]) -> dict[str, int]:
    """How many assignments were given back, by reason."""
    return {name.removeprefix("failed_"): n for name, n in fields.items() if name.startswith("failed_")}
