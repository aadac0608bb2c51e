"""A client asks for work: an assignment while the open round has a slot, else how long to wait and why."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from muster.wire import encodings
from muster.wire.messages import (
    Assignment,
    CheckinRequest,
    CheckinResponse,
    Download,
    TaskPolicy,
    TaskStatus,
    Wait,
    WaitReason,
)
from muster.wire.problems import ProblemError
from muster_coordinator.domain import names, slots
from muster_coordinator.domain.pacing import LONGEST, pause
from muster_coordinator.domain.release import effective_minimum, effective_policy
from muster_coordinator.domain.rounds import Collecting
from muster_coordinator.domain.slots import Ticket
from muster_coordinator.state.plan_repository import PlanRepository
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.pseudonyms import Pseudonymizer
from muster_coordinator.state.round_cache import RoundCache, TaskSnapshot
from muster_coordinator.state.slot_holders import HeldSlot, SlotHolders
from muster_coordinator.tokens import AssignmentClaims, CookieClaims, Tokens, last_of, last_that_separates

LOG = logging.getLogger(__name__)

# Of several tasks that have no work for a client, the one that will have some soonest speaks.
_SOONEST = (
    WaitReason.ROUND_FULL,
    WaitReason.BETWEEN_ROUNDS,
    WaitReason.ALREADY_IN,
    WaitReason.TOO_SOON,
    WaitReason.TASK_PAUSED,
    WaitReason.NO_TASK,
)


@dataclass(frozen=True)
class Refusal:
    """Why a task has no work for a client, and how long that will last (seconds)."""

    reason: WaitReason
    retry_after: float


@dataclass(frozen=True)
class _Visitor:
    """Client that checks in.

    Attributes:
      identity: Its identity.
      contributed: The claims of its cookie.
      separation: The longest separation of the population's tasks, in seconds.
      now: POSIX seconds.
    """

    identity: str
    contributed: tuple[CookieClaims, ...]
    separation: float
    now: float


@dataclass(frozen=True)
class AssignmentIssuer:
    """The check-in.

    `retry_floor` is the shortest wait in seconds, `longest_wait` the longest; updates of more than `direct_above` bytes go straight to the store.
    """

    platform: Platform
    tokens: Tokens
    plans: PlanRepository
    open_rounds: RoundCache
    pseudonyms: Pseudonymizer
    retry_floor: float
    direct_above: int | None = None
    longest_wait: float = LONGEST

    def __call__(self, population: str, request: CheckinRequest, *, identity: str) -> CheckinResponse:
        """Assigns work to a client, or answers with a wait.

        A repeat returns the same slot and assignment until that assignment expires.

        Args:
          population: The population that the client belongs to.
          request: The client's request.
          identity: The client's identity, as the deployment establishes it.
        """
        now = self.platform.clock.now()
        standings = self.open_rounds.of(population)
        # Tasks of one population take turns, or the first would starve the others.
        start = int(self.platform.randomness.uniform() * len(standings)) if len(standings) > 1 else 0
        visitor = _Visitor(
            identity=identity,
            contributed=self.tokens.read_cookie(request.cookie, now=now),
            separation=max((self._separation(standing) for standing in standings), default=0.0),
            now=now,
        )
        refusals = []
        for standing in standings[start:] + standings[:start]:
            answer = self._try(standing, visitor)
            if isinstance(answer, Assignment):
                return CheckinResponse(answer=answer)
            refusals.append(answer)
        if not refusals:
            refusals.append(Refusal(WaitReason.NO_TASK, self._pause(None, now)))
        best = min(refusals, key=lambda refusal: _SOONEST.index(refusal.reason))
        return CheckinResponse(answer=Wait(reason=best.reason, retry_after=best.retry_after, cookie=request.cookie))

    def _separation(self, standing: TaskSnapshot) -> float:
        policy = self._policy(standing)
        return 0.0 if policy is None else policy.separation_seconds

    def _policy(self, standing: TaskSnapshot) -> TaskPolicy | None:
        """Returns the task's policy within its plan's floor; None if the plan can't be read. Other tasks proceed."""
        if standing.policy is None:
            task = standing.task
            try:
                standing.policy = effective_policy(task.spec.policy, self.plans.manifest(task.spec.plan))
            except ProblemError as problem:
                LOG.warning("task %s: its clients wait, because its plan can't be read: %s", task.name, problem)
        return standing.policy

    def _try(self, standing: TaskSnapshot, visitor: _Visitor) -> Assignment | Refusal:
        task, round_, now = standing.task, standing.round, visitor.now
        policy = self._policy(standing)
        if task.status is TaskStatus.PAUSED:
            return Refusal(WaitReason.TASK_PAUSED, self._pause(None, now))
        if policy is None:
            return Refusal(WaitReason.BETWEEN_ROUNDS, self._pause(standing, now))
        too_soon = _too_soon(task.name, policy.separation_seconds, visitor)
        if too_soon is not None:
            return too_soon
        if (
            task.status is not TaskStatus.ACTIVE
            or not isinstance(round_, Collecting)
            # Such a round can't be committed; see `Committing`.
            or round_.terms.plan != task.spec.plan
        ):
            return Refusal(WaitReason.BETWEEN_ROUNDS, self._pause(standing, now))
        if now < round_.terms.opened_at:
            return Refusal(WaitReason.BETWEEN_ROUNDS, max(self._pause(standing, now), round_.terms.opened_at - now))
        if now >= round_.terms.deadline:
            return Refusal(WaitReason.BETWEEN_ROUNDS, self._pause(standing, now))
        last = last_of(task.name, visitor.contributed)
        if last is not None and last.key == round_.key:
            return Refusal(WaitReason.ALREADY_IN, self._pause(standing, now))
        return self._offer(standing, round_, visitor)

    def _offer(self, standing: TaskSnapshot, round_: Collecting, visitor: _Visitor) -> Assignment | Refusal:
        now = visitor.now
        full = standing.full or not self._any_room(standing, round_, now)
        if full and not standing.lookups:
            # A look-up costs a store call, so a round that is known to be full is answered without one.
            standing.full = True
            return Refusal(WaitReason.ROUND_FULL, self._pause(standing, now))
        pseudonym = self.pseudonyms.of(round_.key, visitor.identity, tickets=standing.tickets)
        if pseudonym is None:
            return Refusal(WaitReason.BETWEEN_ROUNDS, self._pause(standing, now))
        held = self._holders.find(round_.key, pseudonym.name, assignment_seconds=round_.terms.assignment_seconds)
        # A client without a slot has nothing in the round, unless a version without holders may have assigned slots
        # too.
        if (held is not None or not pseudonym.salted) and self._is_done(round_, pseudonym.name):
            return Refusal(WaitReason.ALREADY_IN, self._pause(standing, now))
        if held is None or not held.is_valid(now, assignment_seconds=round_.terms.assignment_seconds):
            if full:
                standing.lookups -= 1
                standing.full = True
                return Refusal(WaitReason.ROUND_FULL, self._pause(standing, now))
            held = self._new_slot(standing, round_, pseudonym.name, before=held, now=now)
        if held is None:
            return Refusal(WaitReason.ROUND_FULL, self._pause(standing, now))
        return self._assign(standing, round_, held, pseudonym=pseudonym.name, visitor=visitor)

    @cached_property
    def _holders(self) -> SlotHolders:
        return SlotHolders(self.platform.documents)

    def _is_done(self, round_: Collecting, pseudonym: str) -> bool:
        """Returns whether the client's update or report is stored, so that a slot would be wasted on it.

        A folded update leaves no trace under its name; the cookie records it.
        """
        name = names.update_name(round_.key, names.shard_of(pseudonym, round_.terms.shards), pseudonym)
        return self.platform.blobs.stat(name) is not None

    def _new_slot(
        self, standing: TaskSnapshot, round_: Collecting, pseudonym: str, *, before: HeldSlot | None, now: float
    ) -> HeldSlot | None:
        """Takes and records a slot, or returns the one that a concurrent check-in of the client recorded, or None."""
        ticket = self._take_slot(standing, round_, now)
        if ticket is None:
            return None
        taken = HeldSlot(ticket, issued_at=now)
        held = self._holders.record(
            round_.key,
            pseudonym,
            taken,
            before=before,
            now=now,
            assignment_seconds=round_.terms.assignment_seconds,
        )
        if held is not taken:
            self._give_back(standing, round_, ticket)
        return held

    def _give_back(self, standing: TaskSnapshot, round_: Collecting, ticket: Ticket) -> None:
        by = {slots.ISSUED: -1, slots.issued_field(ticket.interval): -1}
        after = self.platform.documents.increment(names.ticket_path(round_.key, ticket.counter), by)
        standing.tickets[ticket.counter] = {**standing.tickets[ticket.counter], **after}

    def _take_slot(self, standing: TaskSnapshot, round_: Collecting, now: float) -> Ticket | None:
        terms, counters = round_.terms, round_.terms.ticket_counters
        interval = slots.interval_of(now, assignment_seconds=terms.assignment_seconds)
        issued = slots.issued_field(interval)
        start = int(self.platform.randomness.uniform() * counters) if counters > 1 else 0
        for step in range(counters):
            counter = (start + step) % counters
            if not self._has_room(standing, counter, round_, now):
                continue
            fields = standing.tickets[counter]
            limit = self._limit(fields, counter, round_, now)
            path = names.ticket_path(round_.key, counter)
            after = self.platform.documents.increment(path, {slots.ISSUED: 1, issued: 1})
            if after[slots.ISSUED] <= limit:
                standing.tickets[counter] = {**fields, **after}
                return Ticket(counter, interval)
            # Others were faster. The one is taken back, so that a slot which comes free later is found.
            self._give_back(standing, round_, Ticket(counter, interval))
        return None

    def _any_room(self, standing: TaskSnapshot, round_: Collecting, now: float) -> bool:
        return any(self._has_room(standing, counter, round_, now) for counter in range(round_.terms.ticket_counters))

    def _has_room(self, standing: TaskSnapshot, counter: int, round_: Collecting, now: float) -> bool:
        """Whether a counter had a slot when it was last read."""
        fields = standing.tickets[counter]
        return slots.assigned(fields) < self._limit(fields, counter, round_, now)

    def _limit(self, fields: Mapping[str, int], counter: int, round_: Collecting, now: float) -> int:
        terms = round_.terms
        return slots.limit(
            fields,
            counter,
            cap=terms.cap,
            counters=terms.ticket_counters,
            now=now,
            assignment_seconds=terms.assignment_seconds,
        )

    def _assign(
        self, standing: TaskSnapshot, round_: Collecting, held: HeldSlot, *, pseudonym: str, visitor: _Visitor
    ) -> Assignment:
        key, terms = round_.key, round_.terms
        minimum = effective_minimum(terms, self.plans.manifest(terms.plan))
        max_bytes = self.plans.rules(terms.plan, allow_non_finite=terms.allow_non_finite).max_bytes
        claims = AssignmentClaims(
            key=key,
            shard=names.shard_of(pseudonym, terms.shards),
            pseudonym=pseudonym,
            ticket=held.ticket,
            plan=terms.plan,
            expires_at=held.issued_at + terms.assignment_seconds,
            issued_at=held.issued_at,
            max_update_bytes=max_bytes,
            # Another task may have a longer separation, and counts this contribution too.
            separation=visitor.separation if self._separation(standing) else 0.0,
            earlier=tuple(each for each in visitor.contributed if each.key.task != key.task),
        )
        return Assignment(
            task=key.task,
            round=key.number,
            token=self.tokens.assignment(claims),
            expires_at=datetime.fromtimestamp(claims.expires_at, UTC),
            seconds=claims.expires_at - visitor.now,
            goal=max(terms.goal, minimum),
            minimum=minimum,
            plan=Download(url=f"/v1/plans/{terms.plan}", sha256=terms.plan, size=self.plans.client_size(terms.plan)),
            broadcast=Download(
                url=f"/v1/tasks/{key.task}/rounds/{key.number}/broadcast?sha256={terms.broadcast.sha256}",
                sha256=terms.broadcast.sha256,
                size=terms.broadcast.size,
            ),
            max_update_bytes=max_bytes,
            direct_above=self.direct_above,
            update_encodings=encodings.available(),
            allow_non_finite=terms.allow_non_finite,
            sums_in_the_clear=terms.sums_in_the_clear,
        )

    def _pause(self, standing: TaskSnapshot | None, now: float) -> float:
        return pause(
            None if standing is None else standing.round,
            now=now,
            floor=self.retry_floor,
            longest=self.longest_wait,
            jitter=self.platform.randomness.uniform(),
            updates=0 if standing is None else standing.updates,
            quiet=0.0 if standing is None else now - standing.last_update_seen_at,
        )


def _too_soon(task: str, separation: float, visitor: _Visitor) -> Refusal | None:
    """Returns the refusal by a task with a separation, which counts contributions to all tasks with a separation."""
    last = last_that_separates(task, visitor.contributed) if separation else None
    if last is None or visitor.now >= last.contributed_at + separation:
        return None
    return Refusal(WaitReason.TOO_SOON, last.contributed_at + separation - visitor.now)
