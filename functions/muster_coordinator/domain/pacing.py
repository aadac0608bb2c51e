"""Paces clients, which wait long enough to cost little and not so long that a round waits."""

from __future__ import annotations

from muster_coordinator.domain.rounds import Abandoned, Aggregating, Collecting, Committed, Round

DEFAULT_LONGEST_WAIT = 60.0  # seconds; the default of the deployment's setting
_QUIET_DIVISOR = 8  # a client waits at least this fraction of the time since the last update
_MAX_CHECKINS_PER_SECOND = 500  # of all clients that wait for one round


def checkin_delay(
    round_: Round | None,
    *,
    now: float,
    floor: float,
    jitter: float,
    updates: int = 0,
    quiet: float = 0.0,
    longest: float = DEFAULT_LONGEST_WAIT,
) -> float:
    """Returns the seconds until a client should check in again.

    This is half of the time until the next round is expected: a round that ends early is noticed
    early, and a late one costs few requests. Jitter of up to a quarter keeps clients out of step.

    Args:
      round_: The population's open round, or None.
      now: The time, in POSIX seconds.
      floor: The deployment's shortest wait, in seconds.
      jitter: Random number in [0, 1).
      updates: Number of the round's updates, as far as the caller knows.
      quiet: Seconds since the last update, as far as the caller knows.
      longest: The deployment's longest wait, in seconds, before jitter.
    """
    if round_ is None:
        wait = 10 * floor
    else:
        floor = max(floor, round_.terms.cap / _MAX_CHECKINS_PER_SECOND)
        wait = _until_next(round_, now, updates, quiet)
    return bounded_delay(wait, floor=floor, longest=longest, jitter=jitter)


def bounded_delay(seconds: float, *, floor: float, longest: float, jitter: float) -> float:
    """Returns a client's wait within the deployment's bounds, with jitter of up to a quarter.

    Args:
      seconds: Seconds until there may be work.
      floor: The deployment's shortest wait, in seconds.
      longest: The deployment's longest wait, in seconds, before jitter.
      jitter: Random number in [0, 1).
    """
    return min(max(seconds, floor), longest) * (1 + jitter / 4)


def _until_next(round_: Round, now: float, updates: int, quiet: float) -> float:
    terms = round_.terms
    if isinstance(round_, Aggregating):
        return (now - round_.closed_at) / 4
    if isinstance(round_, Committed | Abandoned):  # a driven task is idle, for as long as before
        return (now - round_.ended_at) / 4
    if not isinstance(round_, Collecting) or updates >= terms.goal:
        return 0.0
    elapsed = max(0.0, now - terms.opened_at)
    # Estimates from this round's pace and from the last round's duration. Either may be far too
    # long, and clients that obey it would make it true. So no client waits longer than the round is
    # open.
    estimates = [elapsed * (terms.goal - updates) / updates] if updates else []
    if terms.expected_seconds is not None:
        estimates.append(terms.opened_at + terms.expected_seconds - now)
    remaining = min((estimate for estimate in estimates if estimate > 0), default=0.0)
    # A round that lacks a few updates is estimated as nearly done, however long they take. After a
    # quiet time it is likely to stay quiet for a while.
    return max(min(remaining or elapsed, elapsed) / 2, min(quiet, elapsed) / _QUIET_DIVISOR)
