"""A client asks for work: an assignment while the open round has a slot, else how long to wait and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from coordinator.domain import names, slots
from coordinator.domain.pacing import LONGEST, pause
from coordinator.domain.rounds import Collecting
from coordinator.domain.slots import Ticket
from coordinator.tokens import AssignmentClaims, CookieClaims, Tokens, last_of
from coordinator.use_cases.open_rounds import OpenRounds, Standing
from coordinator.use_cases.plans import Plans
from coordinator.use_cases.pseudonyms import Pseudonyms
from coordinator.use_cases.records import Platform
from muster.wire import encodings
from muster.wire.messages import Assignment, CheckinRequest, CheckinResponse, Download, TaskStatus, Wait, WaitReason

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
class Checkin:
    """The check-in.

    `retry_floor` is the shortest wait in seconds, `longest_wait` the longest; updates of more than `direct_above` bytes go straight to the store.
    """

    platform: Platform
    tokens: Tokens
    plans: Plans
    open_rounds: OpenRounds
    pseudonyms: Pseudonyms
    retry_floor: float
    direct_above: int | None = None
    longest_wait: float = LONGEST

    def __call__(self, population: str, request: CheckinRequest, *, identity: str) -> CheckinResponse:
        """Gives a client work, or tells it to wait.

        A repeat may take a second slot, but not a second contribution: both assignments of one identity name one update.

        Args:
          population: The population that the client belongs to.
          request: What the client sent.
          identity: Who it is, as the deployment establishes it.
        """
        now = self.platform.clock.now()
        standings = self.open_rounds.of(population)
        # Tasks of one population take turns, or the first would starve the others.
        start = int(self.platform.chance.uniform() * len(standings)) if len(standings) > 1 else 0
        contributed = self.tokens.read_cookie(request.cookie, now=now)
        refusals = []
        for standing in standings[start:] + standings[:start]:
            answer = self._try(standing, contributed, identity=identity, now=now)
            if isinstance(answer, Assignment):
                return CheckinResponse(answer=answer)
            refusals.append(answer)
        if not refusals:
            refusals.append(Refusal(WaitReason.NO_TASK, self._pause(None, now)))
        best = min(refusals, key=lambda refusal: _SOONEST.index(refusal.reason))
        return CheckinResponse(answer=Wait(reason=best.reason, retry_after=best.retry_after, cookie=request.cookie))

    def _try(
        self, standing: Standing, contributed: tuple[CookieClaims, ...], *, identity: str, now: float
    ) -> Assignment | Refusal:
        task, round_ = standing.task, standing.round
        last = last_of(task.name, contributed)
        if task.status is TaskStatus.PAUSED:
            return Refusal(WaitReason.TASK_PAUSED, self._pause(None, now))
        too_soon = _too_soon(standing, last, now)
        if too_soon is not None:
            return too_soon
        if task.status is not TaskStatus.ACTIVE or not isinstance(round_, Collecting):
            return Refusal(WaitReason.BETWEEN_ROUNDS, self._pause(standing, now))
        if now < round_.terms.opened_at:
            return Refusal(WaitReason.BETWEEN_ROUNDS, max(self._pause(standing, now), round_.terms.opened_at - now))
        if now >= round_.terms.deadline:
            return Refusal(WaitReason.BETWEEN_ROUNDS, self._pause(standing, now))
        if last is not None and last.key == round_.key:
            return Refusal(WaitReason.ALREADY_IN, self._pause(standing, now))
        return self._offer(standing, round_, contributed, identity=identity, now=now)

    def _offer(
        self,
        standing: Standing,
        round_: Collecting,
        contributed: tuple[CookieClaims, ...],
        *,
        identity: str,
        now: float,
    ) -> Assignment | Refusal:
        # A look costs a call; a round that is known to be full is answered without one.
        if standing.full or not self._any_room(standing, round_, now):
            standing.full = True
            return Refusal(WaitReason.ROUND_FULL, self._pause(standing, now))
        pseudonym = self.pseudonyms.of(round_.key, identity, tickets=standing.tickets)
        if pseudonym is None:
            return Refusal(WaitReason.BETWEEN_ROUNDS, self._pause(standing, now))
        if self._is_done(round_, pseudonym):
            return Refusal(WaitReason.ALREADY_IN, self._pause(standing, now))
        ticket = self._take_slot(standing, round_, now)
        if ticket is None:
            return Refusal(WaitReason.ROUND_FULL, self._pause(standing, now))
        others = tuple(each for each in contributed if each.key.task != round_.key.task)
        return self._assign(standing, round_, ticket, pseudonym=pseudonym, earlier=others, now=now)

    def _is_done(self, round_: Collecting, pseudonym: str) -> bool:
        """Whether the client's update, or its report, is in: another slot would be of no use to it, and missing to others.

        A folded update leaves no trace under its name; of that the cookie tells.
        """
        name = names.update_name(round_.key, names.shard_of(pseudonym, round_.terms.shards), pseudonym)
        return self.platform.blobs.stat(name) is not None

    def _take_slot(self, standing: Standing, round_: Collecting, now: float) -> Ticket | None:
        terms, counters = round_.terms, round_.terms.ticket_counters
        interval = slots.interval_of(now, assignment_seconds=terms.assignment_seconds)
        issued = slots.issued_field(interval)
        start = int(self.platform.chance.uniform() * counters) if counters > 1 else 0
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
            after = self.platform.documents.increment(path, {slots.ISSUED: -1, issued: -1})
            standing.tickets[counter] = {**fields, **after}
        return None

    def _any_room(self, standing: Standing, round_: Collecting, now: float) -> bool:
        return any(self._has_room(standing, counter, round_, now) for counter in range(round_.terms.ticket_counters))

    def _has_room(self, standing: Standing, counter: int, round_: Collecting, now: float) -> bool:
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
        self,
        standing: Standing,
        round_: Collecting,
        ticket: Ticket,
        *,
        pseudonym: str,
        earlier: tuple[CookieClaims, ...],
        now: float,
    ) -> Assignment:
        key, terms = round_.key, round_.terms
        max_bytes = self.plans.rules(terms.plan, allow_non_finite=terms.allow_non_finite).max_bytes
        claims = AssignmentClaims(
            key=key,
            shard=names.shard_of(pseudonym, terms.shards),
            pseudonym=pseudonym,
            ticket=ticket,
            plan=terms.plan,
            expires_at=now + terms.assignment_seconds,
            issued_at=now,
            max_update_bytes=max_bytes,
            separation=standing.task.spec.policy.separation_seconds,
            earlier=earlier,
        )
        return Assignment(
            task=key.task,
            round=key.number,
            token=self.tokens.assignment(claims),
            expires_at=datetime.fromtimestamp(claims.expires_at, UTC),
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

    def _pause(self, standing: Standing | None, now: float) -> float:
        return pause(
            None if standing is None else standing.round,
            now=now,
            floor=self.retry_floor,
            longest=self.longest_wait,
            jitter=self.platform.chance.uniform(),
            updates=0 if standing is None else standing.updates,
            quiet=0.0 if standing is None else now - standing.heard,
        )


def _too_soon(standing: Standing, last: CookieClaims | None, now: float) -> Refusal | None:
    separation = standing.task.spec.policy.separation_seconds
    if last is None or now >= last.contributed_at + separation:
        return None
    return Refusal(WaitReason.TOO_SOON, last.contributed_at + separation - now)
