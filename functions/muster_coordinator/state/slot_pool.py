"""The slots that an open round may still assign, counted in the round's ticket counters."""

from __future__ import annotations

from dataclasses import dataclass

from muster_coordinator.domain import names, slots
from muster_coordinator.domain.rounds import Collecting
from muster_coordinator.domain.slots import Ticket
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.round_cache import TaskSnapshot


@dataclass(frozen=True)
class SlotPool:
    """Pool of the slots of one open round at the time `now` (POSIX seconds).

    It reads the counters of a cached snapshot, and updates them there with each slot.
    """

    platform: Platform
    snapshot: TaskSnapshot
    round: Collecting
    now: float

    def has_room(self) -> bool:
        """Returns whether any counter had a free slot when it was last read."""
        return any(self._has_room(counter) for counter in range(self.round.terms.ticket_counters))

    def take(self) -> Ticket | None:
        """Reserves and returns a slot, or returns None if the round is full.

        Starts at a random counter, to spread the writes.
        """
        counters = self.round.terms.ticket_counters
        start = int(self.platform.randomness.uniform() * counters) if counters > 1 else 0
        for step in range(counters):
            counter = (start + step) % counters
            if self._has_room(counter) and (ticket := self._take_from(counter)) is not None:
                return ticket
        return None

    def release(self, ticket: Ticket) -> None:
        """Releases a slot for which no assignment was issued."""
        by = {slots.ISSUED: -1, slots.issued_field(ticket.interval): -1}
        after = self.platform.documents.increment(names.ticket_path(self.round.key, ticket.counter), by)
        self.snapshot.tickets[ticket.counter] = {**self.snapshot.tickets[ticket.counter], **after}

    def _take_from(self, counter: int) -> Ticket | None:
        interval = slots.interval_of(self.now, assignment_seconds=self.round.terms.assignment_seconds)
        issued = slots.issued_field(interval)
        fields = self.snapshot.tickets[counter]
        limit = self._limit(counter)
        path = names.ticket_path(self.round.key, counter)
        after = self.platform.documents.increment(path, {slots.ISSUED: 1, issued: 1})
        if after[slots.ISSUED] <= limit:
            self.snapshot.tickets[counter] = {**fields, **after}
            return Ticket(counter, interval)
        # Concurrent check-ins took the last slots. Without the release, the counter would stay too
        # high.
        self.release(Ticket(counter, interval))
        return None

    def _has_room(self, counter: int) -> bool:
        return slots.assigned(self.snapshot.tickets[counter]) < self._limit(counter)

    def _limit(self, counter: int) -> int:
        terms = self.round.terms
        return slots.limit(
            self.snapshot.tickets[counter],
            counter,
            cap=terms.cap,
            counters=terms.ticket_counters,
            now=self.now,
            assignment_seconds=terms.assignment_seconds,
        )
