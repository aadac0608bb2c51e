"""A client's update comes in, or its report that none will."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from muster.wire.messages import DirectUpload, Receipt, Report, UploadStart
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.times import from_posix
from muster_coordinator import queued_work
from muster_coordinator.domain import names, slots
from muster_coordinator.domain.pacing import LONGEST, pause
from muster_coordinator.domain.rounds import Aggregating, Collecting, Round
from muster_coordinator.domain.updates import UpdateRules, decoded_update, validated
from muster_coordinator.ports import AlreadyExistsError, DirectUploads
from muster_coordinator.state.fold_timers import FoldTimers
from muster_coordinator.state.goal_checks import GoalChecker
from muster_coordinator.state.plan_repository import PlanRepository
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.round_cache import SHARD_UPDATES, RoundCache
from muster_coordinator.tokens import AssignmentClaims, CookieClaims, Tokens

_COOKIE_LIFE = 86400.0  # seconds, at least


@dataclass(frozen=True)
class UploadReceiver:
    """Takes updates and reports."""

    platform: Platform
    tokens: Tokens
    plans: PlanRepository
    open_rounds: RoundCache
    goals: GoalChecker
    retry_floor: float
    longest_wait: float = LONGEST

    def upload(
        self, token: str, read: Callable[[int], bytes], *, length: int | None, encoding: str | None = None
    ) -> Receipt:
        """Streams an update to its name. A repeat, and a second one of the same client, gets the same receipt.

        Args:
          token: The assignment's.
          read: Reads up to so many bytes of the body; b"" at its end.
          length: The declared length of the body in bytes, if it was declared.
          encoding: The body's content encoding; None: none. What is stored, and counted, is what it holds.

        Raises:
          ProblemError: the token is bad, the round takes no more updates, or the update is not what the plan asks for.
        """
        claims, round_ = self._admit(token)
        rules = self._rules(claims, round_)
        name = names.update_name(claims.key, claims.shard, claims.pseudonym)
        if encoding is not None:
            read, length = decoded_update(read, rules, encoding=encoding, length=length), None
        creation = self.platform.blobs.create(name, validated(read, rules, length=length))
        after = self._still_open(claims)
        updates = 0
        if creation.created:
            updates = self._count(claims, after)
        elif creation.blob.size == 0:
            raise ProblemError(ProblemType.ASSIGNMENT_INVALID, "This client gave its assignment of the round back")
        else:
            self._look_again(claims, after)
        return self._receipt("accepted", claims, after, updates=updates)

    def start(self, token: str, wanted: UploadStart) -> DirectUpload:
        """Lets a client put its update into the store itself. A repeat is harmless: the update's name can be taken once.

        Raises:
          ProblemError: the token is bad, the round takes no more updates, or the update is too large; `conflict`, if there is one
            of this client already; `not_supported`, if this deployment's store can't be reached by clients.
        """
        claims, round_ = self._admit(token)
        direct = self._direct()
        rules = self._rules(claims, round_)
        if wanted.size > rules.max_bytes:
            detail = f"The update has {wanted.size} bytes; one of this plan has at most {rules.max_bytes}"
            raise ProblemError(ProblemType.TOO_LARGE, detail)
        seconds = max(1.0, claims.expires_at - self.platform.clock.now())
        try:
            leave = direct.start(
                names.update_name(claims.key, claims.shard, claims.pseudonym),
                size=wanted.size,
                crc32c=wanted.crc32c,
                seconds=seconds,
            )
        except AlreadyExistsError as error:
            detail = "An update of this assignment is in the store already; report it as uploaded"
            raise ProblemError(ProblemType.CONFLICT, detail) from error
        return DirectUpload(
            url=leave.url,
            headers=dict(leave.headers),
            resumable=leave.resumable,
            expires_at=from_posix(claims.expires_at),
        )

    def report(self, token: str, report: Report) -> Receipt:
        """Takes a client's word on what became of its assignment. Repeats are harmless.

        `failed` gives the assignment back: the slot is free at once, and the client itself is out of this round. `uploaded` says that
        the update is in the store, and is counted and answered as an upload is. It is not looked at here, where updates can be made
        but not read: counters are hints, the ledger lists what there is, and the fold drops what is not valid.

        Raises:
          ProblemError: the token is bad, or the round takes no more reports.
        """
        if report.outcome == "uploaded":
            return self._uploaded(token)
        claims, round_ = self._admit(token)
        reason = report.reason.value if report.reason is not None else ""
        # An empty blob under the update's own name: an update can't follow it, nor it an update, and one name frees one slot.
        creation = self.platform.blobs.create(names.update_name(claims.key, claims.shard, claims.pseudonym), [b""])
        if creation.created:
            self.platform.documents.increment(
                names.ticket_path(claims.key, claims.ticket.counter),
                {
                    slots.FAILED: 1,
                    slots.failed_field(reason): 1,
                    slots.used_field(claims.ticket.interval): 1,
                },
            )
        return self._receipt("reported", claims, round_)

    def _uploaded(self, token: str) -> Receipt:
        claims, _ = self._admit(token, sweep=True)
        self._direct()
        mark = self.platform.blobs.create(names.uploaded_name(claims.key, claims.shard, claims.pseudonym), [b""])
        after = self._still_open(claims)
        updates = 0
        if mark.created:
            updates = self._count(claims, after)
        else:
            self._look_again(claims, after)
        return self._receipt("accepted", claims, after, updates=updates)

    def _rules(self, claims: AssignmentClaims, round_: Collecting) -> UpdateRules:
        """What the plan asks of the update, within the size that the assignment is good for."""
        rules = self.plans.rules(claims.plan, allow_non_finite=round_.terms.allow_non_finite)
        size = rules.max_bytes if claims.max_update_bytes is None else min(rules.max_bytes, claims.max_update_bytes)
        return replace(rules, max_bytes=size)

    def _direct(self) -> DirectUploads:
        if self.platform.direct is None:
            detail = "This deployment's store can't be reached by clients; send the update with PUT /v1/updates"
            raise ProblemError(ProblemType.NOT_SUPPORTED, detail)
        return self.platform.direct

    def _still_open(self, claims: AssignmentClaims) -> Collecting | Aggregating:
        """The round, once something of the client's is in the store."""
        after = self.open_rounds.fresh_round(claims.key)
        if not isinstance(after, Collecting | Aggregating):
            # Too late to be counted, and its round may have been swept already.
            self.platform.enqueue(queued_work.sweep(claims.key), claims.key)
            raise _closed(claims)
        return after

    def _admit(self, token: str, *, sweep: bool = False) -> tuple[AssignmentClaims, Collecting]:
        claims = self.tokens.read_assignment(token, now=self.platform.clock.now())
        round_ = self.open_rounds.round(claims.key)
        if not isinstance(round_, Collecting) or round_.terms.plan != claims.plan:
            if sweep:  # the client may have put something there after the round was swept
                self.platform.enqueue(queued_work.sweep(claims.key), claims.key)
            raise _closed(claims)
        return claims, round_

    def _count(self, claims: AssignmentClaims, round_: Collecting | Aggregating) -> int:
        """Counts an update, calls for the work that it makes due, and guesses how many the round has.

        Of a round that has closed nothing is due: its close counts what is there, and is repeated until it has.
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

    def _look_again(self, claims: AssignmentClaims, round_: Collecting | Aggregating) -> None:
        """After a repeat: the first try may have died before it counted, so the ledger, not the counter, decides.

        That lists all of the round. One of several shards is listed once a second at most, at its end, or a lossy network would
        cost as many lists as updates.
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
        wait = pause(round_, now=now, floor=self.retry_floor, jitter=jitter, updates=updates, longest=self.longest_wait)
        cookie = None
        if status == "accepted":
            # As long as it tells anything: that the client is in this round, or must not be in one so soon again.
            life = max(_COOKIE_LIFE, claims.separation, round_.terms.deadline - now)
            newest = CookieClaims(claims.key, now, expires_at=now + life, separates=claims.separation > 0)
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
