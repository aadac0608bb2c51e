"""Slots of a round: bounds the outstanding assignments without a document per client.

The cap is split over a few ticket counters. Taking a slot increments `issued` and reads the new
value, which no other taker gets. The slot is valid if the value is within the counter's limit;
otherwise the increment is reverted. The limit is the counter's share of the cap, plus the slots
that were returned: those of reported failures at once, and those of unused assignments once they
have expired. The latter are counted by interval of issue: once an interval's last assignment has
expired, the slots that were issued in it and not used are free again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

INTERVALS = 4  # per validity of an assignment: an unused slot is free after 1 to 1.25 times the validity

_MIN_ASSIGNMENT_SECONDS = 1e-3

ISSUED = "issued"
FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Ticket:
    """A slot: the number of its counter, and the interval in which it was issued."""

    counter: int
    interval: int


def interval_of(now: float, *, assignment_seconds: float) -> int:
    """Returns the interval of an assignment that is issued at `now` (POSIX seconds)."""
    return math.floor(now / _length(assignment_seconds))


def _length(assignment_seconds: float) -> float:
    """Returns the length of an interval in seconds.

    It is bounded below, since earlier versions stored lengths too short to divide by.
    """
    return max(assignment_seconds, _MIN_ASSIGNMENT_SECONDS) / INTERVALS


def issued_field(interval: int) -> str:
    """Returns the field that counts an interval's assignments."""
    return f"issued_{interval}"


def used_field(interval: int) -> str:
    """Returns the field that counts an interval's assignments with an update or a report."""
    return f"used_{interval}"


def failed_field(cause: str) -> str:
    """Returns the field that counts the failures of one code or reason."""
    return f"failed_{cause}"


def share(counter: int, *, cap: int, counters: int) -> int:
    """Returns a counter's share of the cap. The shares sum to the cap."""
    return cap // counters + (1 if counter < cap % counters else 0)


def limit(
    fields: Mapping[str, int], counter: int, *, cap: int, counters: int, now: float, assignment_seconds: float
) -> int:
    """Returns the largest valid value of `issued`.

    The limit only grows with time and with newer `fields`, so a stale snapshot is safe.

    Args:
      fields: The counter's fields.
      counter: The counter's number.
      cap: The round's cap.
      counters: Number of the round's counters.
      now: The time, in POSIX seconds.
      assignment_seconds: Seconds for which an assignment is valid.
    """
    length = _length(assignment_seconds)
    returned = fields.get(FAILED, 0)
    for name, issued in fields.items():
        prefix, _, interval = name.partition("_")
        if prefix == ISSUED and interval and now >= (int(interval) + 1) * length + assignment_seconds:
            returned += max(0, issued - fields.get(used_field(int(interval)), 0))
    return share(counter, cap=cap, counters=counters) + returned


def assigned(fields: Mapping[str, int]) -> int:
    """Returns the number of assignments that a counter has issued."""
    return fields.get(ISSUED, 0)


def updates(fields: Mapping[str, int]) -> int:
    """Returns the number of a counter's assignments that ended in an update."""
    return sum(n for name, n in fields.items() if name.startswith("used_")) - fields.get(FAILED, 0)


def failures(fields: Mapping[str, int]) -> dict[str, int]:
    """Returns the number of a counter's reported failures, by code or reason."""
    return {name.removeprefix("failed_"): n for name, n in fields.items() if name.startswith("failed_")}
