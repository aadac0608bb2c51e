"""Windows of a task: the hours in which clients are assigned, in a time zone.

A window runs from the first instant at which the zone's clock shows `start` (or later) to the first
at which it shows `end`. So a window in the hour that a change to summer time skips does not occur,
and one that begins in the hour that a change to winter time repeats begins once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

from muster.wire.messages import TaskPolicy
from muster.wire.messages.policy_parts import Window
from muster.wire.problems import FieldError

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = timedelta(days=1)
_DAYS_AHEAD = 15  # a change of time can cancel a weekly window once


@dataclass(frozen=True, slots=True)
class _Occurrence:
    """One occurrence of a window, in POSIX seconds: `begins <= time < ends`."""

    begins: float
    ends: float


def is_open(windows: Sequence[Window], *, now: float) -> bool:
    """Returns whether clients are assigned at `now` (POSIX seconds). No window means always."""
    return not windows or any(
        occurrence.begins <= now < occurrence.ends
        for window in windows
        for occurrence in _occurrences(window, now, days=(-1, 0))
    )


def seconds_until_open(windows: Sequence[Window], *, now: float) -> float:
    """Returns the seconds until a window is open; 0 if one is."""
    if is_open(windows, now=now):
        return 0.0
    return min(_next_opening(window, now) for window in windows) - now


def unknown_zones(policy: TaskPolicy) -> Iterator[FieldError]:
    """Yields each window whose time zone is unknown here, with the reason and the fix."""
    for index, window in enumerate(policy.windows):
        if _zone(window.time_zone) is None:
            reason = f"is {window.time_zone!r}, which is no known time zone; use an IANA name such as Europe/Berlin"
            yield FieldError(path=f"policy.windows.{index}.time_zone", reason=reason)


def _next_opening(window: Window, now: float) -> float:
    """Returns when a window opens next, in POSIX seconds; infinity if that is never."""
    following = _occurrences(window, now, days=range(_DAYS_AHEAD))
    return next((item.begins for item in following if now < item.begins < item.ends), math.inf)


def _occurrences(window: Window, now: float, *, days: Iterable[int]) -> Iterator[_Occurrence]:
    """Yields the occurrences that begin on certain days, counted from today in their zone."""
    zone = _zone(window.time_zone)
    if zone is None:  # another version of the time zone database accepted it
        return
    today = datetime.fromtimestamp(now, zone).date()
    for day in (today + offset * _DAY for offset in days):
        if not window.days or _DAYS[day.weekday()] in window.days:
            yield _occurrence(window.start, window.end, zone, day)


@lru_cache(maxsize=4096)  # check-ins ask for the same few days
def _occurrence(start: str, end: str, zone: tzinfo, day: date) -> _Occurrence:
    """Returns the occurrence that begins on a day. It is empty if the clock skips the window."""
    midnight = datetime.combine(day, datetime.min.time())
    begins, ends = midnight + _since_midnight(start), midnight + _since_midnight(end)
    return _Occurrence(_instant(begins, zone), _instant(ends if ends > begins else ends + _DAY, zone))


def _since_midnight(time_of_day: str) -> timedelta:
    hours, _, minutes = time_of_day.partition(":")
    return timedelta(hours=int(hours), minutes=int(minutes))


def _instant(local: datetime, zone: tzinfo) -> float:
    """Returns when the zone's clock first shows `local` or a later time, in POSIX seconds."""
    first, second = (int(local.replace(tzinfo=zone, fold=fold).timestamp()) for fold in (0, 1))
    if first <= second:
        return first
    # The clock skips `local` at a change between these two.
    before, after = second, first
    while after - before > 1:
        middle = (before + after) // 2
        if datetime.fromtimestamp(middle, zone).replace(tzinfo=None) >= local:
            after = middle
        else:
            before = middle
    return after


def _zone(name: str) -> tzinfo | None:
    """Returns a time zone by its IANA name, or None if this machine does not know it."""
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown; no relative path; a folder of zones
        return None
