"""The upload receiver accepts a client's update, or its report about the assignment."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property

from muster.wire.messages import DirectUpload, Receipt, Report, UploadStart
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.times import from_posix
from muster_coordinator import queued_work
from muster_coordinator.domain import names, slots
from muster_coordinator.domain.pacing import DEFAULT_LONGEST_WAIT, checkin_delay
from muster_coordinator.domain.rounds import Aggregating, Collecting, Round
from muster_coordinator.domain.updates import UpdateRules, decoded_update, validated
from muster_coordinator.ports import AlreadyExistsError, DirectUploads
from muster_coordinator.state.fold_timers import FoldTimers
from muster_coordinator.state.goal_checks import GoalChecker
from muster_coordinator.state.plan_repository import PlanRepository
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.round_cache import SHARD_UPDATES, RoundCache
from muster_coordinator.tokens import AssignmentClaims, CookieClaims, Tokens

_MIN_COOKIE_LIFETIME = 86400.0  # seconds


@dataclass(frozen=True)
class UploadReceiver:
    """Receiver of updates and reports.

    Attributes:
      retry_floor: The shortest wait until the client's next check-in, in seconds.
      longest_wait: The longest such wait before jitter, in seconds.
    """

    platform: Platform
    _: KW_ONLY
    tokens: Tokens
    plans: PlanRepository
    open_rounds: RoundCache
    goals: GoalChecker
    retry_floor: float
    longest_wait: float = DEFAULT_LONGEST_WAIT

    def upload(
        self, token: str, read: Callable[[int], bytes], *, length: int | None, encoding: str | None = None
    ) -> Receipt:
        """Streams an update to the store.

        A repeat, or another update of the same client, gets the same receipt.

        Args:
          token: The assignment's token.
          read: Reads up to the given number of bytes of the body; returns b"" at its end.
          length: The declared length of the body in bytes, or None.
          encoding: The body's content encoding, or None. The decoded body is stored and counted.

        Raises:
          ProblemError: the token is invalid, the round takes no more updates, or the update does
            not fit the plan.
        """
        claims, round_ = self._admit(token)
        rules = self._rules(claims, round_)
        name = names.update_name(claims.key, claims.shard, claims.pseudonym)
        if encoding is not None:
            read, length = decoded_update(read, rules, encoding=encoding, length=length), None
        creation = self.platform.blobs.create(name, validated(read, rules, length=length))
        round_after = self._round_after_upload(claims)
        updates = 0
        if creation.created:
            updates = self._count(claims, round_after)
        elif creation.blob.size == 0:
            raise ProblemError(ProblemType.ASSIGNMENT_INVALID, "This client gave its assignment of the round back")
        else:
            self._enqueue_recount(claims, round_after)
        return self._receipt("accepted", claims, round_after, updates=updates)

    def start(self, token: str, wanted: UploadStart) -> DirectUpload:
        """Starts a direct upload to the store.

        A repeat is harmless, since the update's blob can be created only once.

        Raises:
          ProblemError: the token is invalid, the round takes no more updates, or the update is too
            large; `conflict` if an update of this client is stored already; `not_supported` if
            clients can't reach this deployment's store.
        """
        claims, round_ = self._admit(token)
        direct = self._direct()
        rules = self._rules(claims, round_)
        if wanted.size > rules.max_bytes:
            detail = f"The update has {wanted.size} bytes; one of this plan has at most {rules.max_bytes}"
            raise ProblemError(ProblemType.TOO_LARGE, detail)
        seconds = max(1.0, claims.expires_at - self.platform.clock.now())
        try:
            grant = direct.start(
                names.update_name(claims.key, claims.shard, claims.pseudonym),
                size=wanted.size,
                crc32c=wanted.crc32c,
                seconds=seconds,
            )
        except AlreadyExistsError as error:
            detail = "An update of this assignment is in the store already; report it as uploaded"
            raise ProblemError(ProblemType.CONFLICT, detail) from error
        return DirectUpload(
            url=grant.url,
            headers=dict(grant.headers),
            resumable=grant.resumable,
            expires_at=from_posix(claims.expires_at),
        )

    def report(self, token: str, report: Report) -> Receipt:
        """Accepts a client's report about its assignment. Idempotent.

        `failed` gives the assignment back: its slot is free at once, and the client can't
        contribute to this round any more. `uploaded` reports a finished direct upload, which is
        counted and answered like an upload. This function has no permission to read updates, so it
        does not validate the report: counters are hints, the ledger lists the stored updates, and
        the fold drops invalid ones.

        Raises:
          ProblemError: the token is invalid, or the round takes no more reports.
        """
        if report.outcome == "uploaded":
            return self._uploaded(token)
        claims, round_ = self._admit(token)
        cause = report.code or report.reason
        cause_name = "" if cause is None else cause.value
        # An empty blob under the update's name excludes an update, and is excluded by one. So one
        # name frees one slot.
        creation = self.platform.blobs.create(names.update_name(claims.key, claims.shard, claims.pseudonym), [b""])
        if creation.created:
            self.platform.documents.increment(
                names.ticket_path(claims.key, claims.ticket.counter),
                {
                    slots.FAILED: 1,
                    slots.failed_field(cause_name): 1,
                    slots.used_field(claims.ticket.interval): 1,
                },
            )
        return self._receipt("reported", claims, round_)

    def _uploaded(self, token: str) -> Receipt:
        claims, _ = self._admit(token, sweep=True)
        self._direct()
        mark = self.platform.blobs.create(names.uploaded_name(claims.key, claims.shard, claims.pseudonym), [b""])
        round_after = self._round_after_upload(claims)
        updates = 0
        if mark.created:
            updates = self._count(claims, round_after)
        else:
            self._enqueue_recount(claims, round_after)
        return self._receipt("accepted", claims, round_after, updates=updates)

    def _rules(self, claims: AssignmentClaims, round_: Collecting) -> UpdateRules:
        """Returns the plan's rules for the update, within the size that the assignment allows."""
        rules = self.plans.rules(claims.plan, allow_non_finite=round_.terms.allow_non_finite)
        size = rules.max_bytes if claims.max_update_bytes is None else min(rules.max_bytes, claims.max_update_bytes)
        return replace(rules, max_bytes=size)

    def _direct(self) -> DirectUploads:
        if self.platform.direct is None:
            detail = "This deployment's store can't be reached by clients; send the update with PUT /v1/updates"
            raise ProblemError(ProblemType.NOT_SUPPORTED, detail)
        return self.platform.direct

    def _round_after_upload(self, claims: AssignmentClaims) -> Collecting | Aggregating:
        """Returns the round as it is now that the client's blob is stored.

        Raises:
          ProblemError: `round_closed` if the round has ended, so that the blob will not be counted.
        """
        round_after = self.open_rounds.fresh_round(claims.key)
        if not isinstance(round_after, Collecting | Aggregating):
            # The round may have been swept before the blob was stored.
            self.platform.enqueue(queued_work.sweep(claims.key), claims.key)
            raise _closed(claims)
        return round_after

    def _admit(self, token: str, *, sweep: bool = False) -> tuple[AssignmentClaims, Collecting]:
        """Returns the token's claims and its open round.

        With `sweep`, sweeps a round that has closed.
        """
        claims = self.tokens.read_assignment(token, now=self.platform.clock.now())
        round_ = self.open_rounds.round(claims.key)
        if not isinstance(round_, Collecting) or round_.terms.plan != claims.plan:
            if sweep:  # a direct upload may have been stored after the round was swept
                self.platform.enqueue(queued_work.sweep(claims.key), claims.key)
            raise _closed(claims)
        return claims, round_

    def _count(self, claims: AssignmentClaims, round_: Collecting | Aggregating) -> int:
        """Counts an update, enqueues due work, and returns an estimate of the round's updates.

        A round that has closed needs no work from here: its close lists the stored updates, and is
        repeated until done.
        """
        key, terms = claims.key, round_.terms
        documents = self.platform.documents
        in_shard = documents.increment(names.shard_path(key, claims.shard), {SHARD_UPDATES: 1})[SHARD_UPDATES]
        documents.increment(
            names.ticket_path(key, claims.ticket.counter), {slots.used_field(claims.ticket.interval): 1}
        )
        if not isinstance(round_, Collecting):
            return in_shard * terms.shards
        if self.goals.reached(round_, shard=claims.shard, count=in_shard):
            self.platform.enqueue(queued_work.close(key), key)
        elif in_shard % terms.chunk == 0:
            self.platform.enqueue(queued_work.fold_shard(key, claims.shard), key, hint=str(claims.shard))
        else:
            self._timers.arm(round_, claims.shard)
        return in_shard * terms.shards

    @cached_property
    def _timers(self) -> FoldTimers:
        return FoldTimers(self.platform)

    def _enqueue_recount(self, claims: AssignmentClaims, round_: Collecting | Aggregating) -> None:
        """Enqueues a close after a repeated upload.

        The first upload may have failed before it was counted. A close lists the whole round. A
        round with several shards is listed at most once a second, at the second's end; otherwise a
        lossy network would cost as many lists as updates.
        """
        key = claims.key
        if not isinstance(round_, Collecting):
            return
        if round_.terms.shards == 1:
            self.platform.enqueue(queued_work.close(key), key)
            return
        now = self.platform.clock.now()
        second = math.floor(now) + 1
        name = f"close-{key.task}-{key.id}-repeats-{second}"
        self.platform.queue.enqueue(queued_work.close(key), name=name, delay=second - now)

    def _receipt(self, status: str, claims: AssignmentClaims, round_: Round, *, updates: int = 0) -> Receipt:
        now, jitter = self.platform.clock.now(), self.platform.randomness.uniform()
        wait = checkin_delay(
            round_, now=now, floor=self.retry_floor, jitter=jitter, updates=updates, longest=self.longest_wait
        )
        cookie = None
        if status == "accepted":
            # The cookie must outlive the round and the separation.
            lifetime = max(_MIN_COOKIE_LIFETIME, claims.separation, round_.terms.deadline - now)
            newest = CookieClaims(claims.key, now, expires_at=now + lifetime, separates=claims.separation > 0)
            cookie = self.tokens.cookie(newest, *claims.earlier)
        return Receipt.from_dict(
            {
                "status": status,
                "task": claims.key.task,
                "round": claims.key.number,
                "retry_after": wait,
                "cookie": cookie,
            }
        )


def _closed(claims: AssignmentClaims) -> ProblemError:
    detail = f"Round {claims.key.number} of task {claims.key.task} takes no more updates; check in for the next one"
    return ProblemError(ProblemType.ROUND_CLOSED, detail)
