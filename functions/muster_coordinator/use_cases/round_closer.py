"""The close: whether a round has what it needs, then what it counts is frozen, folded and handed to the commit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
    Tally,
    abandon,
    close,
    extend,
    judge,
)
from muster_coordinator.ports import ConflictError
from muster_coordinator.state.lifecycle import advance, schedule_close
from muster_coordinator.state.parallel import map_concurrently
from muster_coordinator.state.pausing import is_stopped
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.records import Versioned
from muster_coordinator.state.round_cache import tally_assignments
from muster_coordinator.state.round_ledger import RoundLedger, shards_of
from muster_coordinator.use_cases.update_aggregator import UpdateAggregator

TICK = 60.0  # seconds between two ticks, at most, and in which they call once for the same
_BURST = 10.0  # seconds in which several closes of a round call for what follows once
_FOLDED_HERE = 4  # parts or shards, rather than by work of their own: a hop through the queue costs as much


@dataclass(frozen=True)
class RoundCloser:
    """Closes rounds."""

    platform: Platform
    folding: UpdateAggregator

    def __call__(self, key: RoundKey, *, repairing: bool = False) -> None:
        """Brings the round as far as it can go now. Safe to repeat at any time, by several at once.

        Args:
          key: The round.
          repairing: Whether it is a tick that asks, for what may have got lost and may just take long.
        """
        found = self.platform.round(key)
        with self.folding.stops_task(key):
            self._go_on(found, repairing=repairing)

    def _go_on(self, found: Versioned[Round] | None, *, repairing: bool) -> None:
        if found is None:
            return
        key = found.value.key
        ledger = RoundLedger(self.platform, key)
        just_closed = isinstance(found.value, Collecting)
        if isinstance(found.value, Collecting):
            found = self._judge(found, found.value, ledger, repairing=repairing)
        elif isinstance(found.value, Aggregating) and is_stopped(self.platform, key.task):
            return
        if found is None:
            return
        if isinstance(found.value, Aggregating):
            self._aggregate(found, found.value, ledger, repairing=repairing, just_closed=just_closed)
        elif not isinstance(found.value, Collecting):
            advance(self.platform, key.task, plans=self.folding.plans)

    def _judge(
        self, found: Versioned[Round], round_: Collecting, ledger: RoundLedger, *, repairing: bool
    ) -> Versioned[Round] | None:
        key, now = round_.key, self.platform.clock.now()
        task = self.platform.task(key.task).value
        if task.ended or (task.current is not None and task.current > key):
            reason = task.status.value if task.ended else "superseded"
            return self._abandon(found, abandon(round_, reason=reason, tally=Tally(), now=now), below_minimum=False)
        if task.stopped:
            return None
        if repairing:
            self.folding.check_plan(round_)
        contents = ledger.all_contents(shards_of(round_))
        updates = sum(shard.updates for shard in contents)
        manifest = self.folding.plans.manifest(round_.terms.plan)
        verdict = judge(
            round_,
            updates=updates,
            assigned=lambda: tally_assignments(self.platform, round_).assigned,
            now=now,
            floor=floor(manifest),
        )
        if verdict is RoundDecision.EXTEND and self.platform.documents.get(names.pseudonym_key_path(key)) is not None:
            # A key is the round's for good; the next attempt takes the newest, whatever became of it.
            verdict = RoundDecision.ABANDON
        if verdict is RoundDecision.AGGREGATE:
            return self._replace(found, close(round_, now=now))
        if verdict is RoundDecision.ABANDON:
            minimum = effective_minimum(round_.terms, manifest)
            reason = f"{updates} updates came in by the deadline; the minimum is {minimum}"
            tally = tally_assignments(self.platform, round_)
            return self._abandon(found, abandon(round_, reason=reason, tally=tally, now=now), below_minimum=True)
        if verdict is RoundDecision.EXTEND:
            extended = self._replace(found, extend(round_, now=now))
            if extended is not None:
                schedule_close(self.platform, extended.value)
            return None
        self._fold(round_, ledger, contents, repairing=repairing)
        return None

    def _fold(
        self, round_: Collecting, ledger: RoundLedger, contents: Sequence[ShardContents], *, repairing: bool
    ) -> None:
        """Folds the full chunks and the aged updates of a round that continues."""
        key, now = round_.key, self.platform.clock.now()
        limit = AgeLimit(round_.terms.max_update_age, now)
        foldable = [
            shard for shard, held in enumerate(contents) if held.can_fold(chunk=round_.terms.chunk, limit=limit)
        ]
        if self._is_left_to_others(round_, len(foldable), repairing=repairing):
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
            self.folding.fold_contents(round_, ledger, shard, contents[shard])

    def _aggregate(
        self, found: Versioned[Round], round_: Aggregating, ledger: RoundLedger, *, repairing: bool, just_closed: bool
    ) -> None:
        key, now = round_.key, self.platform.clock.now()
        once = f"tick{_repairs(now - round_.closed_at)}" if repairing else f"close{int(now // _BURST)}"
        frozen = ledger.freeze(round_, tally_assignments(self.platform, round_), just_closed=just_closed)
        minimum = effective_minimum(round_.terms, self.folding.plans.manifest(round_.terms.plan))
        if frozen.closing.updates < minimum:
            reason = f"{frozen.closing.updates} updates were there at the close; the minimum is {minimum}"
            abandoned = abandon(round_, reason=reason, tally=frozen.tally, now=now)
            if self._abandon(found, abandoned, below_minimum=True) is not None:
                advance(self.platform, key.task, plans=self.folding.plans)
            return
        missing = ledger.missing(frozen.closing.parts())
        if self._is_left_to_others(round_, len(missing), repairing=repairing):
            map_concurrently(
                self.platform,
                lambda part: self.platform.enqueue(queued_work.fold_part(key, part), key, hint=part, once=once),
                missing,
            )
            return
        folded: list[str] = []
        for part in missing:
            folded += self.folding.make_part(round_, ledger, frozen, part)
        self.platform.enqueue(queued_work.commit(key), key, once=once)
        # They are in partials that are durable; the commit need not wait for it.
        self.platform.blobs.delete(folded)

    def _is_left_to_others(self, round_: Open, count: int, *, repairing: bool) -> bool:
        """Returns whether parts are folded by separate work. A tick serves all tasks, so it never runs graphs."""
        if repairing and count:
            return count > _FOLDED_HERE or self.folding.plans.manifest(round_.terms.plan).folds_with_tensorflow
        return count > _FOLDED_HERE

    def _abandon(self, found: Versioned[Round], value: Abandoned, *, below_minimum: bool) -> Versioned[Round] | None:
        """As `_replace`; whoever abandons the round says so."""
        replaced = self._replace(found, value)
        if replaced is not None:
            events.round_abandoned(value, below_minimum=below_minimum)
        return replaced

    def _replace(self, found: Versioned[Round], value: Round) -> Versioned[Round] | None:
        """Compare-and-set; None if another was faster, who then carries on from there."""
        try:
            return self.platform.rounds.replace(found, value)
        except ConflictError:
            return None


def _repairs(seconds: float) -> int:
    """How often a tick has repaired a round that closed so many seconds ago: after 0 s, then after 1 min, 2 min, 4 min and so on.

    Most often nothing got lost, and what was called for takes its time: then a second committer would compute for nothing.
    """
    return max(0, math.floor(math.log2(max(seconds, 1.0) / TICK)) + 1)
