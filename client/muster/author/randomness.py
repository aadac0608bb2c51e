"""Finds random numbers that MapReduceForm would draw more often than the computation does.

A round runs as separate graphs: `prepare` makes the broadcast, `work` runs at each client, `update` makes the next state and the
result. Server code that more than one of them needs is copied into each. That does no harm as long as it gives the same
values each time; code that draws random numbers does not. TFF compiles it without a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Optional

from tensorflow.python.framework import dtypes, op_def_registry

from muster.author.call_graph import CallGraph, build_call_graph
from muster.author.graph_wiring import CALL_OPS, Body, Wire, Wiring
from muster.author.types import tensor_names
from muster.runtime.graphs import load_graph
from muster.wire.manifest import Stage, TensorBinding
from muster.wire.problems import ProblemError, ProblemType

# Beside the stateful operations with a `seed` attribute. `StatefulUniform` and its like are not here: they read a variable, and
# are as random as what that variable was made of.
_RANDOM = frozenset(
    {
        "NonDeterministicInts",
        "Timestamp",
        "AnonymousSeedGenerator",
        "AnonymousRandomSeedGenerator",
        "DummySeedGenerator",
        "RandomDataset",
        "RandomDatasetV2",
        "ExperimentalRandomDataset",
        "SamplingDataset",
        "ShuffleDataset",
        "ShuffleDatasetV2",
        "ShuffleDatasetV3",
        "ShuffleAndRepeatDataset",
        "ShuffleAndRepeatDatasetV2",
        "FractionalAvgPool",
        "FractionalMaxPool",
        "RiscRandomUniform",
        "Skipgram",
    }
)
_SHOWN = 3  # names of tensors in a message
_INSTEAD = (
    "Keep a seed in the server state instead, make the numbers from it with tf.random.stateless_uniform, stateless_normal or the "
    "like wherever they are needed, and give the next state another seed."
)


def check_not_drawn_twice(
    prepare_graph: Any,
    update_graph: Any,
    *,
    prepare_stage: Stage,
    update_stage: Stage,
    computation: Optional[Any] = None,
) -> None:
    """Refuses randomness that would be drawn again where the computation draws it once.

    Allowed are: noise in the result alone (differential privacy), a random broadcast that the result does not use again,
    another draw for each, and everything that is made from a seed in the state (rotations). A fixed seed on a stateful operation
    changes nothing: the sequence that it starts runs on from round to round as long as a process lives, and no longer.

    Args:
      prepare_graph: The `GraphDef` of `prepare`.
      update_graph: The `GraphDef` of `update`.
      prepare_stage: Binds `state` to `broadcast`.
      update_stage: Binds `state`, `aggregate` and `clear_sums` to `state` and `result`.
      computation: What was compiled, `(S@SERVER, {D}@CLIENTS) -> (S@SERVER, R@SERVER)`. It tells one draw that was copied from
        two that look alike; without it, random operations in both graphs are refused.

    Raises:
      ProblemError: `plan_invalid`, with the operation, the tensors that it reaches and what to do instead.
    """
    calls = None if computation is None else build_call_graph(computation)
    if calls is not None:
        _check_shared_by_clients(calls)
    broadcast = _random_outputs(Wiring(prepare_graph), prepare_stage)
    updated = _random_outputs(Wiring(update_graph), update_stage)
    if not broadcast or not updated:
        return
    ops = sorted(
        {op for found in broadcast.values() for op in found} & {op for found in updated.values() for op in found}
    )
    if calls is not None:
        first = calls.upstream(_inputs(calls), within_server=True)
        again = calls.upstream(frozenset().union(*calls.results), within_server=True)
        ops = sorted({op for name, call in first.items() if name in again for op in _random_ops_of(call.compiled)})
    if ops:
        raise ProblemError(
            ProblemType.PLAN_INVALID,
            f"The server draws random numbers ({', '.join(ops)}) once and uses them twice: in the broadcast ({_names(broadcast)}) "
            f"and, after the aggregation, in {_names(updated)}. In a MapReduce round the broadcast and the result are computed "
            f"apart, so each would draw its own numbers and the result would be wrong. {_INSTEAD}",
        )


def _check_shared_by_clients(calls: CallGraph) -> None:
    """Refuses a draw at no placement that reaches the clients: each would draw its own, where TFF hands one to all."""
    aggregates = [call for call in calls.lines.values() if call.is_aggregate]
    for call in calls.upstream((name for found in aggregates for name in found.uses), within_server=True).values():
        if call.intrinsic is None and call.is_unplaced:
            ops = sorted(_random_ops_of(call.compiled))
            if ops:
                raise ProblemError(
                    ProblemType.PLAN_INVALID,
                    f"Random numbers ({', '.join(ops)}, of the type {call.type}) are drawn outside the server and the clients and are used "
                    "by the clients. In a MapReduce round every client would draw its own, where the computation gives all of "
                    "them the same. Draw them with tff.federated_eval(…, tff.CLIENTS) if every client shall have its own, or "
                    "with tff.federated_eval(…, tff.SERVER) and tff.federated_broadcast if all shall share them.",
                )


def _inputs(calls: CallGraph) -> list[str]:
    """The lines whose values are broadcast."""
    return [name for call in calls.lines.values() if call.is_broadcast for name in call.uses]


def _names(found: Iterable[str]) -> str:
    names = list(found)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _random_outputs(wiring: Wiring, stage: Stage) -> dict[str, set[str]]:
    """The outputs that depend on a random operation, each with the operations."""
    found = {}
    for value, bindings in stage.outputs.items():
        for binding in bindings:
            ops = random_ops(wiring, [binding.tensor])
            if ops:
                found[_place(value, binding)] = ops
    return found


def _place(value: str, binding: TensorBinding) -> str:
    return binding.path if binding.path == value else f"{value}: {binding.path}"


def random_ops(wiring: Wiring, tensors: Sequence[str]) -> set[str]:
    """Returns the types of the random operations that tensors of a graph depend on."""
    found: set[str] = set()
    _collect(wiring, wiring.graph, [wiring.graph.wire(tensor) for tensor in tensors], found=found, seen=set())
    return found


def _collect(
    wiring: Wiring, body: Body, wires: Iterable[Wire], *, found: set[str], seen: set[tuple[str, Wire]]
) -> None:
    todo = list(wires)
    while todo:
        wire = todo.pop()
        if wire.node is None or (body.name, wire) in seen:
            continue
        seen.add((body.name, wire))
        node = body.nodes[wire.node]
        if is_random(node):
            found.add(node.op)
        todo.extend(body.inputs(node))
        todo.extend(Wire(name, 0) for name in body.controls(node) if name in body.nodes)
        if returns_resource(node):
            todo.extend(Wire(name, 0) for name in resource_users(body, node))
        for called in wiring.called_functions(node):
            results = [called.results[wire.index]] if node.op in CALL_OPS else called.results
            _collect(wiring, called, [*results, *(Wire(name, 0) for name in called.effects)], found=found, seen=seen)


def is_random(node: Any) -> bool:
    """Returns whether an operation draws random numbers or reads the clock."""
    if node.op in _RANDOM:
        return True
    definition = op_def_registry.get(node.op)
    return (
        definition is not None
        and definition.is_stateful
        and any(attribute.name == "seed" for attribute in definition.attr)
    )


def returns_resource(node: Any) -> bool:
    """Returns whether an operation returns a handle of a resource, such as a variable."""
    definition = op_def_registry.get(node.op)
    return definition is not None and any(
        output.type == dtypes.resource.as_datatype_enum for output in definition.output_arg
    )


def resource_users(body: Body, resource: Any) -> list[str]:
    """Returns the nodes that use a resource by any handle of the same shared name, writers included."""
    shared = resource.attr["shared_name"].s if "shared_name" in resource.attr else b""
    handles = {
        name
        for name, node in body.nodes.items()
        if name == resource.name or (shared and node.op == resource.op and node.attr["shared_name"].s == shared)
    }
    return [name for name, node in body.nodes.items() if any(wire.node in handles for wire in body.inputs(node))]


def _random_ops_of(compiled: Iterable[Any]) -> set[str]:
    """The random operations that the results of TFF's local computations depend on."""
    found: set[str] = set()
    for block in compiled:
        if block.proto.WhichOneof("computation") == "tensorflow":
            local = block.proto.tensorflow
            graph = load_graph(local.graph_def.value)
            found |= random_ops(Wiring(graph), tensor_names(local.result))
    return found
