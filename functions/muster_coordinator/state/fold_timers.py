"""Schedules the fold of a shard whose chunk is not full, before one of its updates gets too old."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from muster_coordinator import queued_work
from muster_coordinator.concurrency.cache import Cache
from muster_coordinator.domain.ledger import AgeLimit
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import Collecting
from muster_coordinator.state.platform import Platform

MAX_CACHED_TIMERS = 10_000


class FoldTimers:
    """Timers that this instance has set: one at a time for each shard, however many updates arrive.

    A timer covers every update that arrives before it is due. The fold that it triggers sets the
    next one, for the updates that were not too old yet (`rearm`). A lost timer delays a fold until
    the next tick.
    """

    def __init__(self, platform: Platform) -> None:
        """Creates the timers of an instance; none is set."""
        self._platform = platform
        self._lock = threading.Lock()
        self._due: Cache[tuple[RoundKey, int], float] = Cache(max_entries=MAX_CACHED_TIMERS)  # POSIX seconds

    def arm(self, round_: Collecting, shard: int) -> None:
        """Sets a timer for an update that was just stored, unless one or the deadline covers it.

        Args:
          round_: The round.
          shard: The update's shard.
        """
        seconds, now = round_.terms.max_update_age, self._platform.clock.now()
        timer = (round_.key, shard)
        with self._lock:
            due = self._due.get(timer)
            if round_.terms.deadline <= now + seconds or (due is not None and now < due <= now + seconds):
                return
            self._due.put(timer, now + seconds)
        try:
            _set(self._platform, round_, shard, due=now + seconds, now=now)
        except BaseException:
            self._due.discard(timer)
            raise


def rearm(platform: Platform, round_: Collecting, shard: int, pending: Mapping[str, float]) -> None:
    """Sets the next timer of a shard, for updates that can't be folded yet.

    No timer is set for updates that are too old already: they wait for another update to be folded
    with, whose arrival sets a timer.

    Args:
      platform: The ports.
      round_: The round.
      shard: The shard.
      pending: The updates by name, with creation times in POSIX seconds.
    """
    seconds, now = round_.terms.max_update_age, platform.clock.now()
    if pending and not AgeLimit(seconds, now).due(pending.values()):
        _set(platform, round_, shard, due=min(pending.values()) + seconds, now=now)


def _set(platform: Platform, round_: Collecting, shard: int, *, due: float, now: float) -> None:
    # The name is deterministic: instances that set a timer for the same update enqueue it once.
    platform.enqueue(
        queued_work.fold_shard(round_.key, shard),
        round_.key,
        hint=str(shard),
        once=f"age{round(due * 1000)}",
        delay=max(0.0, due - now),
    )
