"""Speed of the fold beside numpy's in-place addition of the same arrays: `make bench-fold`.

All figures of a case are of one run and measured alternately, so that other load on the machine
affects them alike. The updates are files in the page cache. GB/s (10^9 bytes of updates per second)
and fractions of the yardstick are medians.

- add: numpy adds arrays that are in memory already. The yardstick.
- fold: files are read (small ones) or mapped, headers checked, updates added, and the sum checked
  once for NaN and infinity: the fold of sums.
- checked: the same with every update checked by itself, as for a maximum or after a bad update.
- TensorFlow: `accumulate` as a graph, for plans whose accumulators are not proven to be sums.
- part: the whole fold of a manifest: the above, a new accumulator, the partial written and the
  updates deleted.

Everything but `add` is the coordinator's own code; `fold` and `checked` use an accumulator that
exists already. Last, two processes fold parts at once, beside one alone.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from support.harness import Harness
from support.sized import sized_plan, sized_update, with_tensorflow

from benchmarks.crowd import SPAWN
from benchmarks.figures import MEGABYTE
from muster.runtime.fold import Accumulator, Fold
from muster.wire.tensors import encode
from muster_coordinator.domain import names
from muster_coordinator.domain.rounds import Terms
from muster_coordinator.domain.updates import UpdateRules, all_finite
from muster_coordinator.state.partial_builder import Part, PartialBuilder
from muster_coordinator.state.round_ledger import PartContents, RoundLedger

_AT_ONCE = 200  # megabytes of updates in a case
_LIMIT = 100  # updates in a case


@dataclass(frozen=True)
class Case:
    """A model of so many megabytes (10^6 bytes), in so many tensors."""

    megabytes: int
    tensors: int

    @property
    def updates(self) -> int:
        """Number of updates that are folded at a time."""
        return min(_LIMIT, max(3, _AT_ONCE // self.megabytes))


@dataclass(frozen=True)
class _GivenAccumulators(PartialBuilder):
    """Builder that folds into given accumulators, so that their creation is not measured."""

    make: Callable[[], Accumulator] = field(kw_only=True)

    def start(self, terms: Terms) -> Accumulator:  # noqa: ARG002  there is one plan
        """See `PartialBuilder.start`."""
        return self.make()


class Bench:
    """One case."""

    def __init__(self, case: Case, root: Path, *, tensorflow: bool) -> None:
        size = case.megabytes * MEGABYTE
        self.plan = sized_plan(size, tensors=case.tensors)
        self.harness = Harness(root, plan=self.plan)
        self.harness.begin(goal=case.updates, shards=1)
        self.blobs, self.key = self.harness.inner.blobs, self.harness.key()
        self.names = [names.update_name(self.key, 0, f"{at:032x}") for at in range(case.updates)]
        self.updates = [sized_update(size, tensors=case.tensors, seed=at) for at in range(case.updates)]
        self.bodies = [encode(update) for update in self.updates]
        self.store()
        self.strict = self.harness.app.plans.rules(self.plan.sha256, allow_non_finite=False)
        self.into = {name: np.zeros_like(value) for name, value in self.updates[0].items()}
        sums = Fold(self.plan.manifest, zero=self.plan.zero()).start()
        self.sums = self._builder(lambda: sums)
        if tensorflow:
            from muster.runtime import Runtime  # loads TensorFlow

            graphs = with_tensorflow(self.plan)
            self.graphs = self._builder(
                Fold(graphs.manifest, zero=graphs.zero(), tensorflow=lambda: Runtime(graphs)).start
            )

    def _builder(self, make: Callable[[], Accumulator]) -> PartialBuilder:
        builder = self.harness.app.update_aggregator.partials
        return _GivenAccumulators(builder.platform, plans=builder.plans, runtime=builder.runtime, make=make)

    def store(self) -> None:
        """Restores the updates."""
        for name, body in zip(self.names, self.bodies, strict=True):
            self.blobs.create(name, [body])

    def add(self) -> None:
        """Measures the yardstick."""
        for update in self.updates:
            for name, value in update.items():
                np.add(self.into[name], value, out=self.into[name])

    def fold(self) -> None:
        """Folds without a check of each update's values."""
        accumulator = self._build(self.sums, replace(self.strict, allow_non_finite=True))
        assert all_finite(accumulator.tensors())

    def checked(self) -> None:
        """Folds with a check of each update's values."""
        self._build(self.sums, self.strict)

    def tensorflow(self) -> None:
        """Folds with graphs."""
        self._build(self.graphs, self.strict)

    def _build(self, builder: PartialBuilder, rules: UpdateRules) -> Accumulator:
        partial = builder.build(self._part(), rules=rules)
        assert partial is not None
        assert partial.tally.folded == len(self.names), partial.tally
        return partial.accumulator

    def part(self) -> None:
        """Folds a manifest."""
        self.harness.app.update_aggregator._fold(self._part())
        self.blobs.delete(self.names)

    def _part(self) -> Part:
        round_ = self.harness.platform.round(self.key)
        assert round_ is not None
        ledger = RoundLedger(self.harness.platform, self.key)
        return Part(round_.value, ledger, names.shard_part(0, 0), PartContents(tuple(self.names)))

    def after_part(self) -> None:
        """Prepares the next `part`."""
        self.blobs.delete([names.partial_name(self.key, names.shard_part(0, 0))])
        self.store()


def measure(case: Case, *, repeats: int, tensorflow: bool) -> dict[str, list[float]]:
    """Returns the seconds of each step, once per repeat."""
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        bench = Bench(case, Path(folder), tensorflow=tensorflow)
        steps: dict[str, Callable[[], None]] = {"add": bench.add, "fold": bench.fold, "checked": bench.checked}
        if tensorflow:
            steps["TensorFlow"] = bench.tensorflow
        steps["part"] = bench.part
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for repeat in range(repeats + 1):
            for name, step in steps.items():
                started = time.perf_counter()
                step()
                took = time.perf_counter() - started
                if name == "part":
                    bench.after_part()
                if repeat:  # the first is for the caches
                    seconds[name].append(took)
    return seconds


@dataclass(frozen=True)
class Together:
    """GB/s of updates that one process folds alone, and that two fold at once."""

    alone: list[float]
    both: list[float]


def measure_together(case: Case, *, repeats: int, parts: int = 10) -> Together:
    """Measures processes that fold `parts` parts each: one alone and both, alternately."""
    lines, members = [], []
    for _ in range(2):
        mine, theirs = SPAWN.Pipe()
        members.append(SPAWN.Process(target=_member, args=(case, parts, theirs), daemon=True))
        lines.append(mine)
    for member in members:
        member.start()
    speeds: dict[int, list[float]] = {1: [], 2: []}
    try:
        for line in lines:
            line.recv()
        for repeat in range(repeats + 1):
            for count, samples in speeds.items():
                for line in lines[:count]:
                    line.send("go")
                spans = [line.recv() for line in lines[:count]]
                size = count * parts * case.updates * case.megabytes * MEGABYTE
                took = max(end for _, end in spans) - min(start for start, _ in spans)
                samples.extend([size / took / 1e9] if repeat else [])
    finally:
        for member in members:
            member.kill()
            member.join()
    return Together(speeds[1], speeds[2])


def _member(case: Case, parts: int, line: Any) -> None:
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        bench = Bench(case, Path(folder), tensorflow=False)
        line.send("ready")
        while line.recv():
            start = time.monotonic()
            for _ in range(parts):
                bench.fold()
            line.send((start, time.monotonic()))


def main() -> None:
    """Runs the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="*", default=[1, 10, 100])
    parser.add_argument("--tensors", type=int, nargs="*", default=[1, 40])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-tensorflow", action="store_true", help="leave its figure out, and its loading")
    options = parser.parse_args()
    table = Table("model MB", "tensors", "updates", "step", "GB/s", "share of add")
    for megabytes in options.megabytes:
        for tensors in options.tensors:
            case = Case(megabytes, tensors)
            samples = measure(case, repeats=options.repeats, tensorflow=not options.no_tensorflow)
            medians = {step: statistics.median(each) for step, each in samples.items()}
            size = case.updates * megabytes * MEGABYTE
            for step, seconds in medians.items():
                row = (f"{size / seconds / 1e9:.2f}", f"{medians['add'] / seconds:.2f}")
                table.add_row(str(megabytes), str(tensors), str(case.updates), step, *row)
    Console(width=100).print(table)
    pair = Table("model MB", "one process, GB/s", "two at once", "of one")
    for megabytes in options.megabytes:
        medians = measure_together(Case(megabytes, 1), repeats=options.repeats)
        alone, both = statistics.median(medians.alone), statistics.median(medians.both)
        pair.add_row(str(megabytes), f"{alone:.2f}", f"{both:.2f}", f"{both / alone:.2f}")
    Console(width=100).print(pair)


if __name__ == "__main__":
    main()
