"""Timers that have a shard folded before one of its updates is too old, though its chunk is not full."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from coordinator.domain.ledger import AgeLimit
from coordinator.domain.names import RoundKey
from coordinator.domain.rounds import Collecting
from coordinator.use_cases import work
from coordinator.use_cases.records import Platform

_MAX_TIMERS = 10_000  # of which an instance knows


class FoldTimers:
    """The timers that this instance has set: one at a time for each shard, however many updates arrive.

    A timer that is set covers every update that arrives before it is due. The fold that it calls for sets the next one, for what was
    not too old yet (`rearm`). A timer that gets lost costs time until the next tick.
    """

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._lock = threading.Lock()
        self._due: dict[tuple[RoundKey, int], float] = {}

    def arm(self, round_: Collecting, shard: int) -> None:
        """Has an update of the shard that was just stored folded in time, unless a timer or the deadline does so anyway."""
        seconds, now = round_.terms.max_update_age, self._platform.clock.now()
        timer = (round_.key, shard)
        with self._lock:
            known = self._due.get(timer)
            if round_.terms.deadline <= now + seconds or (known is not None and now < known <= now + seconds):
                return
            if len(self._due) >= _MAX_TIMERS:
                self._due.clear()
            self._due[timer] = now + seconds
        try:
            _set(self._platform, round_, shard, due=now + seconds, now=now)
        except BaseException:
            with self._lock:
                self._due.pop(timer, None)
            raise


def rearm(platform: Platform, round_: Collecting, shard: int, pending: Mapping[str, float]) -> None:
    """Sets the next timer of a shard, in which the updates `pending` are stored since the given times and could not be folded yet.

    Updates that are too old already wait for another one to be folded with, whose arrival sets a timer.
    """
    seconds, now = round_.terms.max_update_age, platform.clock.now()
    if pending and not AgeLimit(seconds, now).due(pending.values()):
        _set(platform, round_, shard, due=min(pending.values()) + seconds, now=now)


def _set(platform: Platform, round_: Collecting, shard: int, *, due: float, now: float) -> None:
    # Several that set a timer for the same update name it alike.
    platform.enqueue(
        work.fold_shard(round_.key, shard),
        round_.key,
        hint=str(shard),
        once=f"age{round(due * 1000)}",
        delay=max(0.0, due - now),
    )
