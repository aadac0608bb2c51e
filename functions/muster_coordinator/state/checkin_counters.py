"""Counts check-ins by population, hour and outcome, with few writes and no client's name.

An instance adds up in memory, and writes at the end of a request: at most once a second, and each
population's document after a few seconds with enough assignments, or else after a minute. So
an assignment costs at most a fortieth of a write, a waiting client next to nothing, and instances
rarely contend for a document. All writes are increments, so that instances need no agreement. A
write that fails loses its counts, since a repeat could count them twice.

The document has a field for each outcome, and those of a sketch (`domain.client_sketch`) for the
number of distinct clients.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import threading
from collections import Counter, deque
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import NamedTuple

from muster_coordinator.domain import client_sketch, names
from muster_coordinator.domain.keys import KeyRing
from muster_coordinator.ports import StoreError
from muster_coordinator.state.platform import Platform

LOG = logging.getLogger(__name__)
HOUR = 3600.0  # seconds
FLUSH_INTERVAL = 1.0  # least seconds between two flushes of an instance
MIN_PENDING_SECONDS = 5.0  # least seconds between two writes of a population by an instance
MAX_PENDING_SECONDS = 60.0  # seconds after which a population is written in any case
MAX_PENDING = 40  # assignments after which a population is written before that
MAX_POPULATIONS = 1000  # per hour and instance
# Populations without a task, per hour and instance. Anyone may check in to any name, and each costs
# a document.
MAX_UNKNOWN_POPULATIONS = 50
MAX_DOCUMENTS = 8  # that one request writes
MAX_RECENT = 2000  # check-ins that wait to be added up
_MAX_PAIRS = 400  # per write; Firestore allows 500 increments
ASSIGNED = "assigned"
_KEY_LABEL = b"who checked in, for an estimate of the number of clients"


class _Checkin(NamedTuple):
    """A check-in that is not added up yet; see `CheckinCounters.count`."""

    at: float  # POSIX seconds
    population: str
    outcome: str
    known: bool
    identity: str | None


@dataclass
class _Tally:
    """Check-ins of one population in one hour that an instance has counted.

    Attributes:
      known: Whether the population has a task.
      outcomes: Counts that are not written yet.
      pairs: Pairs of the sketch that are not written yet.
      written: Pairs that this instance has written, as bits.
      flushed_at: Time of the last write, in POSIX seconds; None if something is due at once.
    """

    known: bool
    outcomes: Counter[str] = field(default_factory=Counter)
    pairs: set[int] = field(default_factory=set)
    written: int = 0
    flushed_at: float | None = None

    def add(self, outcome: str, pair: int | None) -> None:
        """Counts a check-in, and the pair of its client."""
        self.outcomes[outcome] += 1
        if pair is not None and not self.written >> pair & 1:
            self.pairs.add(pair)

    def is_due(self, now: float) -> bool:
        """Returns whether the counts must be written now."""
        if not self.outcomes and not self.pairs:
            return False
        if self.flushed_at is None:
            return True
        seconds = MIN_PENDING_SECONDS if self.outcomes[ASSIGNED] >= MAX_PENDING else MAX_PENDING_SECONDS
        return not 0 <= now - self.flushed_at < seconds

    def take(self, now: float) -> tuple[dict[str, int], set[int]]:
        """Removes and returns the counts to write: the fields, and the pairs among them."""
        pairs = set(sorted(self.pairs)[:_MAX_PAIRS])
        fields = {**self.outcomes, **{client_sketch.field_of(pair): 1 for pair in pairs}}
        self.outcomes.clear()
        self.pairs -= pairs
        self.written |= sum(1 << pair for pair in pairs)
        self.flushed_at = None if self.pairs else now
        return fields, pairs

    def put_back(self, pairs: set[int]) -> None:
        """Puts back pairs that could not be written. To write one twice does no harm."""
        self.written &= ~sum(1 << pair for pair in pairs)
        self.pairs |= pairs


@dataclass
class CheckinCounters:
    """Counters of an instance, safe for threads.

    Attributes:
      platform: The ports.
      ring: The deployment's keys. The newest hashes identities.
      enabled: Whether check-ins are counted.
    """

    platform: Platform
    _: KW_ONLY
    ring: KeyRing
    enabled: bool = True
    _lock: threading.Lock = field(default_factory=threading.Lock)
    # Added up once a second, since a loop over many takes a third of the time.
    _recent: deque[_Checkin] = field(default_factory=deque)
    _tallies: dict[tuple[int, str], _Tally] = field(default_factory=dict)
    _checked_at: float | None = None
    _failing: bool = False

    def count(self, population: str, outcome: str, *, known: bool, identity: str | None = None) -> None:
        """Counts a check-in, and writes what is due. A store that fails is logged, and no error.

        Args:
          population: The population, as the client names it.
          outcome: `assigned`, a reason to wait, or the type of the problem that refused it.
          known: Whether the outcome shows that the population has a task.
          identity: The client's identity, or None if it was refused.
        """
        if not self.enabled:
            return
        now = self.platform.clock.now()
        self._recent.append(_Checkin(now, population, outcome, known, identity))
        checked_at = self._checked_at
        is_early = checked_at is not None and 0 <= now - checked_at < FLUSH_INTERVAL
        if is_early and len(self._recent) < MAX_RECENT:
            return
        with self._lock:
            self._add_up()
            if is_early or self._checked_at != checked_at:  # another thread was faster
                return
            self._checked_at = now
            due = self._due(now)
        self._write(due, now)

    def flush(self) -> None:
        """Writes all counts, at the end of the process."""
        now = self.platform.clock.now()
        while True:
            with self._lock:
                self._add_up()
                pending = [key for key, tally in self._tallies.items() if tally.outcomes or tally.pairs]
            if not pending or not self._write(pending, now):
                return

    @cached_property
    def _key(self) -> bytes:
        return hmac.digest(self.ring.newest.secret, _KEY_LABEL, hashlib.sha256)

    def _add_up(self) -> None:
        """Adds the recent check-ins to their tallies. Needs the lock."""
        recent = self._recent
        key = self._key if recent else b""  # an instance that serves no client has no key
        while recent:
            at, population, outcome, known, identity = recent.popleft()
            tally = self._tally(int(at // HOUR), population, known=known)
            if tally is None:
                continue
            pair = None
            if identity is not None:
                # The hash stays the same for all hours, so that a day's sketches can be merged. It
                # is not stored.
                text = f"{population}\n{identity}".encode()
                pair = client_sketch.pair_of(hashlib.blake2b(text, key=key, digest_size=8).digest())
            tally.add(outcome, pair)

    def _tally(self, hour: int, population: str, *, known: bool) -> _Tally | None:
        """Returns the tally of a population, or None if there are too many. Needs the lock."""
        tally = self._tallies.get((hour, population))
        if tally is not None:
            tally.known = tally.known or known
            return tally
        limit = MAX_POPULATIONS if known else MAX_UNKNOWN_POPULATIONS
        same_kind = sum(1 for (at, _), other in self._tallies.items() if at == hour and (known or not other.known))
        if same_kind >= limit:
            return None
        tally = self._tallies[hour, population] = _Tally(known)
        return tally

    def _due(self, now: float) -> list[tuple[int, str]]:
        """Returns the tallies to write now, and forgets those of past hours. Needs the lock."""
        hour = int(now // HOUR)
        past = [key for key in self._tallies if key[0] != hour]
        for key in past:
            tally = self._tallies[key]
            tally.flushed_at = None
            if not tally.outcomes and not tally.pairs:
                del self._tallies[key]
        due = [key for key, tally in self._tallies.items() if tally.is_due(now)]
        return sorted(due, key=lambda key: self._tallies[key].flushed_at or 0.0)[:MAX_DOCUMENTS]

    def _write(self, keys: list[tuple[int, str]], now: float) -> bool:
        """Writes tallies. Returns False if a write failed."""
        for key in keys:
            with self._lock:
                tally = self._tallies.get(key)
                fields, pairs = ({}, set[int]()) if tally is None else tally.take(now)
            if tally is None or not fields:
                continue
            hour, population = key
            try:
                self.platform.documents.increment(names.checkins_path(population, hour), fields)
            except StoreError as error:
                with self._lock:
                    tally.put_back(pairs)
                if not self._failing:
                    LOG.warning("Check-ins can't be counted, and some are lost: %s", error)
                self._failing = True
                return False
            self._failing = False
        return True
