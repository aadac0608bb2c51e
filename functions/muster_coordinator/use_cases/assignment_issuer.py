"""The assignment issuer answers a check-in with an assignment, or a wait if no slot is free."""

from __future__ import annotations

import logging
from dataclasses import KW_ONLY, dataclass
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
from muster_coordinator.domain import names
from muster_coordinator.domain.pacing import DEFAULT_LONGEST_WAIT, checkin_delay
from muster_coordinator.domain.release import effective_minimum, effective_policy
from muster_coordinator.domain.rounds import Collecting
from muster_coordinator.state.plan_repository import PlanRepository
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.pseudonyms import Pseudonymizer
from muster_coordinator.state.round_cache import RoundCache, TaskSnapshot
from muster_coordinator.state.slot_holders import HeldSlot, SlotHolders
from muster_coordinator.state.slot_pool import SlotPool
from muster_coordinator.tokens import (
    AssignmentClaims,
    CookieClaims,
    Tokens,
    last_contribution_to,
    last_separating_contribution,
)

LOG = logging.getLogger(__name__)

# Reasons to wait, soonest end first. The response contains the reason of the task that will have
# work soonest.
_BY_URGENCY = (
    WaitReason.ROUND_FULL,
    WaitReason.BETWEEN_ROUNDS,
    WaitReason.ALREADY_IN,
    WaitReason.TOO_SOON,
    WaitReason.TASK_PAUSED,
    WaitReason.NO_TASK,
)


@dataclass(frozen=True)
class Refusal:
    """Refusal of a client by one task: the reason, and the time until the next check-in."""

    reason: WaitReason
    retry_after: float  # seconds


@dataclass(frozen=True)
class _Client:
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
    """Issuer of assignments.

    Attributes:
      retry_floor: The shortest wait, in seconds.
      longest_wait: The longest wait before jitter, in seconds.
      direct_above: Clients upload updates of more bytes directly to the store; None disables this.
    """

    platform: Platform
    _: KW_ONLY
    tokens: Tokens
    plans: PlanRepository
    open_rounds: RoundCache
    pseudonyms: Pseudonymizer
    retry_floor: float
    direct_above: int | None = None
    longest_wait: float = DEFAULT_LONGEST_WAIT

    def check_in(self, population: str, request: CheckinRequest, *, identity: str) -> CheckinResponse:
        """Assigns work to a client, or returns a wait.

        A repeat returns the same slot and assignment until that assignment expires.

        Args:
          population: The population that the client belongs to.
          request: The client's request.
          identity: The client's identity, as the deployment establishes it.
        """
        now = self.platform.clock.now()
        snapshots = self.open_rounds.of(population)
        # The first task is random, or it would starve the others.
        start = int(self.platform.randomness.uniform() * len(snapshots)) if len(snapshots) > 1 else 0
        client = _Client(
            identity=identity,
            contributed=self.tokens.read_cookie(request.cookie, now=now),
            separation=max((self._separation(snapshot) for snapshot in snapshots), default=0.0),
            now=now,
        )
        refusals = []
        for snapshot in snapshots[start:] + snapshots[:start]:
            answer = self._offer_task(snapshot, client)
            if isinstance(answer, Assignment):
                return CheckinResponse(answer=answer)
            refusals.append(answer)
        if not refusals:
            refusals.append(Refusal(WaitReason.NO_TASK, self._wait_seconds(None, now)))
        soonest = min(refusals, key=lambda refusal: _BY_URGENCY.index(refusal.reason))
        return CheckinResponse(
            answer=Wait(reason=soonest.reason, retry_after=soonest.retry_after, cookie=request.cookie)
        )

    def _separation(self, snapshot: TaskSnapshot) -> float:
        policy = self._policy(snapshot)
        return 0.0 if policy is None else policy.separation_seconds

    def _policy(self, snapshot: TaskSnapshot) -> TaskPolicy | None:
        """Returns the task's policy within its plan's floor, or None if the plan can't be read.

        Then only this task's clients wait.
        """
        if snapshot.policy is None:
            task = snapshot.task
            try:
                snapshot.policy = effective_policy(task.spec.policy, self.plans.manifest(task.spec.plan))
            except ProblemError as problem:
                LOG.warning("task %s: its clients wait, because its plan can't be read: %s", task.name, problem)
        return snapshot.policy

    def _offer_task(self, snapshot: TaskSnapshot, client: _Client) -> Assignment | Refusal:
        """Returns an assignment of the task, or the reason for its refusal."""
        task, round_, now = snapshot.task, snapshot.round, client.now
        policy = self._policy(snapshot)
        if task.status is TaskStatus.PAUSED:
            return Refusal(WaitReason.TASK_PAUSED, self._wait_seconds(None, now))
        if policy is None:
            return Refusal(WaitReason.BETWEEN_ROUNDS, self._wait_seconds(snapshot, now))
        too_soon = _too_soon(task.name, policy.separation_seconds, client)
        if too_soon is not None:
            return too_soon
        if (
            task.status is not TaskStatus.ACTIVE
            or not isinstance(round_, Collecting)
            # Such a round can't be committed; see `RoundCommitter`.
            or round_.terms.plan != task.spec.plan
        ):
            return Refusal(WaitReason.BETWEEN_ROUNDS, self._wait_seconds(snapshot, now))
        if now < round_.terms.opened_at:
            return Refusal(
                WaitReason.BETWEEN_ROUNDS, max(self._wait_seconds(snapshot, now), round_.terms.opened_at - now)
            )
        if now >= round_.terms.deadline:
            return Refusal(WaitReason.BETWEEN_ROUNDS, self._wait_seconds(snapshot, now))
        last = last_contribution_to(task.name, client.contributed)
        if last is not None and last.key == round_.key:
            return Refusal(WaitReason.ALREADY_IN, self._wait_seconds(snapshot, now))
        return self._offer_slot(snapshot, round_, client)

    def _offer_slot(self, snapshot: TaskSnapshot, round_: Collecting, client: _Client) -> Assignment | Refusal:
        """Returns an assignment with the client's slot or with a new one, or a refusal."""
        now, pool = client.now, SlotPool(self.platform, snapshot, round_, client.now)
        full = snapshot.full or not pool.has_room()
        if full and not snapshot.lookups:
            # A lookup of the client's slot costs a store call, so a full round allows only a few.
            snapshot.full = True
            return Refusal(WaitReason.ROUND_FULL, self._wait_seconds(snapshot, now))
        pseudonym = self.pseudonyms.of(round_.key, client.identity, tickets=snapshot.tickets)
        if pseudonym is None:
            return Refusal(WaitReason.BETWEEN_ROUNDS, self._wait_seconds(snapshot, now))
        held = self._holders.find(round_.key, pseudonym.name, assignment_seconds=round_.terms.assignment_seconds)
        # A client without a slot has no update in the round, unless an earlier version, which did
        # not record slot holders, may have assigned it one.
        if (held is not None or not pseudonym.salted) and self._is_done(round_, pseudonym.name):
            return Refusal(WaitReason.ALREADY_IN, self._wait_seconds(snapshot, now))
        if held is None or not held.is_valid(now, assignment_seconds=round_.terms.assignment_seconds):
            if full:
                snapshot.lookups -= 1
                snapshot.full = True
                return Refusal(WaitReason.ROUND_FULL, self._wait_seconds(snapshot, now))
            held = self._new_slot(pool, pseudonym.name, before=held)
        if held is None:
            return Refusal(WaitReason.ROUND_FULL, self._wait_seconds(snapshot, now))
        return self._assign(snapshot, round_, held, pseudonym=pseudonym.name, client=client)

    @cached_property
    def _holders(self) -> SlotHolders:
        return SlotHolders(self.platform.documents)

    def _is_done(self, round_: Collecting, pseudonym: str) -> bool:
        """Returns whether the client's update or report is stored, so that it needs no slot.

        A folded update is no longer stored under its name; the client's cookie records it.
        """
        name = names.update_name(round_.key, names.shard_of(pseudonym, round_.terms.shards), pseudonym)
        return self.platform.blobs.stat(name) is not None

    def _new_slot(self, pool: SlotPool, pseudonym: str, *, before: HeldSlot | None) -> HeldSlot | None:
        """Records a new slot for the client.

        Returns the slot that a concurrent check-in of the client recorded first, if any.

        Returns None if the round is full.
        """
        ticket = pool.take()
        if ticket is None:
            return None
        taken = HeldSlot(ticket, issued_at=pool.now)
        held = self._holders.record(
            pool.round.key,
            pseudonym,
            taken,
            before=before,
            now=pool.now,
            assignment_seconds=pool.round.terms.assignment_seconds,
        )
        if held is not taken:
            pool.release(ticket)
        return held

    def _assign(
        self, snapshot: TaskSnapshot, round_: Collecting, held: HeldSlot, *, pseudonym: str, client: _Client
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
            # Another task of the population may have a longer separation, and counts this
            # contribution too.
            separation=client.separation if self._separation(snapshot) else 0.0,
            earlier=tuple(claim for claim in client.contributed if claim.key.task != key.task),
        )
        return Assignment(
            task=key.task,
            round=key.number,
            token=self.tokens.assignment(claims),
            expires_at=datetime.fromtimestamp(claims.expires_at, UTC),
            seconds=claims.expires_at - client.now,
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

    def _wait_seconds(self, snapshot: TaskSnapshot | None, now: float) -> float:
        return checkin_delay(
            None if snapshot is None else snapshot.round,
            now=now,
            floor=self.retry_floor,
            longest=self.longest_wait,
            jitter=self.platform.randomness.uniform(),
            updates=0 if snapshot is None else snapshot.updates,
            quiet=0.0 if snapshot is None else now - snapshot.last_update_seen_at,
        )


def _too_soon(task: str, separation: float, client: _Client) -> Refusal | None:
    """Returns the refusal by a task whose separation has not passed yet, or None.

    A task with a separation counts contributions to all tasks with a separation.
    """
    last = last_separating_contribution(task, client.contributed) if separation else None
    if last is None or client.now >= last.contributed_at + separation:
        return None
    return Refusal(WaitReason.TOO_SOON, last.contributed_at + separation - client.now)
