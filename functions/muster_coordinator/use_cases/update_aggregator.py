"""The fold: a manifest's updates, one after another, into one partial; and the updates deleted once it is durable."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import numpy as np
from pydantic import TypeAdapter

from muster.runtime.fold import Accumulator, Fold
from muster.runtime.norms import NormBound
from muster.wire.manifest import PlanManifest
from muster.wire.plan import Plan
from muster.wire.problems import ProblemError, ProblemType, TimeLimitError
from muster.wire.tensors import TensorsError, decode, encode_chunks, read_header
from muster_coordinator import events, queued_work
from muster_coordinator.concurrency.cache import Cache
from muster_coordinator.concurrency.named_locks import NamedLocks
from muster_coordinator.domain import names
from muster_coordinator.domain.ledger import AgeLimit, ShardContents
from muster_coordinator.domain.names import RoundKey, rest_part
from muster_coordinator.domain.rounds import Aggregating, Collecting, Open, Tally, Terms
from muster_coordinator.domain.updates import (
    OPEN_SIZE,
    UpdateReader,
    UpdateRules,
    all_finite,
    finite_sum_implies_finite_updates,
)
from muster_coordinator.plan_runner import MemoryLimitError, PlanRunner, plan_failures
from muster_coordinator.ports import BlobNotFoundError, BlobTooLargeError, UnavailableError
from muster_coordinator.state.fold_timers import rearm
from muster_coordinator.state.parallel import prefetch
from muster_coordinator.state.pausing import at_round, is_stopped, stops_task
from muster_coordinator.state.plan_repository import PlanRepository
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.round_ledger import Frozen, PartContents, RoundLedger

if TYPE_CHECKING:
    from muster.runtime import Runtime

LOG = logging.getLogger(__name__)
NORM = "norm"  # why an update was dropped: it is larger than the task's bound
MISSING = "missing"  # why an update was dropped: its blob is gone, though nothing folded it
# Failures of a fold that are not the fault of an update.
_OF_THE_PLAN = frozenset({ProblemType.PLAN_INVALID, ProblemType.INVALID_REQUEST, ProblemType.NOT_SUPPORTED})
_ACCUMULATOR = "The plan's accumulator"
_MAX_FAILED = 1000  # tasks with a failed fold that a process tracks
_SMALL = 3 << 19  # bytes: an update of up to about so many is read sooner than it is mapped
_TALLY: TypeAdapter[Tally] = TypeAdapter(Tally)


@dataclass(frozen=True, slots=True)
class _Added:
    """An update that was folded: its bytes, and whether it was scaled down."""

    size: int
    clipped: bool


@dataclass(slots=True)
class _Adding:
    """Outcomes of the updates of a part so far."""

    folded: int = 0
    clipped: int = 0
    size: int = 0  # bytes
    dropped: Counter[str] = field(default_factory=Counter)
    failure: ProblemError | None = None  # the last failure of a graph

    def add(self, added: _Added | None) -> None:
        """Counts a folded update; None: its norm exceeded the bound."""
        if added is None:
            self.dropped[NORM] += 1
        else:
            self.folded, self.clipped, self.size = self.folded + 1, self.clipped + added.clipped, self.size + added.size

    def drop(self, reason: str, problem: ProblemError | None = None) -> None:
        """Counts a dropped update."""
        self.dropped[reason] += 1
        if problem is not None and problem.type is ProblemType.COMPUTATION_FAILED:
            self.failure = problem

    def check(self, before: Tally) -> None:
        """Raises the graph's failure if it failed for every update: then the plan is at fault, not an update."""
        failed = self.dropped[ProblemType.COMPUTATION_FAILED.value]
        if (
            self.failure is not None
            and failed > 1
            and failed == self.dropped.total()
            and not self.folded + before.folded
        ):
            raise self.failure

    def tally(self) -> Tally:
        """Returns the counts."""
        return Tally(folded=self.folded, dropped=dict(self.dropped), update_bytes=self.size, clipped=self.clipped)


@dataclass(frozen=True, slots=True)
class _Made:
    """A part's accumulator, with the tally of the partial that it started from and of the updates that were added."""

    accumulator: Accumulator
    before: Tally
    tally: Tally


class FoldBusyError(UnavailableError):
    """Error raised when this process is already running slow graphs for a fold of the task. Retry the work later."""


@dataclass(frozen=True)
class UpdateAggregator:
    """Folder of updates: with numpy one part at a time per process, with a plan's graphs one part at a time per task.

    Memory: one accumulator, one update and the prefetched blobs (`at_once.read_ahead`), and as much again for each task
    that folds with graphs. A fold with numpy is bound by its bytes. Graphs may be slow, so no fold of another task
    waits for them.

    `runtime` returns the runtime of a plan whose accumulators are not proven sums; only this requires TensorFlow.
    """

    platform: Platform
    plans: PlanRepository
    runtime: Callable[[Plan], Runtime]
    _patience: float = 5.0  # longest wait of a fold for graphs of the same task, in seconds
    _turn: threading.Lock = field(default_factory=threading.Lock)
    _graph_turns: NamedLocks = field(default_factory=NamedLocks)
    _failed: Cache[str, bool] = field(default_factory=lambda: Cache(max_entries=_MAX_FAILED))
    # Takes small updates, one after another, of whoever has the turn: memory that is used again costs no page faults.
    _small: memoryview = field(default_factory=lambda: np.empty(_SMALL, np.uint8).data)

    def fold_shard(self, key: RoundKey, shard: int) -> None:
        """Folds the shard's full chunks and its aged updates, and deletes leftovers of an interrupted attempt.

        Idempotent. If pending updates remain, it schedules itself for the time at which one of them will be too old.
        """
        found = self.platform.round(key)
        if found is None or not isinstance(found.value, Collecting):
            return
        round_, ledger = found.value, RoundLedger(self.platform, key)
        with self.stops_task(key):
            if self.is_stopped(round_):
                return
            self.fold_contents(round_, ledger, shard, ledger.contents(shard))
            rearm(self.platform, round_, shard, ledger.left(shard))

    def fold_contents(self, round_: Collecting, ledger: RoundLedger, shard: int, held: ShardContents) -> None:
        """As `fold_shard`, of a round whose shard was just looked into."""
        for index, manifest in enumerate(held.manifests):
            # Updates are deleted once their partial is durable: where none is left, there is nothing to do any more.
            if not held.stored.isdisjoint(manifest.updates):
                self._ensure(round_, ledger, names.shard_part(shard, index))
        limit = AgeLimit(round_.terms.max_update_age, self.platform.clock.now())
        while (made := ledger.freeze_chunk(shard, chunk=round_.terms.chunk, limit=limit)) is not None:
            self._ensure(round_, ledger, names.shard_part(shard, made[0]))

    def fold_part(self, key: RoundKey, part: str) -> None:
        """Folds one part of a closed round; the last one to be folded calls for the commit. A repeat does nothing."""
        found = self.platform.round(key)
        ledger = RoundLedger(self.platform, key)
        frozen = ledger.frozen()
        if found is None or frozen is None or not isinstance(found.value, Aggregating):
            return
        with self.stops_task(key):
            if self.is_stopped(found.value):
                return
            if ledger.has_partial(part):
                # The process that made the partial may have died before it could delete the updates.
                self.platform.blobs.delete(ledger.updates_of(part, frozen) or ())
            else:
                self.platform.blobs.delete(self.make_part(found.value, ledger, frozen, part))
            # The parts left over at the close are folded last, roughly in order, so a missing one is found in a check
            # or two.
            rest = [rest_part(index) for index in reversed(range(len(frozen.closing.rest)))]
            if all(map(ledger.has_partial, rest)) and not ledger.missing(frozen.closing.parts()):
                self.platform.enqueue(queued_work.commit(key), key)

    @contextmanager
    def stops_task(self, key: RoundKey) -> Iterator[None]:
        """Pauses the round's task if the body fails for good; see `stopping.stops_task`."""
        with stops_task(
            self.platform, key.task, f"Updates of round {key.number} can't be folded", concerns=at_round(key)
        ):
            try:
                yield
            except ProblemError:
                self._failed.put(key.task, True)
                raise

    def is_stopped(self, round_: Open) -> bool:
        """Returns whether the round's fold waits for an operator. Reads the task only if a fold may have failed."""
        if self.plans.manifest(round_.terms.plan).folds_with_tensorflow or round_.key.task in self._failed:
            return is_stopped(self.platform, round_.key.task)
        return False

    def check_plan(self, round_: Open) -> None:
        """Raises `ProblemError` if this version refuses the round's plan, which an earlier version accepted."""
        try:
            self.plans.manifest(round_.terms.plan)
        except ProblemError as problem:
            if problem.type is not ProblemType.NOT_FOUND:
                raise

    def make_part(self, round_: Open, ledger: RoundLedger, frozen: Frozen | None, part: str) -> list[str]:
        """Makes the missing partial of a part.

        Returns:
          The blobs that it durably replaces: its updates, and the partials that it continues. The caller deletes them.
        """
        contents = ledger.part(part, frozen)
        if contents is None:
            return []
        gone = list(contents.updates)
        if contents.onto is not None:
            if not ledger.has_partial(contents.onto) and not ledger.is_durable(part):
                gone += self.make_part(round_, ledger, frozen, contents.onto)
            if not part.startswith("rest-"):
                gone.insert(0, names.partial_name(round_.key, contents.onto))
        self._fold(round_, ledger, part, contents)
        return gone

    def _ensure(self, round_: Open, ledger: RoundLedger, part: str) -> None:
        """Makes the partial of a shard's manifest, if missing, and deletes the blobs that it replaces."""
        if not ledger.is_durable(part, known=True):
            self.make_part(round_, ledger, None, part)
        contents = ledger.part(part)
        if contents is None:
            return
        # Updates are deleted last: while one remains, the next fold repeats this.
        if contents.onto is not None:
            self.platform.blobs.delete([names.partial_name(round_.key, contents.onto)])
        self.platform.blobs.delete(contents.updates)

    def _fold(self, round_: Open, ledger: RoundLedger, part: str, contents: PartContents) -> None:
        terms, manifest = round_.terms, self.plans.manifest(round_.terms.plan)
        with self._one_at_a_time(manifest, round_.key) as waited:
            if waited and ledger.is_durable(part):
                return  # made meanwhile
            rules = self.plans.rules(terms.plan, allow_non_finite=terms.allow_non_finite)
            # Sums tell at their end whether every update was finite. They nearly always were: then no update is read twice.
            if (
                not terms.allow_non_finite
                and terms.max_update_norm is None
                and finite_sum_implies_finite_updates(manifest)
            ):
                lenient = replace(rules, allow_non_finite=True)
                made = self._add_all(round_, ledger, part, contents, rules=lenient)
                if made is not None and not all_finite(made.accumulator.tensors()):
                    del made  # before the next accumulator is made
                    made = self._add_all(round_, ledger, part, contents, rules=rules)
            else:
                made = self._add_all(round_, ledger, part, contents, rules=rules)
            if made is None:
                return
            for reason, count in made.tally.dropped.items():
                for _ in range(count):
                    events.update_refused(reason, at="fold")
            tally = made.before.plus(made.tally)
            chunks = encode_chunks(made.accumulator.tensors(), notes=_TALLY.dump_python(tally, mode="json"))
            self.platform.blobs.create(names.partial_name(round_.key, part), chunks)

    @contextmanager
    def _one_at_a_time(self, manifest: PlanManifest, key: RoundKey) -> Iterator[bool]:
        """Waits for the lock of the fold, and yields whether it had to wait.

        Raises:
          FoldBusyError: graphs of the same task have held the lock for too long.
        """
        graphs = manifest.folds_with_tensorflow
        turn = self._graph_turns.for_name(key.task) if graphs else self._turn
        waits = turn.locked()
        if not turn.acquire(timeout=self._patience if graphs else -1):
            raise FoldBusyError(f"Updates of task {key.task} are being folded here; try again later")
        try:
            yield waits
        finally:
            turn.release()

    def _add_all(
        self, round_: Open, ledger: RoundLedger, part: str, contents: PartContents, *, rules: UpdateRules
    ) -> _Made | None:
        """Folds the updates that satisfy `rules`. Returns None if another aggregator has folded and deleted them.

        Raises:
          ProblemError: the plan can't fold, and a retry would fail in the same way.
        """
        terms = round_.terms
        accumulator, before = self.start(terms), Tally()
        if contents.onto is not None:
            try:
                before = self.merge(accumulator, ledger, [contents.onto])
            except BlobNotFoundError:
                if ledger.is_durable(part):
                    return None
                raise
        bound = None if terms.max_update_norm is None else NormBound(terms.max_update_norm, terms.clip)
        reader = UpdateReader(rules)
        adding = _Adding()
        most, into = rules.max_bytes, None if accumulator.aliases else self._small
        with prefetch(self.platform, contents.updates, size=most, limit=most, into=into) as read:
            for name in contents.updates:
                try:
                    adding.add(_add(accumulator, reader, read(name), bound))
                except BlobNotFoundError:
                    if ledger.is_durable(part):
                        return None
                    adding.drop(MISSING)
                except BlobTooLargeError as error:
                    LOG.warning("round %s: an update was dropped: %s", round_.key, error)
                    adding.drop(ProblemType.TOO_LARGE.value)
                except ProblemError as problem:
                    if isinstance(problem, TimeLimitError | MemoryLimitError) or problem.type in _OF_THE_PLAN:
                        raise
                    LOG.warning("round %s: an update was dropped: %s", round_.key, problem)
                    adding.drop(problem.type.value, problem)
        adding.check(before)
        return _Made(accumulator, before, adding.tally())

    def start(self, terms: Terms) -> Accumulator:
        """Returns an empty accumulator of a round's plan. Raises `ProblemError` if the plan can't have one."""
        manifest = self.plans.manifest(terms.plan)
        if manifest.sums_alone:
            with plan_failures(_ACCUMULATOR):
                return Fold(manifest, zero=None).start()
        full = self.plans.full(terms.plan)
        with plan_failures(_ACCUMULATOR):
            return Fold(full.manifest, zero=full.zero(), tensorflow=lambda: self._runner(full, terms)).start()

    def _runner(self, plan: Plan, terms: Terms) -> Runtime:
        """Returns the runtime of a plan for a fold, within the task's time limit."""
        return cast("Runtime", PlanRunner(self.runtime(plan), terms.graph_seconds))

    def merge(self, accumulator: Accumulator, ledger: RoundLedger, parts: Sequence[str]) -> Tally:
        """Merges partials into `accumulator`, in this order, and gives their tally. Raises `BlobNotFoundError`."""
        tally = Tally()
        partials = [names.partial_name(ledger.key, part) for part in parts]
        tensors = accumulator.tensors().values()
        size = sum(OPEN_SIZE if tensor.dtype.hasobject else tensor.nbytes for tensor in tensors)
        with prefetch(self.platform, partials, size=size) as read:
            for name in partials:
                tally = tally.plus(_merge(accumulator, read(name)))
        return tally


def _merge(accumulator: Accumulator, data: memoryview) -> Tally:
    """Merges one partial. Nothing holds its bytes once this has returned."""
    try:
        partial, notes = decode(data), read_header(data).notes
    except TensorsError as error:
        raise ProblemError(ProblemType.UPDATE_INVALID, f"A partial can't be read: {error}") from error
    with plan_failures("A partial"):
        accumulator.merge(partial)
        return _TALLY.validate_python(dict(notes))


def _add(accumulator: Accumulator, reader: UpdateReader, data: memoryview, bound: NormBound | None) -> _Added | None:
    """Adds one update; None if its norm is over the bound. Nothing holds its bytes once this has returned."""
    update = reader.read(data)
    with plan_failures("The plan's fold"):
        factor = 1.0 if bound is None else bound.factor(update)
        if factor is None:
            return None
        accumulator.add(update, factor=factor)
    return _Added(size=len(data), clipped=factor != 1.0)
