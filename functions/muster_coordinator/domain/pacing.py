"""How long a client waits before it asks again: long enough to cost little, short enough that no round waits for it."""

from __future__ import annotations

from muster_coordinator.domain.rounds import Aggregating, Collecting, Round

LONGEST = 60.0  # seconds, where a deployment does not say otherwise
_QUIET = 8  # a client asks again no sooner than after this part of the time in which no update came in
_PER_SECOND = 500  # check-ins a second that a round's waiting clients may make in all


def pause(
    round_: Round | None,
    *,
    now: float,
    floor: float,
    jitter: float,
    updates: int = 0,
    quiet: float = 0.0,
    longest: float = LONGEST,
) -> float:
    """Seconds until a client should check in again.

    Half of the time until the next round is expected (so that a round which ends early is seen early, and one that is late
    costs few requests), at least `floor`, and spread by up to a quarter, so that clients do not come in step.

    Args:
      round_: The population's open round; None if there is none.
      now: POSIX seconds.
      floor: The shortest pause of this deployment, in seconds.
      jitter: In [0, 1).
      updates: How many of the round's updates are in, as far as the caller knows.
      quiet: For how many seconds none has come in, as far as the caller knows.
      longest: The longest pause of this deployment, in seconds, before it is spread.
    """
    if round_ is None:
        wait = 10 * floor
    else:
        floor = max(floor, round_.terms.cap / _PER_SECOND)
        wait = _until_next(round_, now, updates, quiet)
    return min(max(wait, floor), longest) * (1 + jitter / 4)


def _until_next(round_: Round, now: float, updates: int, quiet: float) -> float:
    terms = round_.terms
    if isinstance(round_, Aggregating):
        return (now - round_.closed_at) / 4
    if not isinstance(round_, Collecting) or updates >= terms.goal:
        return 0.0
    elapsed = max(0.0, now - terms.opened_at)
    # What this round has shown so far, and what the last one took. Either may be far too long, and clients that believe it would
    # make it come true; so nobody waits longer than the round has been open.
    guesses = [elapsed * (terms.goal - updates) / updates] if updates else []
    if terms.expected_seconds is not None:
        guesses.append(terms.opened_at + terms.expected_seconds - now)
    ahead = min((guess for guess in guesses if guess > 0), default=0.0)
    # A round that waits for its last few looks nearly done for as long as they take: what has been quiet stays so for a while.
    return max(min(ahead or elapsed, elapsed) / 2, min(quiet, elapsed) / _QUIET)
