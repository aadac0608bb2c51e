"""The seven stages of a plan, each taking and giving flat mappings of named tensors. Imports TensorFlow (≥ 2.14), no TFF."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Optional

from muster.wire.manifest import Stage
from muster.wire.plan import Plan

from .data import DataMeter, adapt
from .graphs import StageGraph, load_graph
from .ops import check_graph
from .values import Array, check_tensors

Tensors = Mapping[str, Any]


@dataclass(frozen=True)
class UpdateResult:
    """What the last stage gives: the next server state and the round's result, by name."""

    state: dict[str, Array]
    result: dict[str, Array]


class Runtime:
    """Runs a plan's stages. Each stage's graph is checked and loaded when it is first used, and kept.

    Tensors are numpy arrays of just the dtype that the manifest declares; strings are object arrays of bytes. Every method
    may be called from several threads; calls of one stage run one after another.

    Args:
      plan: A plan, or the copy that a device gets (`Plan.for_client`), which has `work` alone.
      seed: Seeds the random operations that have no seed of their own: the same calls in the same order then give the
        same bytes. For simulations only; never where noise protects someone.
    """

    def __init__(self, plan: Plan, *, seed: Optional[int] = None) -> None:
        self.plan = plan
        self._seed = seed
        self._lock = threading.Lock()
        self._graphs: dict[str, StageGraph] = {}

    def prepare(self, state: Tensors) -> dict[str, Array]:
        """`S -> B`: the round's broadcast.

        Args:
          state: The server state, as `manifest.state` declares it.

        Returns:
          The broadcast, as `manifest.broadcast` declares it.

        Raises:
          ProblemError: `invalid_request`, if the state does not match; `computation_failed`, if the graph fails; `plan_invalid`,
            if the graph can't be loaded or holds an operation that no plan may have. So for every stage.
        """
        return self._run("prepare", {"state": check_tensors(state, self.plan.manifest.state, what="state")})[
            "broadcast"
        ]

    def work(
        self, data: Any, broadcast: Tensors, *, seconds: Optional[float] = None, meter: Optional[DataMeter] = None
    ) -> dict[str, Array]:
        """`(D, B) -> U`: one client's update.

        Args:
          data: The client's data, as `manifest.data` has it; see `muster.runtime.data.adapt` for the forms it may take.
          broadcast: What `prepare` gave.
          seconds: After so long the work is stopped, at the next element of the data at the latest; None: never.
          meter: Counts the bytes of the data as they are read.

        Returns:
          The update, as `manifest.update` declares it: the plain tensors, then the sums in the clear.

        Raises:
          ProblemError: see `prepare`; `invalid_request` also if the data does not match.
          Exception: whatever reading the data raised.
        """
        manifest = self.plan.manifest
        taken = adapt(data, manifest.data, meter=meter)
        inputs = {"data": taken.tensors, "broadcast": check_tensors(broadcast, manifest.broadcast, what="broadcast")}
        return self._graph("work").run(inputs, sequences=taken.sequences, seconds=seconds)["update"]

    def zero(self) -> dict[str, Array]:
        """`() -> A`: the empty accumulator, as `manifest.accumulator` declares it."""
        return self._run("zero", {})["accumulator"]

    def accumulate(
        self, accumulator: Tensors, update: Tensors, *, only: Optional[Collection[str]] = None
    ) -> dict[str, Array]:
        """`(A, U) -> A`: the accumulator with one update more.

        Args:
          accumulator: As `manifest.accumulator` declares it.
          update: The update's plain tensors; sums in the clear are not this stage's, and are left aside if they are given.
          only: The accumulator's tensors to compute, by name; all, if it is not given.
        """
        sums = {item.path for item in self.plan.manifest.clear_sums}
        plain = {name: value for name, value in update.items() if name not in sums}
        specs = [spec for spec in self.plan.manifest.update if spec.path not in sums]
        inputs = {
            "accumulator": self._accumulator(accumulator, "accumulator"),
            "update": check_tensors(plain, specs, what="update"),
        }
        return self._graph("accumulate").run(inputs, only=only)["accumulator"]

    def merge(self, left: Tensors, right: Tensors, *, only: Optional[Collection[str]] = None) -> dict[str, Array]:
        """`(A, A) -> A`: two accumulators in one; of its tensors those in `only`, if it is given."""
        inputs = {"left": self._accumulator(left, "left"), "right": self._accumulator(right, "right")}
        return self._graph("merge").run(inputs, only=only)["accumulator"]

    def report(self, accumulator: Tensors) -> dict[str, Array]:
        """`A -> R`: the aggregate that `update` takes. Never for an accumulator of no updates: a mean of nothing is NaN."""
        return self._run("report", {"accumulator": self._accumulator(accumulator, "accumulator")})["aggregate"]

    def update(self, state: Tensors, aggregate: Tensors, clear_sums: Optional[Tensors] = None) -> UpdateResult:
        """`(S, R) -> (S, result)`: the next server state and the round's result.

        Args:
          state: The state that the round started from.
          aggregate: What `report` gave.
          clear_sums: The sums in the clear (`Folded.clear_sums`), int64 or their own dtype; nothing where there are none.
        """
        manifest, stage = self.plan.manifest, self.plan.manifest.stages.update
        declared = {item.path: item.dtype.numpy for item in manifest.clear_sums}
        sums: dict[str, Any] = {
            name: value.astype(declared[name]) if name in declared and hasattr(value, "astype") else value
            for name, value in (clear_sums or {}).items()
        }
        inputs = {
            "state": check_tensors(state, manifest.state, what="state"),
            "aggregate": check_tensors(aggregate, _tensors(stage, "aggregate"), what="aggregate"),
            "clear_sums": check_tensors(sums, manifest.clear_sums, what="sums in the clear"),
        }
        outputs = self._run("update", inputs)
        return UpdateResult(state=outputs["state"], result=outputs["result"])

    def _accumulator(self, tensors: Tensors, what: str) -> dict[str, Array]:
        return check_tensors(tensors, self.plan.manifest.accumulator, what=what)

    def _run(self, name: str, inputs: Mapping[str, Mapping[str, Array]]) -> dict[str, dict[str, Array]]:
        return self._graph(name).run(inputs)

    def _graph(self, name: str) -> StageGraph:
        with self._lock:
            found = self._graphs.get(name)
            if found is None:
                stage: Stage = getattr(self.plan.manifest.stages, name)
                graph_def = load_graph(self.plan.part(stage.graph))
                check_graph(graph_def, stage=name)
                found = self._graphs[name] = StageGraph(graph_def, stage=stage, name=name, seed=self._seed)
            return found


def _tensors(stage: Stage, value: str) -> list[Any]:
    return [binding for binding in stage.inputs.get(value, ()) if binding.kind == "tensor"]
