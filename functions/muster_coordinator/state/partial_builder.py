"""Builds partials: folds updates and earlier partials into one accumulator of a plan."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np
from pydantic import TypeAdapter

from muster.runtime.fold import Accumulator, Fold
from muster.runtime.norms import NormBound
from muster.wire.plan import Plan
from muster.wire.problems import ProblemError, ProblemType, TimeLimitError
from muster.wire.tensors import TensorsError, decode, encode_chunks, read_header
from muster_coordinator.domain import names
from muster_coordinator.domain.rounds import Open, Terms
from muster_coordinator.domain.tally import Tally
from muster_coordinator.domain.updates import OPEN_TENSOR_SIZE, UpdateReader, UpdateRules
from muster_coordinator.plan_runner import MemoryLimitError, PlanRunner, plan_failures
from muster_coordinator.ports import BlobNotFoundError, BlobTooLargeError
from muster_coordinator.state.parallel import prefetch
from muster_coordinator.state.plan_repository import PlanRepository
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.round_ledger import PartContents, RoundLedger

if TYPE_CHECKING:
    from muster.runtime import Runtime

LOG = logging.getLogger(__name__)
NORM = "norm"  # reason of a drop: the update's norm exceeds the task's bound
MISSING = "missing"  # reason of a drop: the update's blob is missing, although nothing folded it
# Problems of the plan: every update would fail in the same way.
_PLAN_PROBLEMS = frozenset({ProblemType.PLAN_INVALID, ProblemType.INVALID_REQUEST, ProblemType.NOT_SUPPORTED})
_ACCUMULATOR = "The plan's accumulator"
_BUFFER_SIZE = 3 << 19  # bytes; up to about this size, reading an update is faster than mapping it
_TALLY: TypeAdapter[Tally] = TypeAdapter(Tally)


@dataclass(frozen=True, slots=True)
class Part:
    """Part of an open round that becomes one partial: a manifest, or the leftovers of a close."""

    round: Open
    ledger: RoundLedger
    name: str
    contents: PartContents

    def is_durable(self) -> bool:
        """Returns whether the partial, or a later one that includes it, is stored."""
        return self.ledger.is_durable(self.name)


@dataclass(frozen=True, slots=True)
class Partial:
    """Accumulator of a part.

    Attributes:
      accumulator: The accumulator.
      before: The tally of the partial that it started from.
      tally: The tally of the updates that were folded into it.
    """

    accumulator: Accumulator
    before: Tally
    tally: Tally

    def encode(self) -> Iterator[bytes | memoryview]:
        """Yields the chunks of the partial's blob: its tensors, with the tally in their notes."""
        tally = _TALLY.dump_python(self.before.plus(self.tally), mode="json")
        return encode_chunks(self.accumulator.tensors(), notes=tally)


@dataclass(frozen=True, slots=True)
class _FoldedUpdate:
    """Size of a folded update in bytes, and whether it was scaled down to the norm bound."""

    size: int
    clipped: bool


@dataclass(slots=True)
class _UpdateCounts:
    """Running counts of the updates of one part."""

    folded: int = 0
    clipped: int = 0
    size: int = 0  # bytes
    dropped: Counter[str] = field(default_factory=Counter)
    failure: ProblemError | None = None  # the last failure of a graph

    def add(self, update: _FoldedUpdate | None) -> None:
        """Counts a folded update; None counts a drop because of its norm."""
        if update is None:
            self.dropped[NORM] += 1
        else:
            self.folded += 1
            self.clipped += update.clipped
            self.size += update.size

    def drop(self, error: BlobTooLargeError | ProblemError) -> None:
        """Counts an update that was dropped because of `error`."""
        problem = ProblemType.TOO_LARGE if isinstance(error, BlobTooLargeError) else error.type
        self.dropped[problem.value] += 1
        if isinstance(error, ProblemError) and problem is ProblemType.COMPUTATION_FAILED:
            self.failure = error

    def raise_if_plan_failed(self, before: Tally) -> None:
        """Raises the graph's failure if it failed for every update: then the plan is at fault."""
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


@dataclass(frozen=True)
class PartialBuilder:
    """Builder of partials. A caller holds a lock during `build`, which uses one buffer.

    Memory: one accumulator, one update and the prefetched blobs (see `prefetch`).

    `runtime` returns the runtime of a plan whose accumulators are not proven sums. Only this
    requires TensorFlow.
    """

    platform: Platform
    _: KW_ONLY
    plans: PlanRepository
    runtime: Callable[[Plan], Runtime]
    # Buffer for small updates, one at a time. Memory that is reused causes no page faults.
    _buffer: memoryview = field(default_factory=lambda: np.empty(_BUFFER_SIZE, np.uint8).data)

    def start(self, terms: Terms) -> Accumulator:
        """Returns an empty accumulator of a round's plan.

        Raises `ProblemError` if the plan can't have one.
        """
        manifest = self.plans.manifest(terms.plan)
        if manifest.has_only_sums:
            with plan_failures(_ACCUMULATOR):
                return Fold(manifest, zero=None).start()
        plan = self.plans.full(terms.plan)
        with plan_failures(_ACCUMULATOR):
            return Fold(plan.manifest, zero=plan.zero(), tensorflow=lambda: self._runner(plan, terms)).start()

    def _runner(self, plan: Plan, terms: Terms) -> Runtime:
        """Returns the runtime of a plan for a fold, within the task's time limit."""
        return cast("Runtime", PlanRunner(self.runtime(plan), terms.graph_seconds))

    def merge(self, accumulator: Accumulator, ledger: RoundLedger, parts: Sequence[str]) -> Tally:
        """Merges the partials of `parts` into `accumulator` in this order, and returns their tally.

        Raises:
          BlobNotFoundError: one of the partials is not stored.
          ProblemError: a partial can't be read or merged.
        """
        tally = Tally()
        blobs = [names.partial_name(ledger.key, part) for part in parts]
        tensors = accumulator.tensors().values()
        size = sum(OPEN_TENSOR_SIZE if tensor.dtype.hasobject else tensor.nbytes for tensor in tensors)
        with prefetch(self.platform, blobs, size=size) as read:
            for name in blobs:
                tally = tally.plus(_merge_blob(accumulator, read(name)))
        return tally

    def build(self, part: Part, *, rules: UpdateRules) -> Partial | None:
        """Folds the part's updates that satisfy `rules`, onto the partial that the part continues.

        Returns:
          The partial, or None if another aggregator has stored it and deleted the updates
          meanwhile.

        Raises:
          ProblemError: the plan can't fold, and a retry would fail in the same way.
        """
        accumulator, before = self.start(part.round.terms), Tally()
        if part.contents.onto is not None:
            try:
                before = self.merge(accumulator, part.ledger, [part.contents.onto])
            except BlobNotFoundError:
                if part.is_durable():
                    return None
                raise
        counts = self._fold_updates(accumulator, part, rules=rules)
        if counts is None:
            return None
        counts.raise_if_plan_failed(before)
        return Partial(accumulator, before, counts.tally())

    def _fold_updates(self, accumulator: Accumulator, part: Part, *, rules: UpdateRules) -> _UpdateCounts | None:
        """Folds the part's updates and counts them, or returns None as `build` does."""
        terms, updates = part.round.terms, part.contents.updates
        bound = None if terms.max_update_norm is None else NormBound(terms.max_update_norm, terms.clip)
        reader = UpdateReader(rules)
        counts = _UpdateCounts()
        limit, buffer = rules.max_bytes, None if accumulator.may_alias_updates else self._buffer
        with prefetch(self.platform, updates, size=limit, limit=limit, into=buffer) as read:
            for name in updates:
                try:
                    counts.add(_fold_blob(accumulator, reader, read(name), bound))
                except BlobNotFoundError:
                    if part.is_durable():
                        return None
                    counts.dropped[MISSING] += 1
                except (BlobTooLargeError, ProblemError) as error:
                    if _is_of_plan(error):
                        raise
                    LOG.warning("round %s: an update was dropped: %s", part.round.key, error)
                    counts.drop(error)
        return counts


def _is_of_plan(error: Exception) -> bool:
    """Returns whether the plan is at fault, rather than an update."""
    if isinstance(error, TimeLimitError | MemoryLimitError):
        return True
    return isinstance(error, ProblemError) and error.type in _PLAN_PROBLEMS


def _merge_blob(accumulator: Accumulator, data: memoryview) -> Tally:
    """Merges one partial and returns its tally.

    Holds no reference to `data` once it has returned.
    """
    try:
        partial, notes = decode(data), read_header(data).notes
    except TensorsError as error:
        raise ProblemError(ProblemType.UPDATE_INVALID, f"A partial can't be read: {error}") from error
    with plan_failures("A partial"):
        accumulator.merge(partial)
        return _TALLY.validate_python(dict(notes))


def _fold_blob(
    accumulator: Accumulator, reader: UpdateReader, data: memoryview, bound: NormBound | None
) -> _FoldedUpdate | None:
    """Folds one update; None if its norm exceeds the bound.

    Holds no reference to `data` once it has returned.
    """
    update = reader.read(data)
    with plan_failures("The plan's fold"):
        factor = 1.0 if bound is None else bound.factor(update)
        if factor is None:
            return None
        accumulator.add(update, factor=factor)
    return _FoldedUpdate(size=len(data), clipped=factor != 1.0)
