"""Traces a plan's random draws and clock reads to the tensors of the state and the result that depend on them.

The analysis is conservative: a tensor that it does not name is the same in every execution.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from muster.author.call_graph import build_call_graph
from muster.author.graph_wiring import CALL_OPS, Body, Wire, Wiring, unchanged_source
from muster.author.randomness import is_random, resource_users, returns_resource
from muster.runtime.graphs import load_graph
from muster.wire.manifest import Stages
from muster.wire.plan import Plan

Draw = tuple[str, str]  # the stage and the operation
Taint = Mapping[str, frozenset[Draw]]  # the draws that tensors depend on, by the tensors' names
_NOTHING: frozenset[Draw] = frozenset()
_CLOCK = frozenset({"Timestamp"})
# Scopes that TensorFlow's own functions open around a draw.
_GENERIC_SCOPES = frozenset(
    {
        "random_uniform",
        "random_normal",
        "random_gamma",
        "random_poisson",
        "truncated_normal",
        "random_shuffle",
        "categorical",
    }
)
_EFFECT = -1  # in place of an output's index: the operation runs, and its outputs are unused
_ACCUMULATING = frozenset(
    {"ReduceDataset", "While", "StatelessWhile"}
)  # result n of the function is its argument n in the next iteration
_COUNTER = re.compile(r"_\d+$")
_FOLDING = ("zero", "accumulate", "merge")


@dataclass(frozen=True)
class DrawSource:
    """Random draws of one stage of a plan, and the tensors that they affect.

    Attributes:
      stage: The stage, such as `work`.
      operations: TensorFlow's operations that draw, such as `RandomUniform`.
      names: Scope names of the operations in the author's code, such as the layer `dropout`, where it names them.
      reads_clock: Whether one of them reads the clock.
      state: The tensors of the server state that depend on them, after the analyzed rounds.
      result: The tensors of the rounds' results that do.
    """

    stage: str
    operations: tuple[str, ...]
    names: tuple[str, ...]
    reads_clock: bool
    state: tuple[str, ...]
    result: tuple[str, ...]


@dataclass(frozen=True)
class RoundTaint:
    """Draws that the tensors of a round's outcome depend on, by name."""

    state: Taint
    result: Taint


@dataclass(frozen=True)
class _Output:
    """Dependencies of one output of a stage: the stage's own draws, and inputs (the value and the tensor's name)."""

    draws: frozenset[Draw]
    inputs: frozenset[tuple[str, str]]


class DrawFlow:
    """Data flow of a plan's draws.

    Args:
      plan: A whole plan.
    """

    def __init__(self, plan: Plan) -> None:
        self._outputs: dict[str, dict[str, dict[str, _Output]]] = {
            name: _outputs(plan, name) for name in Stages.model_fields
        }

    def rounds(self, count: int) -> list[RoundTaint]:
        """Returns the dependencies after each of `count` rounds; both sides start the first one from the same state."""
        found: list[RoundTaint] = []
        state: Taint = {}
        for _ in range(count):
            found.append(self._round(state))
            state = found[-1].state
        return found

    def _round(self, state: Taint) -> RoundTaint:
        broadcast = self._through("prepare", "broadcast", state=state)
        update = self._through("work", "update", broadcast=broadcast)
        accumulator: Taint = self._through("zero", "accumulator")
        while True:
            more = _merge_taints(
                accumulator,
                self._through("accumulate", "accumulator", accumulator=accumulator, update=update),
                self._through("merge", "accumulator", left=accumulator, right=accumulator),
            )
            if more == accumulator:
                break
            accumulator = more
        aggregate = self._through("report", "aggregate", accumulator=accumulator)
        inputs: dict[str, Taint] = {"state": state, "aggregate": aggregate, "clear_sums": update}
        return RoundTaint(
            state=self._through("update", "state", **inputs), result=self._through("update", "result", **inputs)
        )

    def _through(self, stage: str, value: str, **inputs: Taint) -> dict[str, frozenset[Draw]]:
        found = {}
        for path, output in self._outputs[stage].get(value, {}).items():
            taints = [inputs[name].get(tensor, _NOTHING) for name, tensor in output.inputs if name in inputs]
            draws = output.draws.union(*taints)
            if draws:
                found[path] = draws
        return found


def draw_sources(rounds: list[RoundTaint], computation: Any) -> tuple[DrawSource, ...]:
    """Returns the draws of each stage, in order, with the tensors of the last round that depend on them.

    Args:
      rounds: See `DrawFlow.rounds`.
      computation: The compiled computation, for the names in its code.
    """
    state, result = rounds[-1].state, rounds[-1].result
    draws: frozenset[Draw] = frozenset().union(*state.values(), *result.values())
    names = _names(computation) if draws else {}
    return tuple(
        DrawSource(
            stage=stage,
            operations=operations,
            names=tuple(sorted({name for operation in operations for name in names.get(operation, ())})),
            reads_clock=bool(_CLOCK & set(operations)),
            state=tuple(path for path, found in state.items() if any(draw[0] == stage for draw in found)),
            result=tuple(path for path, found in result.items() if any(draw[0] == stage for draw in found)),
        )
        for stage in Stages.model_fields
        if (operations := tuple(sorted(operation for where, operation in draws if where == stage)))
    )


def _names(computation: Any) -> dict[str, set[str]]:
    """Returns the innermost scope of each drawing operation, by its type. A plan's graphs do not hold these names."""
    found: dict[str, set[str]] = {}
    for call in build_call_graph(computation).lines.values():
        for block in call.compiled:
            if block.proto.WhichOneof("computation") != "tensorflow":
                continue
            graph = load_graph(block.proto.tensorflow.graph_def.value)
            for node in (*graph.node, *(node for function in graph.library.function for node in function.node_def)):
                scopes = [_COUNTER.sub("", scope) for scope in node.name.split("/")[:-1]]
                named = [scope for scope in scopes if scope not in _GENERIC_SCOPES]
                if named and is_random(node):
                    found.setdefault(node.op, set()).add(named[-1])
    return found


def depends_on_fold(draws: frozenset[Draw]) -> bool:
    """Returns whether a tensor depends on a draw of the fold, whose order and tree differ between TFF and a plan."""
    return any(stage in _FOLDING for stage, _ in draws)


def _outputs(plan: Plan, name: str) -> dict[str, dict[str, _Output]]:
    stage = getattr(plan.manifest.stages, name)
    wiring = Wiring(load_graph(plan.part(stage.graph)))
    nodes = {
        binding.tensor.partition(":")[0]: (value, binding.path)
        for value, bindings in stage.inputs.items()
        for binding in bindings
    }
    found: dict[str, dict[str, _Output]] = {}
    for value, bindings in stage.outputs.items():
        for binding in bindings:
            unchanged = unchanged_source(wiring, binding.tensor)
            walk = _UpstreamWalk(wiring)
            walk.follow(wiring.graph, [Wire(unchanged, 0) if unchanged in nodes else wiring.graph.wire(binding.tensor)])
            found.setdefault(value, {})[binding.path] = _Output(
                draws=frozenset((name, operation) for operation in walk.operations),
                inputs=frozenset(nodes[node] for node in walk.top_nodes if node in nodes),
            )
    return found


class _UpstreamWalk:
    """Upstream traversal that collects the dependencies of tensors.

    Attributes:
      operations: The types of the operations whose draws reach the tensors.
    """

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._seen: set[tuple[str, Wire]] = set()
        self.operations: set[str] = set()

    @property
    def top_nodes(self) -> set[str]:
        """Returns the names of the top-level nodes that the tensors depend on."""
        top = self._wiring.graph.name
        return {wire.node for body, wire in self._seen if body == top and wire.node is not None}

    def follow(self, body: Body, wires: Iterable[Wire]) -> None:
        """Traverses upstream from wires of one body, into the functions that it calls."""
        todo = list(wires)
        while todo:
            wire = todo.pop()
            if (body.name, wire) in self._seen:
                continue
            self._seen.add((body.name, wire))
            if wire.node is None:
                continue
            node = body.nodes[wire.node]
            if is_random(node):
                if wire.index == _EFFECT:  # its outputs are unused
                    continue
                self.operations.add(node.op)
            todo.extend(body.inputs(node))
            todo.extend(Wire(name, _EFFECT) for name in body.controls(node) if name in body.nodes)
            if returns_resource(node):
                todo.extend(Wire(name, _EFFECT) for name in resource_users(body, node))
            for called in self._wiring.called_functions(node):
                self.follow(called, [Wire(name, _EFFECT) for name in called.effects])
                self._follow_results(node, called, wire.index)

    def _follow_results(self, node: Any, called: Body, index: int) -> None:
        if index == _EFFECT:
            return
        if node.op in CALL_OPS:
            self.follow(called, [called.results[index]])
        elif node.op in _ACCUMULATING and len(called.results) > index:
            self._follow_loop(called, index)
        else:
            self.follow(called, called.results)

    def _follow_loop(self, step: Body, index: int) -> None:
        """Follows one value that a loop carries, and the values that its next one is computed from."""
        pending = {index}
        done: set[int] = set()
        while pending:
            self.follow(step, [step.results[at] for at in pending])
            done |= pending
            carried = range(len(step.results))
            pending = {at for at in carried if (step.name, Wire(None, at)) in self._seen} - done


def _merge_taints(*taints: Taint) -> dict[str, frozenset[Draw]]:
    found: dict[str, frozenset[Draw]] = {}
    for taint in taints:
        for path, draws in taint.items():
            found[path] = found.get(path, _NOTHING) | draws
    return found
