"""What a check-in has to know, kept for about a second: a population's tasks, their open rounds, how full those are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from muster.wire.messages import TaskPolicy
from muster_coordinator.concurrency.named_locks import NamedLocks
from muster_coordinator.domain import names, slots
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import Round, Tally
from muster_coordinator.domain.tasks import Task
from muster_coordinator.state.parallel import map_concurrently
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.records import UnreadableError

SHARD_UPDATES = "updates"  # the field of a shard's counter: how many updates came in
_KEPT = 10_000  # populations or rounds that an instance remembers
LOOKUPS_WHEN_FULL = 1  # per cached round


@dataclass
class TaskSnapshot:
    """Snapshot of a task.

    `tickets` are the ticket counters' fields, which the check-in updates, and `full` is set once no counter has a slot
    left. `last_update_seen_at` is when this instance last saw an update arrive, in POSIX seconds. `lookups` is how many more clients
    may be looked up for a slot that they hold already, while the round is full: few per snapshot, so that check-ins
    against a full round are cheap. `policy` is the task's policy within the plan's floor, once a check-in has computed
    it.
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
        """How many of the round's updates were in."""
        return _updates(self.tickets)


class RoundCache:
    """Readings of rounds, each kept for `seconds`. With 0 nothing is kept: right where a read costs microseconds."""

    def __init__(self, platform: Platform, *, seconds: float) -> None:
        self._platform = platform
        self._seconds = seconds
        self._lock = threading.Lock()
        self._turns = NamedLocks()
        self._populations: dict[str, tuple[float, list[TaskSnapshot]]] = {}
        self._rounds: dict[RoundKey, tuple[float, Round | None]] = {}
        self._heard: dict[RoundKey, tuple[int, float]] = {}

    def of(self, population: str) -> list[TaskSnapshot]:
        """The population's tasks that can be read. Raises `UnreadableError` if there are some and none can be."""
        if not self._seconds:
            return self._read(population)
        kept = self._kept(population)
        if kept is not None:
            return kept
        with self._turns.of(population):  # one reads, and those who came meanwhile have what it found
            kept = self._kept(population)
            return self._renewed(population) if kept is None else kept

    def _kept(self, population: str) -> list[TaskSnapshot] | None:
        """What was read not long ago."""
        now = self._platform.clock.now()
        with self._lock:
            kept = self._populations.get(population)
        return kept[1] if kept is not None and 0 <= now - kept[0] < self._seconds else None

    def _renewed(self, population: str) -> list[TaskSnapshot]:
        now = self._platform.clock.now()
        found = self._read(population)
        with self._lock:
            if len(self._populations) >= _KEPT:
                self._populations.clear()
            self._populations[population] = (now, found)
        return found

    def round(self, key: RoundKey) -> Round | None:
        """A round."""
        now = self._platform.clock.now()
        with self._lock:
            kept = self._rounds.get(key)
        if kept is not None and 0 <= now - kept[0] < self._seconds:
            return kept[1]
        return self.fresh_round(key)

    def fresh_round(self, key: RoundKey) -> Round | None:
        """A round as it is now."""
        found = self._platform.round(key)
        value = None if found is None else found.value
        with self._lock:
            if len(self._rounds) >= _KEPT:
                self._rounds.clear()
            self._rounds[key] = (self._platform.clock.now(), value)
        return value

    def _read(self, population: str) -> list[TaskSnapshot]:
        members = self._platform.documents.list(names.population_tasks_path(population))
        found = map_concurrently(self._platform, self._standing, [member.id for member in members])
        standings = [each for each in found if isinstance(each, TaskSnapshot)]
        unread = [each for each in found if isinstance(each, UnreadableError)]
        if unread and not standings:
            raise unread[-1]
        return standings

    def _standing(self, task_name: str) -> TaskSnapshot | UnreadableError | None:
        """How a task stands; None of one that has ended, and why not of one that can't be read: the others go on."""
        try:
            found = self._platform.tasks.get(names.task_path(task_name))
            if found is None or found.value.ended:
                return None
            task = found.value
            round_ = self.fresh_round(task.current) if task.current is not None else None
        except UnreadableError as error:
            return error
        if round_ is None:
            return TaskSnapshot(task, None, [], last_update_seen_at=self._platform.clock.now())
        tickets = read_tickets(self._platform, round_)
        return TaskSnapshot(task, round_, tickets, last_update_seen_at=self._heard_of(round_.key, _updates(tickets)))

    def _heard_of(self, key: RoundKey, updates: int) -> float:
        """When the round's updates were first seen to be so many."""
        with self._lock:
            known = self._heard.get(key)
            if known is None or known[0] != updates:
                if len(self._heard) >= _KEPT:
                    self._heard.clear()
                known = self._heard[key] = (updates, self._platform.clock.now())
            return known[1]


def _updates(tickets: list[Mapping[str, int]]) -> int:
    return sum(map(slots.updates, tickets))


def read_tickets(platform: Platform, round_: Round) -> list[Mapping[str, int]]:
    """The fields of a round's ticket counters."""
    return _counters(platform, names.tickets_path(round_.key), round_)


def read_shards(platform: Platform, round_: Round) -> list[int]:
    """How many updates each shard's counter says there are: a hint."""
    return [fields.get(SHARD_UPDATES, 0) for fields in _counters(platform, names.shards_path(round_.key), round_)]


def tally_assignments(platform: Platform, round_: Round) -> Tally:
    """What the counters say of a round's assignments."""
    readers: tuple[Callable[[Platform, Round], list[Any]], ...] = (read_shards, read_tickets)
    updates, tickets = map_concurrently(platform, lambda read: read(platform, round_), readers)
    tally = Tally(reported=sum(updates))
    for fields in tickets:
        tally = tally.plus(Tally(assigned=slots.assigned(fields), failed=slots.failures(fields)))
    return tally


def _counters(platform: Platform, collection: str, round_: Round) -> list[Mapping[str, int]]:
    """The fields of a collection's counters, by their numbers, in one call; those that nobody has counted with have none."""
    found = {document.id: document.data for document in platform.documents.list(collection)}
    return [found.get(f"{number:04d}", {}) for number in range(round_.terms.shards)]
