"""Runs the seven stages of a plan on flat mappings of named tensors.

Imports TensorFlow (2.14 or later) and no TFF.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from muster.runtime.calls import Cancellation, hold_lock, run_in_thread
from muster.runtime.data import DataMeter, Elements, adapt
from muster.runtime.graph_check import load_checked_graph
from muster.runtime.graphs import StageDataSets, StageGraph, load_graph
from muster.runtime.seeds import seed_graph
from muster.runtime.values import Array, check_tensors
from muster.wire.manifest import Stage
from muster.wire.plan import Plan

Tensors = Mapping[str, Any]


@dataclass(frozen=True)
class UpdateResult:
    """Output of the last stage, `update`: the next server state and the round's result, by name."""

    state: dict[str, Array]
    result: dict[str, Array]


class _LoadedStage:
    """Stage that this process runs.

    It has one graph for all calls, or one for each draw if it has operations to seed.
    """

    def __init__(self, plan: Plan, name: str, *, seed: Optional[int]) -> None:
        self._stage: Stage = getattr(plan.manifest.stages, name)
        self._name = name
        self._seed = seed
        self._checked: Optional[Any] = _checked(plan, self._stage, name)
        self._data_sets = StageDataSets(self._stage)
        self._graph: Optional[StageGraph] = None
        if self._seeded("") is None:
            self._graph = self._load(self._checked)
            self._checked = None  # releases the message, which may hold constants as large as a model

    def graph(self, draw: str) -> StageGraph:
        """Returns the graph that is seeded for `draw`."""
        return self._load(self._seeded(draw)) if self._graph is None else self._graph

    def _seeded(self, draw: str) -> Optional[Any]:
        """Returns a copy of the graph that is seeded for `draw`.

        None without a seed or an operation to seed.
        """
        if self._seed is None or self._checked is None:
            return None
        graph_def = type(self._checked)()
        graph_def.CopyFrom(self._checked)
        return graph_def if seed_graph(graph_def, seed=self._seed, stage=self._name, draw=draw) else None

    def _load(self, graph_def: Any) -> StageGraph:
        return StageGraph(graph_def, stage=self._stage, name=self._name, data_sets=self._data_sets)


@dataclass
class _StageCalls:
    """Lock that serializes the calls of one stage, and the numbers of the calls."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    numbers: itertools.count[int] = field(default_factory=itertools.count)


class Runtime:
    """Runner of a plan's stages.

    Each stage's graph is checked and loaded at its first use, and cached.

    Tensors are numpy arrays of exactly the dtype that the manifest declares; strings are object
    arrays of bytes. Thread-safe; calls of one stage run one after another. Calls are independent:
    each has separate variables, tables and data sets.

    Every stage takes a time limit, `seconds`. A call that reaches it raises `TimeLimitError`,
    whatever its graph does: a kernel that TensorFlow can't interrupt is abandoned in a daemon
    thread. Ctrl-C ends a call in the same way.

    Args:
      plan: A plan, or a device's copy (`Plan.for_client`), which has only `work`.
      seed: Seeds the random operations that have no seed: the same calls in the same order then
        yield the same bytes. For simulations only; never where noise protects privacy.
    """

    def __init__(self, plan: Plan, *, seed: Optional[int] = None) -> None:
        self.plan = plan
        self._seed = seed
        self._lock = threading.Lock()
        self._stages: dict[str, _LoadedStage] = {}
        self._calls = {name: _StageCalls() for name in type(plan.manifest.stages).model_fields}

    def prepare(self, state: Tensors, *, seconds: Optional[float] = None) -> dict[str, Array]:
        """Computes the round's broadcast, `S -> B`.

        Args:
          state: The server state, as `manifest.state` declares it.
          seconds: The time limit; None: none.

        Returns:
          The broadcast, as `manifest.broadcast` declares it.

        Raises:
          ProblemError: `invalid_request`, if the state does not match; `computation_failed`, if the
            graph fails; `plan_invalid`, if the graph can't be loaded or holds a forbidden
            operation. The same holds for every stage.
          TimeLimitError: the limit was reached. The same holds for every stage.
        """
        inputs = {"state": check_tensors(state, self.plan.manifest.state, what="state")}
        return self._run("prepare", inputs, seconds=seconds)["broadcast"]

    def work(
        self,
        data: Any,
        broadcast: Tensors,
        *,
        seconds: Optional[float] = None,
        stop: Optional[threading.Event] = None,
        draw: str = "",
        meter: Optional[DataMeter] = None,
    ) -> dict[str, Array]:
        """Computes one client's update, `(D, B) -> U`.

        Args:
          data: The client's data, as `manifest.data` declares it; see `muster.runtime.data.adapt`
            for the accepted forms.
          broadcast: The result of `prepare`.
          seconds: The time limit, over loading the graph, reading the data and computing; None:
            none.
          stop: Ends the work within a fraction of a second once it is set.
          draw: For a seeded runtime: identifies this call's random numbers. Calls with different
            names draw independent numbers, and equal names yield equal bytes. By default each call
            draws independent numbers, by its position.
          meter: Counts the bytes of the data as they are read.

        Returns:
          The update, as `manifest.update` declares it: the plain tensors, then the sums in the
          clear.

        Raises:
          ProblemError: see `prepare`; `invalid_request` also if the data does not match.
          TimeLimitError: the limit was reached.
          CancelledError: `stop` was set.
          Exception: raised by reading the data.
        """
        manifest = self.plan.manifest
        adapted = adapt(data, manifest.data, meter=meter)
        inputs = {"data": adapted.tensors, "broadcast": check_tensors(broadcast, manifest.broadcast, what="broadcast")}
        outputs = self._run("work", inputs, sequences=adapted.sequences, seconds=seconds, stop=stop, draw=draw)
        return outputs["update"]

    def zero(self, *, seconds: Optional[float] = None) -> dict[str, Array]:
        """Computes the empty accumulator, `() -> A`, as `manifest.accumulator` declares it."""
        return self._run("zero", {}, seconds=seconds)["accumulator"]

    def accumulate(
        self,
        accumulator: Tensors,
        update: Tensors,
        *,
        only: Optional[Collection[str]] = None,
        seconds: Optional[float] = None,
    ) -> dict[str, Array]:
        """Folds one update into the accumulator, `(A, U) -> A`.

        Args:
          accumulator: As `manifest.accumulator` declares it.
          update: The update's plain tensors; sums in the clear do not belong to this stage and are
            ignored.
          only: The accumulator's tensors to compute, by name; None: all.
          seconds: The time limit; None: none.
        """
        sums = {item.path for item in self.plan.manifest.clear_sums}
        plain = {name: value for name, value in update.items() if name not in sums}
        specs = [spec for spec in self.plan.manifest.update if spec.path not in sums]
        inputs = {
            "accumulator": self._accumulator(accumulator, "accumulator"),
            "update": check_tensors(plain, specs, what="update"),
        }
        return self._run("accumulate", inputs, only=only, seconds=seconds)["accumulator"]

    def merge(
        self,
        left: Tensors,
        right: Tensors,
        *,
        only: Optional[Collection[str]] = None,
        seconds: Optional[float] = None,
    ) -> dict[str, Array]:
        """Merges two accumulators, `(A, A) -> A`.

        Args:
          left: As `manifest.accumulator` declares it.
          right: As `manifest.accumulator` declares it.
          only: The accumulator's tensors to compute, by name; None: all.
          seconds: The time limit; None: none.
        """
        inputs = {"left": self._accumulator(left, "left"), "right": self._accumulator(right, "right")}
        return self._run("merge", inputs, only=only, seconds=seconds)["accumulator"]

    def report(self, accumulator: Tensors, *, seconds: Optional[float] = None) -> dict[str, Array]:
        """Computes the aggregate that `update` takes, `A -> R`.

        Don't call it for an accumulator without updates: the mean of no values is NaN.
        """
        inputs = {"accumulator": self._accumulator(accumulator, "accumulator")}
        return self._run("report", inputs, seconds=seconds)["aggregate"]

    def update(
        self,
        state: Tensors,
        aggregate: Tensors,
        clear_sums: Optional[Tensors] = None,
        *,
        seconds: Optional[float] = None,
    ) -> UpdateResult:
        """Computes the next server state and the round's result, `(S, R) -> (S, result)`.

        Args:
          state: The state that the round started from.
          aggregate: The result of `report`.
          clear_sums: The sums in the clear (`Folded.clear_sums`), int64 or their declared dtype;
            None or empty if the plan has none.
          seconds: The time limit; None: none.
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
        outputs = self._run("update", inputs, seconds=seconds)
        return UpdateResult(state=outputs["state"], result=outputs["result"])

    def _accumulator(self, tensors: Tensors, what: str) -> dict[str, Array]:
        return check_tensors(tensors, self.plan.manifest.accumulator, what=what)

    def _run(
        self,
        name: str,
        inputs: Mapping[str, Mapping[str, Array]],
        *,
        sequences: Optional[Mapping[str, Elements]] = None,
        only: Optional[Collection[str]] = None,
        seconds: Optional[float] = None,
        stop: Optional[threading.Event] = None,
        draw: str = "",
    ) -> dict[str, dict[str, Array]]:
        calls = self._calls[name]

        def run(cancellation: Cancellation) -> dict[str, dict[str, Array]]:
            graph = self._loaded(name).graph(draw or f"call {number}")
            return graph.execute(inputs, sequences=sequences, only=only, cancellation=cancellation)

        # The caller holds the lock, so that an abandoned call blocks no other.
        with hold_lock(calls.lock, name=name, stop=stop):
            number = next(calls.numbers)
            return run_in_thread(run, name=name, seconds=seconds, stop=stop)

    def _loaded(self, name: str) -> _LoadedStage:
        with self._lock:
            stage = self._stages.get(name)
            if stage is None:
                stage = self._stages[name] = _LoadedStage(self.plan, name, seed=self._seed)
            return stage


def _checked(plan: Plan, stage: Stage, name: str) -> Any:
    """Returns a stage's checked graph as TensorFlow's message.

    It is parsed from the checked message serialized anew, never from the received bytes.
    """
    return load_graph(load_checked_graph(plan.part(stage.graph), stage=stage, name=name).SerializeToString())


def _tensors(stage: Stage, value: str) -> list[Any]:
    return [binding for binding in stage.inputs.get(value, ()) if binding.kind == "tensor"]
