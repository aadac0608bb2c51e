"""The assignment issuer answers a check-in with an assignment, or a wait if no slot is free."""

from __future__ import annotations

import logging
from collections.abc import Mapping
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
from muster.wire.messages.policy_parts import AttributeValue
from muster.wire.problems import ProblemError
from muster_coordinator.domain import names, windows
from muster_coordinator.domain.evaluations import reserves_clients
from muster_coordinator.domain.offers import Refusal, in_weighted_order, is_eligible, most_urgent
from muster_coordinator.domain.pacing import DEFAULT_LONGEST_WAIT, bounded_delay, checkin_delay
from muster_coordinator.domain.release import effective_minimum, effective_policy
from muster_coordinator.domain.rounds import Collecting
from muster_coordinator.domain.tasks import Task
from muster_coordinator.state.evaluation_shares import EvaluationShares
from muster_coordinator.state.plan_repository import PlanRepository
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.pseudonyms import Pseudonymizer
from muster_coordinator.state.round_cache import RoundCache, TaskSnapshot
from muster_coordinator.state.slot_offers import OfferedSlot, SlotOffers
from muster_coordinator.tokens import (
    AssignmentClaims,
    CookieClaims,
    Tokens,
    last_contribution_to,
    last_separating_contribution,
)

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Client:
    """Client that checks in.

    Attributes:
      identity: Its identity.
      contributed: The claims of its cookie.
      separation: The longest separation of the population's tasks, in seconds.
      attributes: The attributes that it states.
      evaluations: The population's evaluations of tasks.
      now: POSIX seconds.
    """

    identity: str
    contributed: tuple[CookieClaims, ...]
    separation: float
    attributes: Mapping[str, AttributeValue]
    evaluations: tuple[Task, ...]
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
    shares: EvaluationShares
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
        client = _Client(
            identity=identity,
            contributed=self.tokens.read_cookie(request.cookie, now=now),
            separation=max((self._separation(snapshot) for snapshot in snapshots), default=0.0),
            attributes=request.attributes,
            evaluations=tuple(snapshot.task for snapshot in snapshots if snapshot.task.spec.evaluates is not None),
            now=now,
        )
        refusals = []
        for snapshot in in_weighted_order(snapshots, weight=_weight, uniform=self.platform.randomness.uniform):
            answer = self._offer_task(snapshot, client)
            if isinstance(answer, Assignment):
                return CheckinResponse(answer=answer)
            refusals.append(answer)
        soonest = most_urgent(refusals or [Refusal(WaitReason.NO_TASK, self._wait_seconds(None, now))])
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
        policy = self._policy(snapshot)
        if snapshot.task.status is TaskStatus.PAUSED:
            return Refusal(WaitReason.TASK_PAUSED, self._wait_seconds(None, client.now))
        if policy is None:
            return Refusal(WaitReason.BETWEEN_ROUNDS, self._wait_seconds(snapshot, client.now))
        return self._refusal(snapshot, policy, client) or self._offer_round(snapshot, client)

    def _refusal(self, snapshot: TaskSnapshot, policy: TaskPolicy, client: _Client) -> Refusal | None:
        """Returns the refusal by a task that does not take this client now, or None."""
        if policy.eligibility and not is_eligible(policy, client.attributes):
            return Refusal(WaitReason.NOT_ELIGIBLE, self._bounded(self.longest_wait))
        if policy.windows:
            seconds = windows.seconds_until_open(policy.windows, now=client.now)
            if seconds > 0:
                return Refusal(WaitReason.OUTSIDE_WINDOW, self._bounded(seconds))
        if client.evaluations and self._is_reserved(snapshot.task, client):
            return Refusal(WaitReason.RESERVED, self._wait_seconds(snapshot, client.now))
        return _too_soon(snapshot.task.name, policy.separation_seconds, client)

    def _is_reserved(self, task: Task, client: _Client) -> bool:
        """Returns whether an evaluation excludes the client: from training now, or from itself."""
        if task.spec.evaluates is not None:
            return not self.shares.holds(task, client.identity)
        return any(
            reserves_clients(evaluation, task) and self.shares.holds(evaluation, client.identity)
            for evaluation in client.evaluations
        )

    def _offer_round(self, snapshot: TaskSnapshot, client: _Client) -> Assignment | Refusal:
        """Returns an assignment of the task's open round, or a refusal."""
        task, round_, now = snapshot.task, snapshot.round, client.now
        wait = WaitReason.BETWEEN_ROUNDS
        if (
            task.status is not TaskStatus.ACTIVE
            or not isinstance(round_, Collecting)
            # Such a round can't be committed; see `RoundCommitter`.
            or round_.terms.plan != task.spec.plan
        ):
            return Refusal(wait, self._wait_seconds(snapshot, now))
        if now < round_.terms.opened_at:
            return Refusal(wait, max(self._wait_seconds(snapshot, now), round_.terms.opened_at - now))
        if now >= round_.terms.deadline:
            return Refusal(wait, self._wait_seconds(snapshot, now))
        last = last_contribution_to(task.name, client.contributed)
        if last is not None and last.key == round_.key:
            return Refusal(WaitReason.ALREADY_IN, self._wait_seconds(snapshot, now))
        slot = self._slots.offer(snapshot, round_, client.identity, now=now)
        if isinstance(slot, WaitReason):
            return Refusal(slot, self._wait_seconds(snapshot, now))
        return self._assign(snapshot, round_, slot, client=client)

    @cached_property
    def _slots(self) -> SlotOffers:
        return SlotOffers(self.platform, pseudonyms=self.pseudonyms)

    def _assign(self, snapshot: TaskSnapshot, round_: Collecting, slot: OfferedSlot, *, client: _Client) -> Assignment:
        key, terms, spec, held = round_.key, round_.terms, snapshot.task.spec, slot.held
        minimum = effective_minimum(terms, self.plans.manifest(terms.plan))
        max_bytes = self.plans.rules(terms.plan, allow_non_finite=terms.allow_non_finite).max_bytes
        claims = AssignmentClaims(
            key=key,
            shard=names.shard_of(slot.pseudonym, terms.shards),
            pseudonym=slot.pseudonym,
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
            kind=spec.kind.value,
            selector=spec.selector,
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

    def _bounded(self, seconds: float) -> float:
        return bounded_delay(
            seconds, floor=self.retry_floor, longest=self.longest_wait, jitter=self.platform.randomness.uniform()
        )


def _weight(snapshot: TaskSnapshot) -> float:
    return snapshot.task.spec.policy.weight


def _too_soon(task: str, separation: float, client: _Client) -> Refusal | None:
    """Returns the refusal by a task whose separation has not passed yet, or None.

    A task with a separation counts contributions to all tasks with a separation.
    """
    last = last_separating_contribution(task, client.contributed) if separation else None
    if last is None or client.now >= last.contributed_at + separation:
        return None
    return Refusal(WaitReason.TOO_SOON, last.contributed_at + separation - client.now)
