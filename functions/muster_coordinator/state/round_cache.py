"""Caches what a check-in reads: a population's tasks, their rounds, and the rounds' counters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from muster.wire.messages import TaskPolicy
from muster_coordinator.concurrency.cache import Cache
from muster_coordinator.concurrency.named_locks import NamedLocks
from muster_coordinator.domain import names, slots
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import Round
from muster_coordinator.domain.tally import Tally
from muster_coordinator.domain.tasks import Task
from muster_coordinator.state.parallel import map_concurrently
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.records import UnreadableError

SHARD_UPDATES = "updates"  # field of a shard's counter: the number of its accepted updates
MAX_CACHED_POPULATIONS = 10_000
MAX_CACHED_ROUNDS = 10_000
LOOKUPS_WHEN_FULL = 1  # per snapshot


@dataclass
class TaskSnapshot:
    """Snapshot of an active task, its round and the round's counters.

    Attributes:
      task: The task.
      round: Its current round, or None before the first.
      tickets: Fields of the round's ticket counters, by counter. The check-in updates them.
      last_update_seen_at: When this instance last saw the number of updates change, in POSIX
        seconds. Another instance may know better.
      full: True once no counter has a free slot.
      lookups: Number of clients that may still be looked up for a slot that they hold already,
        while the round is full. It bounds the cost of check-ins against a full round.
      policy: The task's policy within the plan's floor, once a check-in has computed it.
    """

    task: Task
    round: Round | None
    tickets: list[Mapping[str, int]]
    last_update_seen_at: float
    full: bool = False
    lookups: int = LOOKUPS_WHEN_FULL
    policy: TaskPolicy | None = None

    @cached_property
    def updates(self) -> int:
        """Number of the round's updates at the time of the snapshot."""
        return _updates(self.tickets)


@dataclass(frozen=True, slots=True)
class _SeenCount:
    """A round's number of updates, and when this instance first saw it."""

    updates: int
    seen_at: float  # POSIX seconds


class RoundCache:
    """Cache of open rounds, at most `seconds` old; 0 disables caching (use it for local stores)."""

    def __init__(self, platform: Platform, *, seconds: float) -> None:
        """Creates an empty cache with a TTL of `seconds`."""
        self._platform = platform
        self._seconds = seconds
        self._locks = NamedLocks()
        clock = platform.clock.now
        self._populations: Cache[str, list[TaskSnapshot]] = Cache(
            max_entries=MAX_CACHED_POPULATIONS, ttl=seconds, clock=clock
        )
        self._rounds: Cache[RoundKey, Round | None] = Cache(max_entries=MAX_CACHED_ROUNDS, ttl=seconds, clock=clock)
        self._counts: Cache[RoundKey, _SeenCount] = Cache(max_entries=MAX_CACHED_ROUNDS)

    def of(self, population: str) -> list[TaskSnapshot]:
        """Returns a snapshot of each of the population's tasks that has not ended.

        Concurrent calls for one population are coalesced: one reads, the others share its result.
        Unreadable tasks are omitted.

        Raises:
          UnreadableError: the population has tasks, and none of them can be read.
        """
        if not self._seconds:
            return self._read(population)
        snapshots = self._populations.get(population)
        if snapshots is not None:
            return snapshots
        with self._locks.for_name(population):
            return self._populations.get_or_load(population, lambda: self._read(population))

    def round(self, key: RoundKey) -> Round | None:
        """Returns a round, from the cache if possible, or None."""
        return self._rounds.get_or_load(key, lambda: self._read_round(key))

    def fresh_round(self, key: RoundKey) -> Round | None:
        """Reads a round from the store and caches it."""
        round_ = self._read_round(key)
        self._rounds.put(key, round_)
        return round_

    def _read_round(self, key: RoundKey) -> Round | None:
        record = self._platform.round(key)
        return None if record is None else record.value

    def _read(self, population: str) -> list[TaskSnapshot]:
        members = self._platform.documents.list(names.population_tasks_path(population))
        results = map_concurrently(self._platform, self._snapshot, [member.id for member in members])
        snapshots = [result for result in results if isinstance(result, TaskSnapshot)]
        errors = [result for result in results if isinstance(result, UnreadableError)]
        if errors and not snapshots:
            raise errors[-1]
        return snapshots

    def _snapshot(self, task_name: str) -> TaskSnapshot | UnreadableError | None:
        """Returns a task's snapshot, None if it has ended, or the error if it can't be read."""
        try:
            record = self._platform.tasks.get(names.task_path(task_name))
            if record is None or record.value.ended:
                return None
            task = record.value
            round_ = self.fresh_round(task.current) if task.current is not None else None
        except UnreadableError as error:
            return error
        if round_ is None:
            return TaskSnapshot(task, None, [], last_update_seen_at=self._platform.clock.now())
        tickets = read_tickets(self._platform, round_)
        return TaskSnapshot(task, round_, tickets, last_update_seen_at=self._seen_at(round_.key, _updates(tickets)))

    def _seen_at(self, key: RoundKey, updates: int) -> float:
        """Returns when this instance first saw this number of updates, in POSIX seconds."""
        count = self._counts.get(key)
        if count is None or count.updates != updates:
            count = _SeenCount(updates, self._platform.clock.now())
            self._counts.put(key, count)
        return count.seen_at


def _updates(tickets: list[Mapping[str, int]]) -> int:
    return sum(map(slots.updates, tickets))


def read_tickets(platform: Platform, round_: Round) -> list[Mapping[str, int]]:
    """Returns the fields of each of a round's ticket counters."""
    return _counters(platform, names.tickets_path(round_.key), round_)


def read_shards(platform: Platform, round_: Round) -> list[int]:
    """Returns each shard's count of updates. The counts are hints."""
    return [fields.get(SHARD_UPDATES, 0) for fields in _counters(platform, names.shards_path(round_.key), round_)]


def tally_assignments(platform: Platform, round_: Round) -> Tally:
    """Returns the tally of a round's assignments, by its counters."""
    readers: tuple[Callable[[Platform, Round], list[Any]], ...] = (read_shards, read_tickets)
    updates, tickets = map_concurrently(platform, lambda read: read(platform, round_), readers)
    tally = Tally(reported=sum(updates))
    for fields in tickets:
        tally = tally.plus(Tally(assigned=slots.assigned(fields), failed=slots.failures(fields)))
    return tally


def _counters(platform: Platform, collection: str, round_: Round) -> list[Mapping[str, int]]:
    """Returns the fields of each counter of a collection. A missing counter has none."""
    counters = {document.id: document.data for document in platform.documents.list(collection)}
    return [counters.get(f"{number:04d}", {}) for number in range(round_.terms.shards)]
