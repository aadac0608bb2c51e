"""Traces a plan's random draws and clock reads to the tensors that depend on them.

The tensors are those of the server state and of the rounds' results.

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
_NO_DRAWS: frozenset[Draw] = frozenset()
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
_EFFECT = -1  # index of a `Wire` to an operation that runs, but whose outputs are unused
# Operations that loop: result n of their function is its argument n in the next iteration.
_LOOPS = frozenset({"ReduceDataset", "While", "StatelessWhile"})
_COUNTER = re.compile(r"_\d+$")  # suffix that TensorFlow adds to repeated names
_FOLD_STAGES = ("zero", "accumulate", "merge")


@dataclass(frozen=True)
class DrawSource:
    """Random draws of one stage of a plan, and the tensors that they affect.

    Attributes:
      stage: The stage, such as `work`.
      operations: TensorFlow's operations that draw, such as `RandomUniform`.
      names: Scope names of the operations in the author's code, such as the layer `dropout`, where
        it names them.
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
    """Dependencies of one output of a stage.

    Attributes:
      draws: The stage's own draws.
      inputs: The input tensors, as the name of the value and of the tensor.
    """

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
        """Returns the dependencies after each of `count` rounds.

        Both sides start the first round from the same state.
        """
        taints: list[RoundTaint] = []
        state: Taint = {}
        for _ in range(count):
            taints.append(self._round(state))
            state = taints[-1].state
        return taints

    def _round(self, state: Taint) -> RoundTaint:
        broadcast = self._propagate("prepare", "broadcast", state=state)
        update = self._propagate("work", "update", broadcast=broadcast)
        accumulator: Taint = self._propagate("zero", "accumulator")
        while True:
            folded = _merge_taints(
                accumulator,
                self._propagate("accumulate", "accumulator", accumulator=accumulator, update=update),
                self._propagate("merge", "accumulator", left=accumulator, right=accumulator),
            )
            if folded == accumulator:
                break
            accumulator = folded
        aggregate = self._propagate("report", "aggregate", accumulator=accumulator)
        inputs: dict[str, Taint] = {"state": state, "aggregate": aggregate, "clear_sums": update}
        return RoundTaint(
            state=self._propagate("update", "state", **inputs), result=self._propagate("update", "result", **inputs)
        )

    def _propagate(self, stage: str, value: str, **inputs: Taint) -> dict[str, frozenset[Draw]]:
        """Returns the draws that the tensors of an output value depend on."""
        propagated = {}
        for path, output in self._outputs[stage].get(value, {}).items():
            taints = [inputs[name].get(tensor, _NO_DRAWS) for name, tensor in output.inputs if name in inputs]
            draws = output.draws.union(*taints)
            if draws:
                propagated[path] = draws
        return propagated


def draw_sources(rounds: list[RoundTaint], computation: Any) -> tuple[DrawSource, ...]:
    """Returns the draws of each stage, in order, with the tensors that depend on them.

    The tensors are those of the last round.

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
            state=tuple(path for path, taint in state.items() if any(draw[0] == stage for draw in taint)),
            result=tuple(path for path, taint in result.items() if any(draw[0] == stage for draw in taint)),
        )
        for stage in Stages.model_fields
        if (operations := tuple(sorted(operation for where, operation in draws if where == stage)))
    )


def _names(computation: Any) -> dict[str, set[str]]:
    """Returns the innermost scopes of the drawing operations, by their types.

    A plan's graphs no longer hold these names.
    """
    scopes_by_operation: dict[str, set[str]] = {}
    for call in build_call_graph(computation).calls.values():
        for block in call.local_computations:
            if block.proto.WhichOneof("computation") != "tensorflow":
                continue
            graph = load_graph(block.proto.tensorflow.graph_def.value)
            for node in (*graph.node, *(node for function in graph.library.function for node in function.node_def)):
                scopes = [_COUNTER.sub("", scope) for scope in node.name.split("/")[:-1]]
                named = [scope for scope in scopes if scope not in _GENERIC_SCOPES]
                if named and is_random(node):
                    scopes_by_operation.setdefault(node.op, set()).add(named[-1])
    return scopes_by_operation


def depends_on_fold(draws: frozenset[Draw]) -> bool:
    """Returns whether a tensor depends on a draw of the fold.

    The order and the tree of the fold differ between TFF and a plan.
    """
    return any(stage in _FOLD_STAGES for stage, _ in draws)


def _outputs(plan: Plan, name: str) -> dict[str, dict[str, _Output]]:
    """Returns the dependencies of a stage's outputs, by value and tensor."""
    stage = getattr(plan.manifest.stages, name)
    wiring = Wiring(load_graph(plan.part(stage.graph)))
    nodes = {
        binding.tensor.partition(":")[0]: (value, binding.path)
        for value, bindings in stage.inputs.items()
        for binding in bindings
    }
    outputs: dict[str, dict[str, _Output]] = {}
    for value, bindings in stage.outputs.items():
        for binding in bindings:
            unchanged = unchanged_source(wiring, binding.tensor)
            walk = _UpstreamWalk(wiring)
            walk.follow(wiring.graph, [Wire(unchanged, 0) if unchanged in nodes else wiring.graph.wire(binding.tensor)])
            outputs.setdefault(value, {})[binding.path] = _Output(
                draws=frozenset((name, operation) for operation in walk.operations),
                inputs=frozenset(nodes[node] for node in walk.top_nodes if node in nodes),
            )
    return outputs


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
        pending = list(wires)
        while pending:
            wire = pending.pop()
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
            pending.extend(body.inputs(node))
            pending.extend(Wire(name, _EFFECT) for name in body.controls(node) if name in body.nodes)
            if returns_resource(node):
                pending.extend(Wire(name, _EFFECT) for name in resource_users(body, node))
            for called in self._wiring.called_functions(node):
                self.follow(called, [Wire(name, _EFFECT) for name in called.effects])
                self._follow_results(node, called, wire.index)

    def _follow_results(self, node: Any, called: Body, index: int) -> None:
        """Follows the results of a called function that one output of the call may depend on."""
        if index == _EFFECT:
            return
        if node.op in CALL_OPS:
            self.follow(called, [called.results[index]])
        elif node.op in _LOOPS and len(called.results) > index:
            self._follow_loop(called, index)
        else:
            self.follow(called, called.results)

    def _follow_loop(self, step: Body, index: int) -> None:
        """Follows a value that a loop carries, and the values that its next one depends on."""
        pending = {index}
        done: set[int] = set()
        while pending:
            self.follow(step, [step.results[at] for at in pending])
            done |= pending
            carried = range(len(step.results))
            pending = {at for at in carried if (step.name, Wire(None, at)) in self._seen} - done


def _merge_taints(*taints: Taint) -> dict[str, frozenset[Draw]]:
    merged: dict[str, frozenset[Draw]] = {}
    for taint in taints:
        for path, draws in taint.items():
            merged[path] = merged.get(path, _NO_DRAWS) | draws
    return merged
