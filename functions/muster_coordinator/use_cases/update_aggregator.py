"""The aggregator folds updates into partials, and deletes them once their partial is durable."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace

from muster.wire.manifest import PlanManifest
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator import events, queued_work
from muster_coordinator.concurrency.cache import Cache
from muster_coordinator.concurrency.named_locks import NamedLocks
from muster_coordinator.domain import names
from muster_coordinator.domain.ledger import AgeLimit, ShardContents
from muster_coordinator.domain.names import RoundKey, rest_part
from muster_coordinator.domain.rounds import Aggregating, Collecting, Open
from muster_coordinator.domain.updates import all_finite, finite_sum_implies_finite_updates
from muster_coordinator.ports import BusyError
from muster_coordinator.state.fold_timers import rearm
from muster_coordinator.state.partial_builder import Part, Partial, PartialBuilder
from muster_coordinator.state.pausing import is_at_round, is_stopped, pause_on_final_problem
from muster_coordinator.state.plan_repository import PlanRepository
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.round_ledger import FrozenClosing, RoundLedger

_MAX_FAILED = 1000  # tasks with a failed fold that a process tracks


class FoldBusyError(BusyError):
    """Error raised when this process is already running slow graphs for a fold of the task.

    Retry the work later.
    """


@dataclass(frozen=True)
class UpdateAggregator:
    """Aggregator of updates, one fold at a time.

    A process runs one numpy fold at a time, and one fold with a plan's graphs at a time per task.
    So its memory is bounded by one build (see `PartialBuilder`), plus one for each task that folds
    with graphs. A numpy fold takes time in proportion to its bytes. Graphs may be slow, so a fold
    waits only for graphs of the same task.
    """

    platform: Platform
    _: KW_ONLY
    plans: PlanRepository
    partials: PartialBuilder
    _patience: float = 5.0  # seconds that a fold waits for graphs of the same task
    _numpy_lock: threading.Lock = field(default_factory=threading.Lock)
    _graph_locks: NamedLocks = field(default_factory=NamedLocks)
    _failed: Cache[str, bool] = field(default_factory=lambda: Cache(max_entries=_MAX_FAILED))

    def fold_shard(self, key: RoundKey, shard: int) -> None:
        """Folds the shard's full chunks and its aged updates, and deletes updates that are folded.

        Idempotent: it completes an interrupted attempt. If pending updates remain, it schedules
          itself for the time at which one of them
        will be too old.
        """
        record = self.platform.round(key)
        if record is None or not isinstance(record.value, Collecting):
            return
        round_, ledger = record.value, RoundLedger(self.platform, key)
        with self.stops_task(key):
            if self.is_stopped(round_):
                return
            self.fold_contents(round_, ledger, shard, ledger.contents(shard))
            rearm(self.platform, round_, shard, ledger.left(shard))

    def fold_contents(self, round_: Collecting, ledger: RoundLedger, shard: int, contents: ShardContents) -> None:
        """Folds a shard like `fold_shard`, for a caller that has just read the shard's contents."""
        for index, manifest in enumerate(contents.manifests):
            # Updates are deleted after their partial is durable, so a manifest without stored
            # updates is done.
            if not contents.stored.isdisjoint(manifest.updates):
                self._ensure(round_, ledger, names.shard_part(shard, index))
        limit = AgeLimit(round_.terms.max_update_age, self.platform.clock.now())
        while (frozen := ledger.freeze_chunk(shard, chunk=round_.terms.chunk, limit=limit)) is not None:
            index, _ = frozen
            self._ensure(round_, ledger, names.shard_part(shard, index))

    def fold_part(self, key: RoundKey, part: str) -> None:
        """Folds one part of a closed round.

        The fold of the last part enqueues the commit. Idempotent.
        """
        record = self.platform.round(key)
        ledger = RoundLedger(self.platform, key)
        frozen = ledger.frozen()
        if record is None or frozen is None or not isinstance(record.value, Aggregating):
            return
        with self.stops_task(key):
            if self.is_stopped(record.value):
                return
            if ledger.has_partial(part):
                # The process that stored the partial may have died before it deleted the updates.
                self.platform.blobs.delete(ledger.updates_of(part, frozen) or ())
            else:
                self.platform.blobs.delete(self.make_part(record.value, ledger, frozen, part))
            # The leftovers of the close are folded last, roughly in order, so one or two checks
            # find a missing one.
            rest = [rest_part(index) for index in reversed(range(len(frozen.closing.rest)))]
            if all(map(ledger.has_partial, rest)) and not ledger.missing(frozen.closing.parts()):
                self.platform.enqueue(queued_work.commit(key), key)

    @contextmanager
    def stops_task(self, key: RoundKey) -> Iterator[None]:
        """Pauses the round's task if the body fails for good; see `pausing.stops_task`."""
        with pause_on_final_problem(
            self.platform, key.task, f"Updates of round {key.number} can't be folded", concerns=is_at_round(key)
        ):
            try:
                yield
            except ProblemError:
                self._failed.put(key.task, True)
                raise

    def is_stopped(self, round_: Open) -> bool:
        """Returns whether the round's fold waits for an operator.

        Reads the task only if a fold may have failed.
        """
        if self.plans.manifest(round_.terms.plan).folds_with_tensorflow or round_.key.task in self._failed:
            return is_stopped(self.platform, round_.key.task)
        return False

    def check_plan(self, round_: Open) -> None:
        """Checks the plan of a round that an earlier version may have opened.

        Raises:
          ProblemError: this version refuses the plan.
        """
        try:
            self.plans.manifest(round_.terms.plan)
        except ProblemError as problem:
            if problem.type is not ProblemType.NOT_FOUND:
                raise

    def make_part(self, round_: Open, ledger: RoundLedger, frozen: FrozenClosing | None, part: str) -> list[str]:
        """Makes a part's partial, and first the partial that it continues, where either is missing.

        Returns:
          The blobs that the partial durably replaces: its updates, and the partials that it
          continues. The caller deletes them.
        """
        contents = ledger.part(part, frozen)
        if contents is None:
            return []
        replaced = list(contents.updates)
        if contents.onto is not None:
            if not ledger.has_partial(contents.onto) and not ledger.is_durable(part):
                replaced += self.make_part(round_, ledger, frozen, contents.onto)
            if not part.startswith("rest-"):
                replaced.insert(0, names.partial_name(round_.key, contents.onto))
        self._fold(Part(round_, ledger, part, contents))
        return replaced

    def _ensure(self, round_: Open, ledger: RoundLedger, part: str) -> None:
        """Makes the partial of a shard's manifest, if missing, and deletes what it replaces."""
        if not ledger.is_durable(part, known=True):
            self.make_part(round_, ledger, None, part)
        contents = ledger.part(part)
        if contents is None:
            return
        # Updates are deleted last: while one remains, the next fold repeats this.
        if contents.onto is not None:
            self.platform.blobs.delete([names.partial_name(round_.key, contents.onto)])
        self.platform.blobs.delete(contents.updates)

    def _fold(self, part: Part) -> None:
        """Folds a part and stores its partial, unless another aggregator has stored it."""
        manifest = self.plans.manifest(part.round.terms.plan)
        with self._fold_lock(manifest, part.round.key) as waited:
            if waited and part.is_durable():
                return  # stored while this fold waited
            partial = self._build(part, manifest)
            if partial is None:
                return
            for reason, count in partial.tally.dropped.items():
                for _ in range(count):
                    events.update_refused(reason, at="fold")
            self.platform.blobs.create(names.partial_name(part.round.key, part.name), partial.encode())

    def _build(self, part: Part, manifest: PlanManifest) -> Partial | None:
        """Builds a partial of the part's valid updates, or returns None if it is stored already."""
        terms = part.round.terms
        rules = self.plans.rules(terms.plan, allow_non_finite=terms.allow_non_finite)
        if terms.allow_non_finite or terms.max_update_norm is not None:
            return self.partials.build(part, rules=rules)
        if not finite_sum_implies_finite_updates(manifest):
            return self.partials.build(part, rules=rules)
        # Checking the sum once is cheaper than checking every update, and almost always enough.
        partial = self.partials.build(part, rules=replace(rules, allow_non_finite=True))
        if partial is None or all_finite(partial.accumulator.tensors()):
            return partial
        del partial  # frees its accumulator before the next one is made
        return self.partials.build(part, rules=rules)

    @contextmanager
    def _fold_lock(self, manifest: PlanManifest, key: RoundKey) -> Iterator[bool]:
        """Holds the lock of the fold, and yields whether another fold held it before.

        Raises:
          FoldBusyError: graphs of the same task have held the lock for too long.
        """
        with_graphs = manifest.folds_with_tensorflow
        lock = self._graph_locks.for_name(key.task) if with_graphs else self._numpy_lock
        waits = lock.locked()
        if not lock.acquire(timeout=self._patience if with_graphs else -1):
            raise FoldBusyError(f"Updates of task {key.task} are being folded here; try again later")
        try:
            yield waits
        finally:
            lock.release()
