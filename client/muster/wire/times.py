"""Times and durations in messages: RFC 3339 with an offset, in a range that all readers support.

A request with another time is refused: a time without an offset is a different instant on each
server, and a time near the year 9999 overflows when a duration is added. Documents of an earlier
version, and responses of an earlier coordinator, are read leniently: a missing offset means UTC,
and a time out of range is clamped.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError, ValidationInfo

EARLIEST = datetime(1970, 1, 1, tzinfo=timezone.utc)
LATEST = datetime(9000, 1, 1, tzinfo=timezone.utc)
SHORTEST = 1.0  # seconds of a duration
LENIENT = {"lenient": True}  # validation context of stored documents and of responses

_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_ANY: TypeAdapter[datetime] = TypeAdapter(datetime)
_EXPECTED = "must be a time with its offset (RFC 3339), such as 2026-03-01T12:00:00Z"


def within_range(time: datetime) -> datetime:
    """Returns `time`, or the closest time from `EARLIEST` to `LATEST`."""
    return min(max(time, EARLIEST), LATEST)


def from_posix(seconds: float) -> datetime:
    """Returns the time of POSIX seconds in UTC, or the closest one from `EARLIEST` to `LATEST`."""
    if not seconds > EARLIEST.timestamp():  # NaN included
        return EARLIEST
    return LATEST if seconds >= LATEST.timestamp() else datetime.fromtimestamp(seconds, timezone.utc)


def _is_lenient(info: ValidationInfo) -> bool:
    return bool(info.context and info.context.get("lenient"))


def _parse(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, datetime):
        return value
    if not _is_lenient(info) and not (isinstance(value, str) and _RFC_3339.fullmatch(value)):
        raise ValueError(_EXPECTED)
    # In strict mode the field accepts no text after a validator that runs before it.
    try:
        return _ANY.validate_python(value)
    except ValidationError as error:
        raise ValueError(_EXPECTED) from error


def _check(time: datetime, info: ValidationInfo) -> datetime:
    if _is_lenient(info):
        return within_range(time if time.utcoffset() is not None else time.replace(tzinfo=timezone.utc))
    if time.utcoffset() is None:
        raise ValueError(_EXPECTED)
    if not EARLIEST <= time < LATEST:
        raise ValueError(f'must lie from the year {EARLIEST.year} to {LATEST.year - 1}; for "never" leave it out')
    return time


Time = Annotated[datetime, BeforeValidator(_parse), AfterValidator(_check)]


def _check_length(seconds: float, info: ValidationInfo) -> float:
    if seconds < SHORTEST and not _is_lenient(info):
        raise ValueError(f"must be at least {SHORTEST:g} second")
    return seconds


# Duration of a repeated step. Near zero, the step would be due again as soon as it ends.
Seconds = Annotated[float, AfterValidator(_check_length), Field(json_schema_extra={"minimum": SHORTEST})]
