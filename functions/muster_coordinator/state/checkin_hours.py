"""Reads and removes the hourly counters of check-ins, which `checkin_counters` writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from muster_coordinator.domain import names
from muster_coordinator.state.checkin_counters import HOUR
from muster_coordinator.state.parallel import map_concurrently
from muster_coordinator.state.platform import Platform

DAY = 24  # hours
_KEPT = DAY + 1  # hours; an instance may still write to the last one
_PAGE = 500  # documents
MAX_REMOVED = 500  # documents that one call deletes


@dataclass(frozen=True, slots=True)
class PopulationHour:
    """Counters of a population in one hour."""

    population: str
    fields: Mapping[str, int]


def last_day(platform: Platform) -> Iterator[PopulationHour]:
    """Yields the counters of the current hour and of the 23 before it."""
    after: str | None = names.checkins_cursor(_hour(platform) - DAY + 1)
    while after is not None:
        page = platform.documents.list(names.CHECKINS, after=after, limit=_PAGE)
        for document in page:
            yield PopulationHour(names.checkins_of(document.id)[1], document.data)
        after = page[-1].id if len(page) == _PAGE else None


def remove_old_hours(platform: Platform) -> None:
    """Deletes a bounded number of counters that are older than a day. Idempotent."""
    oldest = names.checkins_cursor(_hour(platform) - _KEPT)
    page = platform.documents.list(names.CHECKINS, limit=MAX_REMOVED)  # the oldest come first
    map_concurrently(platform, platform.documents.delete, [document.path for document in page if document.id < oldest])


def _hour(platform: Platform) -> int:
    return int(platform.clock.now() // HOUR)
