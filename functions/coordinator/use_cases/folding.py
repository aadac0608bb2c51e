"""The fold: a manifest's updates, one after another, into one partial; and the updates deleted once it is durable."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from pydantic import TypeAdapter

from coordinator.domain import names
from coordinator.domain.ledger import ShardContents
from coordinator.domain.names import RoundKey, rest_part
from coordinator.domain.rounds import Aggregating, Collecting, Open, Tally
from coordinator.domain.updates import OPEN_SIZE, UpdateReader, UpdateRules, all_finite, sums_tell
from coordinator.ports import BlobNotFoundError, BlobTooLargeError
from coordinator.use_cases import events, work
from coordinator.use_cases.at_once import read_ahead
from coordinator.use_cases.ledgers import Frozen, Ledger
from coordinator.use_cases.plans import Plans
from coordinator.use_cases.records import Platform
from muster.runtime.fold import Accumulator, Fold
from muster.runtime.norms import NormBound
from muster.wire.plan import Plan
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import decode, encode_chunks, read_header

if TYPE_CHECKING:
    from muster.runtime import Runtime

LOG = logging.getLogger(__name__)
NORM = "norm"  # why an update was dropped: it is larger than the task's bound
MISSING = "missing"  # why an update was dropped: its blob is gone, though nothing folded it
_SMALL = 3 << 19  # bytes: an update of up to about so many is read sooner than it is mapped
_TALLY: TypeAdapter[Tally] = TypeAdapter(Tally)


@dataclass(frozen=True, slots=True)
class _Added:
    """An update that was folded: its bytes, and whether it was scaled down."""

    size: int
    clipped: bool


@dataclass(frozen=True, slots=True)
class _Made:
    """A part's accumulator, with the tally of the partial that it started from and of the updates that were added."""

    accumulator: Accumulator
    before: Tally
    tally: Tally


@dataclass(frozen=True)
class Folding:
    """Folds updates, one part at a time in a process, however many ask.

    Its memory is that of one accumulator and one update, and of what is read ahead (`at_once.read_ahead`).

    `runtime` gives what runs the graphs of a plan whose accumulators are no proven sums; it alone needs TensorFlow.
    """

    platform: Platform
    plans: Plans
    runtime: Callable[[Plan], Runtime]
    _turn: threading.Lock = field(default_factory=threading.Lock)
    # Takes small updates, one after another, of whoever has the turn: memory that is used again costs no page faults.
    _small: memoryview = field(default_factory=lambda: np.empty(_SMALL, np.uint8).data)

    def fold_shard(self, key: RoundKey, shard: int) -> None:
        """Folds the shard's full chunks, and removes what an earlier try that died left of them. A repeat does nothing."""
        found = self.platform.round(key)
        if found is None or not isinstance(found.value, Collecting):
            return
        ledger = Ledger(self.platform, key)
        self.fold_contents(found.value, ledger, shard, ledger.contents(shard))

    def fold_contents(self, round_: Collecting, ledger: Ledger, shard: int, held: ShardContents) -> None:
        """As `fold_shard`, of a round whose shard was just looked into."""
        for index, manifest in enumerate(held.manifests):
            # Updates are deleted once their partial is durable: where none is left, there is nothing to do any more.
            if not held.stored.isdisjoint(manifest.updates):
                self._ensure(round_, ledger, names.shard_part(shard, index), manifest.updates)
        while (made := ledger.freeze_chunk(shard, chunk=round_.terms.chunk)) is not None:
            index, manifest = made
            self._ensure(round_, ledger, names.shard_part(shard, index), manifest.updates)

    def fold_part(self, key: RoundKey, part: str) -> None:
        """Folds one part of a closed round; the last one to be folded calls for the commit. A repeat does nothing."""
        found = self.platform.round(key)
        ledger = Ledger(self.platform, key)
        frozen = ledger.frozen()
        if found is None or frozen is None or not isinstance(found.value, Aggregating):
            return
        if ledger.has_partial(part):
            # Whoever made it may have died before it could delete them.
            self.platform.blobs.delete(ledger.updates_of(part, frozen) or ())
        else:
            self.platform.blobs.delete(self.make_part(found.value, ledger, frozen, part))
        # The parts left over at the close are folded last, and about in order: while one is missing, a look or two tell.
        rest = [rest_part(index) for index in reversed(range(len(frozen.closing.rest)))]
        if all(map(ledger.has_partial, rest)) and not ledger.missing(frozen.closing.parts()):
            self.platform.enqueue(work.commit(key), key)

    def make_part(self, round_: Open, ledger: Ledger, frozen: Frozen, part: str) -> list[str]:
        """Makes the partial of a part that was not there a moment ago.

        Returns:
          The updates that are in it, durably, whoever made it: from here on they are read no more, and the caller deletes them.
        """
        updates = ledger.updates_of(part, frozen)
        if updates is None:
            return []
        folded = list(updates)
        onto = frozen.closing.onto if part.startswith("rest-") else None
        if onto is not None and not ledger.has_partial(onto):
            folded += self.make_part(round_, ledger, frozen, onto)
        self._fold(round_, ledger, part, updates, onto)
        return folded

    def _ensure(self, round_: Open, ledger: Ledger, part: str, updates: tuple[str, ...]) -> None:
        """Makes the partial of a shard's manifest, unless it is there, and deletes the updates that are in it."""
        if not ledger.has_partial(part):
            self._fold(round_, ledger, part, updates)
        self.platform.blobs.delete(updates)

    def _fold(self, round_: Open, ledger: Ledger, part: str, updates: tuple[str, ...], onto: str | None = None) -> None:
        terms, manifest = round_.terms, self.plans.manifest(round_.terms.plan)
        waits = self._turn.locked()
        with self._turn:
            if waits and ledger.has_partial(part):
                return  # made meanwhile
            rules = self.plans.rules(terms.plan, allow_non_finite=terms.allow_non_finite)
            # Sums tell at their end whether every update was finite. They nearly always were: then no update is read twice.
            if not terms.allow_non_finite and terms.max_update_norm is None and sums_tell(manifest):
                lenient = replace(rules, allow_non_finite=True)
                made = self._add_all(round_, ledger, part, updates, onto=onto, rules=lenient)
                if made is not None and not all_finite(made.accumulator.tensors()):
                    del made  # before the next accumulator is made
                    made = self._add_all(round_, ledger, part, updates, onto=onto, rules=rules)
            else:
                made = self._add_all(round_, ledger, part, updates, onto=onto, rules=rules)
            if made is None:
                return
            for reason, count in made.tally.dropped.items():
                for _ in range(count):
                    events.update_refused(reason, at="fold")
            tally = made.before.plus(made.tally)
            chunks = encode_chunks(made.accumulator.tensors(), notes=_TALLY.dump_python(tally, mode="json"))
            self.platform.blobs.create(names.partial_name(round_.key, part), chunks)

    def _add_all(
        self,
        round_: Open,
        ledger: Ledger,
        part: str,
        updates: tuple[str, ...],
        *,
        onto: str | None,
        rules: UpdateRules,
    ) -> _Made | None:
        """Folds the updates that hold to `rules`. None if another aggregator was faster, and has deleted what it folded."""
        terms = round_.terms
        accumulator, before = self.start(terms.plan), Tally()
        if onto is not None:
            before = self.merge(accumulator, ledger, [onto])
        bound = None if terms.max_update_norm is None else NormBound(terms.max_update_norm, terms.clip)
        reader = UpdateReader(rules)
        folded, clipped, size, dropped = 0, 0, 0, Counter[str]()
        most, into = rules.max_bytes, None if accumulator.aliases else self._small
        with read_ahead(self.platform, updates, size=most, limit=most, into=into) as read:
            for name in updates:
                try:
                    added = _add(accumulator, reader, read(name), bound)
                except BlobNotFoundError:
                    if ledger.has_partial(part):
                        return None
                    dropped[MISSING] += 1
                except BlobTooLargeError as error:
                    LOG.warning("round %s: an update was dropped: %s", round_.key, error)
                    dropped[ProblemType.TOO_LARGE.value] += 1
                except ProblemError as problem:
                    LOG.warning("round %s: an update was dropped: %s", round_.key, problem)
                    dropped[problem.type.value] += 1
                else:
                    if added is None:
                        dropped[NORM] += 1
                    else:
                        folded, clipped, size = folded + 1, clipped + added.clipped, size + added.size
        tally = Tally(folded=folded, dropped=dict(dropped), update_bytes=size, clipped=clipped)
        return _Made(accumulator, before, tally)

    def start(self, plan: str) -> Accumulator:
        """An empty accumulator of a plan."""
        manifest = self.plans.manifest(plan)
        if manifest.sums_alone:
            return Fold(manifest, zero=None).start()
        full = self.plans.full(plan)
        return Fold(full.manifest, zero=full.zero(), tensorflow=lambda: self.runtime(full)).start()

    def merge(self, accumulator: Accumulator, ledger: Ledger, parts: Sequence[str]) -> Tally:
        """Merges partials into `accumulator`, in this order, and gives their tally. Raises `BlobNotFoundError`."""
        tally = Tally()
        partials = [names.partial_name(ledger.key, part) for part in parts]
        tensors = accumulator.tensors().values()
        size = sum(OPEN_SIZE if tensor.dtype.hasobject else tensor.nbytes for tensor in tensors)
        with read_ahead(self.platform, partials, size=size) as read:
            for name in partials:
                tally = tally.plus(_merge(accumulator, read(name)))
        return tally


def _merge(accumulator: Accumulator, data: memoryview) -> Tally:
    """Merges one partial. Nothing holds its bytes once this has returned."""
    accumulator.merge(decode(data))
    return _TALLY.validate_python(dict(read_header(data).notes))


def _add(accumulator: Accumulator, reader: UpdateReader, data: memoryview, bound: NormBound | None) -> _Added | None:
    """Adds one update; None if its norm is over the bound. Nothing holds its bytes once this has returned."""
    update = reader.read(data)
    factor = 1.0 if bound is None else bound.factor(update)
    if factor is None:
        return None
    accumulator.add(update, factor=factor)
    return _Added(size=len(data), clipped=factor != 1.0)
