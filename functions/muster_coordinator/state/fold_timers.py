"""Schedules the fold of a shard before one of its updates is too old, though its chunk is not full."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from muster_coordinator import queued_work
from muster_coordinator.domain.ledger import AgeLimit
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import Collecting
from muster_coordinator.state.platform import Platform

_MAX_TIMERS = 10_000  # that an instance tracks


class FoldTimers:
    """Timers that this instance has set: one at a time for each shard, however many updates arrive.

    A timer covers every update that arrives before it is due. The fold that it triggers sets the next one, for the
    updates that were not too old yet (`rearm`). A lost timer delays a fold until the next tick.
    """

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._lock = threading.Lock()
        self._due: dict[tuple[RoundKey, int], float] = {}

    def arm(self, round_: Collecting, shard: int) -> None:
        """Sets a timer for an update of the shard that was just stored, unless a timer or the deadline covers it."""
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
    """Sets the next timer of a shard for the updates `pending` (name and creation time) that can't be folded yet.

    Updates that are too old already wait for another one to be folded with, whose arrival sets a timer.
    """
    seconds, now = round_.terms.max_update_age, platform.clock.now()
    if pending and not AgeLimit(seconds, now).due(pending.values()):
        _set(platform, round_, shard, due=min(pending.values()) + seconds, now=now)


def _set(platform: Platform, round_: Collecting, shard: int, *, due: float, now: float) -> None:
    # The name is deterministic: several instances that set a timer for the same update enqueue it once.
    platform.enqueue(
        queued_work.fold_shard(round_.key, shard),
        round_.key,
        hint=str(shard),
        once=f"age{round(due * 1000)}",
        delay=max(0.0, due - now),
    )
