"""The round closer closes a round when it is due, freezes its contents, and has them folded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from muster_coordinator import events, queued_work
from muster_coordinator.domain import names
from muster_coordinator.domain.ledger import AgeLimit, ShardContents
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.release import effective_minimum, floor
from muster_coordinator.domain.rounds import (
    Abandoned,
    Aggregating,
    Collecting,
    Open,
    Round,
    RoundDecision,
    abandon,
    close,
    extend,
    judge,
)
from muster_coordinator.domain.tally import Tally
from muster_coordinator.ports import ConflictError
from muster_coordinator.state.lifecycle import continue_task, schedule_close
from muster_coordinator.state.parallel import map_concurrently
from muster_coordinator.state.pausing import is_stopped
from muster_coordinator.state.plan_repository import PlanRepository
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.records import Versioned
from muster_coordinator.state.round_cache import tally_assignments
from muster_coordinator.state.round_ledger import RoundLedger, shards_of
from muster_coordinator.use_cases.update_aggregator import UpdateAggregator

TICK = 60.0  # seconds between two ticks, at most; a tick enqueues the same work once
_BURST = 10.0  # seconds in which several closes of a round enqueue the same work once
# Parts or shards folded by the close itself: a hop through the queue costs as much
_MAX_INLINE_FOLDS = 4


@dataclass(frozen=True)
class RoundCloser:
    """Closer of rounds."""

    platform: Platform
    _: KW_ONLY
    plans: PlanRepository
    aggregator: UpdateAggregator

    def close(self, key: RoundKey, *, repairing: bool = False) -> None:
        """Advances the round as far as possible now. Safe to repeat, and to run concurrently.

        Args:
          key: The round.
          repairing: True if a tick calls, which recovers lost messages and may run while work is
            still in progress.
        """
        record = self.platform.round(key)
        with self.aggregator.stops_task(key):
            if record is not None:
                self._advance(record, repairing=repairing)

    def _advance(self, record: Versioned[Round], *, repairing: bool) -> None:
        """Runs the next step of the round, and after a close also the first step of aggregation."""
        round_, key = record.value, record.value.key
        ledger = RoundLedger(self.platform, key)
        if isinstance(round_, Collecting):
            closed = self._close_if_due(record, round_, ledger, repairing=repairing)
            if closed is None:
                return
            record = closed
        elif isinstance(round_, Aggregating) and is_stopped(self.platform, key.task):
            return
        if isinstance(record.value, Aggregating):
            just_closed = isinstance(round_, Collecting)
            self._aggregate(record, record.value, ledger, repairing=repairing, just_closed=just_closed)
        elif not isinstance(record.value, Collecting):
            continue_task(self.platform, key.task, plans=self.plans)

    def _close_if_due(
        self, record: Versioned[Round], round_: Collecting, ledger: RoundLedger, *, repairing: bool
    ) -> Versioned[Round] | None:
        """Closes or abandons the round if it is due; otherwise extends it or folds ready updates.

        Returns:
          The closed or abandoned round, or None if there is no next step now.
        """
        key, now = round_.key, self.platform.clock.now()
        task = self.platform.task(key.task).value
        if task.ended or task.resting or (task.current is not None and task.current > key):
            reason = task.status.value if task.ended else "superseded"
            return self._abandon(record, abandon(round_, reason=reason, tally=Tally(), now=now), below_minimum=False)
        if task.stopped:
            return None
        if repairing:
            self.aggregator.check_plan(round_)
        contents = ledger.all_contents(shards_of(round_))
        updates = sum(shard.updates for shard in contents)
        match self._decide(round_, updates, now=now, extensible=task.retries):
            case RoundDecision.AGGREGATE:
                return self._replace(record, close(round_, now=now))
            case RoundDecision.ABANDON:
                minimum = effective_minimum(round_.terms, self.plans.manifest(round_.terms.plan))
                reason = f"{updates} updates arrived by the deadline; the minimum is {minimum}"
                tally = tally_assignments(self.platform, round_)
                return self._abandon(record, abandon(round_, reason=reason, tally=tally, now=now), below_minimum=True)
            case RoundDecision.EXTEND:
                extended = self._replace(record, extend(round_, now=now))
                if extended is not None:
                    schedule_close(self.platform, extended.value)
            case _:
                self._fold(round_, ledger, contents, repairing=repairing)
        return None

    def _decide(self, round_: Collecting, updates: int, *, now: float, extensible: bool) -> RoundDecision:
        """Returns the next step of a round that has so many updates."""
        decision = judge(
            round_,
            updates=updates,
            assigned=lambda: tally_assignments(self.platform, round_).assigned,
            now=now,
            floor=floor(self.plans.manifest(round_.terms.plan)),
            extensible=extensible,
        )
        key_path = names.pseudonym_key_path(round_.key)
        if decision is RoundDecision.EXTEND and self.platform.documents.get(key_path) is not None:
            # A round never changes its pseudonym key, while the next attempt takes the newest one.
            return RoundDecision.ABANDON
        return decision

    def _fold(
        self, round_: Collecting, ledger: RoundLedger, contents: Sequence[ShardContents], *, repairing: bool
    ) -> None:
        """Folds the full chunks and the aged updates of a round that stays open."""
        key, now = round_.key, self.platform.clock.now()
        limit = AgeLimit(round_.terms.max_update_age, now)
        foldable = [
            shard
            for shard, shard_contents in enumerate(contents)
            if shard_contents.can_fold(chunk=round_.terms.chunk, limit=limit)
        ]
        if self._is_enqueued(round_, len(foldable), repairing=repairing):
            once = f"tick{int(now // TICK)}" if repairing else None
            map_concurrently(
                self.platform,
                lambda shard: self.platform.enqueue(
                    queued_work.fold_shard(key, shard), key, hint=str(shard), once=once
                ),
                foldable,
            )
            return
        for shard in foldable:
            self.aggregator.fold_contents(round_, ledger, shard, contents[shard])

    def _aggregate(
        self, record: Versioned[Round], round_: Aggregating, ledger: RoundLedger, *, repairing: bool, just_closed: bool
    ) -> None:
        """Freezes a closed round's contents, folds the missing parts, and enqueues the commit."""
        key, now = round_.key, self.platform.clock.now()
        once = f"tick{_repairs(now - round_.closed_at)}" if repairing else f"close{int(now // _BURST)}"
        frozen = ledger.freeze(round_, tally_assignments(self.platform, round_), just_closed=just_closed)
        minimum = effective_minimum(round_.terms, self.plans.manifest(round_.terms.plan))
        if frozen.closing.updates < minimum:
            reason = f"{frozen.closing.updates} updates were stored at the close; the minimum is {minimum}"
            abandoned = abandon(round_, reason=reason, tally=frozen.tally, now=now)
            if self._abandon(record, abandoned, below_minimum=True) is not None:
                continue_task(self.platform, key.task, plans=self.plans)
            return
        missing = ledger.missing(frozen.closing.parts())
        if self._is_enqueued(round_, len(missing), repairing=repairing):
            map_concurrently(
                self.platform,
                lambda part: self.platform.enqueue(queued_work.fold_part(key, part), key, hint=part, once=once),
                missing,
            )
            return
        replaced: list[str] = []
        for part in missing:
            replaced += self.aggregator.make_part(round_, ledger, frozen, part)
        self.platform.enqueue(queued_work.commit(key), key, once=once)
        # Durable partials replace these blobs, so the commit need not wait for the deletion.
        self.platform.blobs.delete(replaced)

    def _is_enqueued(self, round_: Open, folds: int, *, repairing: bool) -> bool:
        """Returns whether folds go through the queue.

        A tick serves all tasks, so it never runs graphs itself.
        """
        if repairing and folds:
            return folds > _MAX_INLINE_FOLDS or self.plans.manifest(round_.terms.plan).folds_with_tensorflow
        return folds > _MAX_INLINE_FOLDS

    def _abandon(self, record: Versioned[Round], value: Abandoned, *, below_minimum: bool) -> Versioned[Round] | None:
        """Replaces the round like `_replace`, and logs the event if that succeeds."""
        replaced = self._replace(record, value)
        if replaced is not None:
            events.round_abandoned(value, below_minimum=below_minimum)
        return replaced

    def _replace(self, record: Versioned[Round], value: Round) -> Versioned[Round] | None:
        """Replaces the round by compare-and-set, or returns None if another writer was faster."""
        try:
            return self.platform.rounds.replace(record, value)
        except ConflictError:
            return None


def _repairs(seconds: float) -> int:
    """Returns the number of repairs due so many seconds after a close: after 0, 1, 2, 4, … minutes.

    The back-off leaves enqueued work time to finish. Usually nothing was lost, and a second
    committer would compute in vain.
    """
    return max(0, math.floor(math.log2(max(seconds, 1.0) / TICK)) + 1)
