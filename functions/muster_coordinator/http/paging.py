"""Parses the query parameters of routes that return a list, or one item of it."""

from __future__ import annotations

import re
from datetime import datetime

from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.http.routing import RoutedRequest

MAX_PAGE = 1000  # items
_LIMIT_DIGITS = 4  # digits of `MAX_PAGE`
_FIRST_YEAR = 1970


def after(call: RoutedRequest, *, pattern: re.Pattern[str]) -> str | None:
    """Returns the query's cursor `after`, or None if there is none.

    Args:
      call: The request.
      pattern: Pattern of an id in the list.

    Raises:
      ProblemError: `invalid_request`, if the cursor does not match `pattern`.
    """
    cursor = call.request.args.get("after")
    if cursor is not None and not pattern.fullmatch(cursor):
        raise ProblemError(ProblemType.INVALID_REQUEST, "after must be the `next` of the previous page")
    return cursor


def limit(call: RoutedRequest, *, default: int) -> int:
    """Returns the query's `limit`, a number of items. Raises `ProblemError` (`invalid_request`)."""
    text = call.request.args.get("limit", str(default))
    if not text.isdecimal() or not text.isascii() or len(text) > _LIMIT_DIGITS or not 1 <= int(text) <= MAX_PAGE:
        raise ProblemError(ProblemType.INVALID_REQUEST, f"limit must be a number from 1 to {MAX_PAGE}")
    return int(text)


def choice(call: RoutedRequest, name: str, values: tuple[str, ...]) -> str:
    """Returns a query parameter with one of `values`, by default the first.

    Raises `ProblemError` (`invalid_request`) for another value.
    """
    value = call.request.args.get(name, values[0])
    if value not in values:
        raise ProblemError(ProblemType.INVALID_REQUEST, f"{name} must be {' or '.join(values)}")
    return value


def since(call: RoutedRequest) -> float | None:
    """Returns the query's `since` in POSIX seconds, or None if there is none.

    Raises:
      ProblemError: `invalid_request`, if it is not an RFC 3339 time with its offset.
    """
    text = call.request.args.get("since")
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None or instant.year < _FIRST_YEAR:
        raise ProblemError(
            ProblemType.INVALID_REQUEST,
            "since must be a time with its offset, such as 2026-03-01T12:00:00Z (a `+` as %2B)",
        )
    return instant.timestamp()
