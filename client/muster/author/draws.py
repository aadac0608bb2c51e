"""Follows what a plan draws at random, or reads from the clock, to the tensors of the state and the result that depend on it.

The analysis errs on one side: a tensor that it does not name is the same in every execution. A loop or a branch hands every draw
in it to all of its results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from muster.runtime.graphs import load_graph
from muster.wire.manifest import Stages
from muster.wire.plan import Plan

from .randomness import reached
from .wiring import Wiring, origin

Draw = tuple[str, str]  # the stage and the operation
Taint = Mapping[str, frozenset[Draw]]  # the draws that tensors depend on, by the tensors' names
_NOTHING: frozenset[Draw] = frozenset()
_CLOCK = frozenset({"Timestamp"})
_FOLDING = ("zero", "accumulate", "merge")


@dataclass(frozen=True)
class DrawSource:
    """What one stage of a plan draws, and where it shows.

    Attributes:
      stage: The stage, such as `work`.
      operations: TensorFlow's operations that draw, such as `RandomUniform`.
      reads_clock: Whether one of them reads the clock.
      state: The tensors of the server state that depend on them, after the rounds that were looked at.
      result: The tensors of the rounds' results that do.
    """

    stage: str
    operations: tuple[str, ...]
    reads_clock: bool
    state: tuple[str, ...]
    result: tuple[str, ...]


@dataclass(frozen=True)
class RoundTaint:
    """The draws that the tensors of a round's outcome depend on, by name."""

    state: Taint
    result: Taint


@dataclass(frozen=True)
class _Output:
    """What one output of a stage depends on: draws of its own, and inputs (the value and the tensor's name)."""

    draws: frozenset[Draw]
    inputs: frozenset[tuple[str, str]]


class DrawFlow:
    """The data flow of a plan's draws.

    Args:
      plan: A whole plan.
    """

    def __init__(self, plan: Plan) -> None:
        self._outputs: dict[str, dict[str, dict[str, _Output]]] = {
            name: _outputs(plan, name) for name in Stages.model_fields
        }

    def rounds(self, count: int) -> list[RoundTaint]:
        """Returns the dependencies after each of so many rounds; the first starts from one state on both sides."""
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
            more = _joined(
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


def sources_of(rounds: list[RoundTaint]) -> tuple[DrawSource, ...]:
    """Returns what each stage draws and which tensors of the last round depend on it, in the order of the stages."""
    state, result = rounds[-1].state, rounds[-1].result
    draws = frozenset().union(*state.values(), *result.values())
    return tuple(
        DrawSource(
            stage=stage,
            operations=operations,
            reads_clock=bool(_CLOCK & set(operations)),
            state=tuple(path for path, found in state.items() if any(draw[0] == stage for draw in found)),
            result=tuple(path for path, found in result.items() if any(draw[0] == stage for draw in found)),
        )
        for stage in Stages.model_fields
        if (operations := tuple(sorted(operation for where, operation in draws if where == stage)))
    )


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
            unchanged = origin(wiring, binding.tensor)
            operations, upstream = (set(), {unchanged}) if unchanged in nodes else reached(wiring, [binding.tensor])
            found.setdefault(value, {})[binding.path] = _Output(
                draws=frozenset((name, operation) for operation in operations),
                inputs=frozenset(nodes[node] for node in upstream if node in nodes),
            )
    return found


def _joined(*taints: Taint) -> dict[str, frozenset[Draw]]:
    found: dict[str, frozenset[Draw]] = {}
    for taint in taints:
        for path, draws in taint.items():
            found[path] = found.get(path, _NOTHING) | draws
    return found
