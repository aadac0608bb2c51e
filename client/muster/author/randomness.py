"""Finds random draws that `MapReduceForm` duplicates, so that a round would draw twice.

A round runs as separate graphs: `prepare` computes the broadcast, `work` runs on each client,
`update` computes the next state and the result. Server code that more than one of them needs is
copied into each. The copies agree unless the code draws random numbers, and TFF compiles such code
without a warning.
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

# Random operations besides the stateful ones with a `seed` attribute. `StatefulUniform` and its
# kind are not listed: they read a variable, and are only as random as the variable's initial value.
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
_MAX_SHOWN_TENSORS = 3  # in a message
_ADVICE = (
    "Store a seed in the server state instead, draw the numbers from it with tf.random.stateless_uniform, "
    "stateless_normal or a similar function wherever they are needed, and put another seed into the next state."
)


def check_draws_not_duplicated(
    prepare_graph: Any,
    update_graph: Any,
    *,
    prepare_stage: Stage,
    update_stage: Stage,
    computation: Optional[Any] = None,
) -> None:
    """Refuses draws that the computation makes once and a round would make twice.

    Allowed are noise in the result only (differential privacy), a random broadcast that the result
    does not use, separate draws for the broadcast and the result, and everything derived from a
    seed in the state (rotations). A fixed seed of a stateful operation does not help: its sequence
    continues from round to round within one process and restarts in the next process.

    Args:
      prepare_graph: The `GraphDef` of `prepare`.
      update_graph: The `GraphDef` of `update`.
      prepare_stage: Binds `state` to `broadcast`.
      update_stage: Binds `state`, `aggregate` and `clear_sums` to `state` and `result`.
      computation: The compiled computation, `(S@SERVER, {D}@CLIENTS) -> (S@SERVER, R@SERVER)`. It
        distinguishes a copied draw from two separate ones of the same kind. Without it, random
        operations in both graphs are refused.

    Raises:
      ProblemError: `plan_invalid`, with the operation, the tensors that it affects and the fix.
    """
    call_graph = None if computation is None else build_call_graph(computation)
    if call_graph is not None:
        _check_shared_by_clients(call_graph)
    broadcast = _random_outputs(Wiring(prepare_graph), prepare_stage)
    updated = _random_outputs(Wiring(update_graph), update_stage)
    if not broadcast or not updated:
        return
    ops = sorted(set[str]().union(*broadcast.values()) & set[str]().union(*updated.values()))
    if call_graph is not None:
        for_broadcast = call_graph.upstream(_broadcast_values(call_graph), within_server=True)
        for_result = call_graph.upstream(frozenset().union(*call_graph.results), within_server=True)
        in_both = [call for name, call in for_broadcast.items() if name in for_result]
        ops = sorted({op for call in in_both for op in _random_ops_of(call.local_computations)})
    if ops:
        raise ProblemError(
            ProblemType.PLAN_INVALID,
            f"The server draws random numbers ({', '.join(ops)}) once and uses them twice: in the broadcast "
            f"({_names(broadcast)}) and, after the aggregation, in {_names(updated)}. A MapReduce round computes the "
            "broadcast and the result separately, so each would draw different numbers and the result would be wrong. "
            f"{_ADVICE}",
        )


def _check_shared_by_clients(call_graph: CallGraph) -> None:
    """Refuses a draw without placement that the clients use.

    Each client would draw a different value, where TFF passes the same value to all.
    """
    aggregates = [call for call in call_graph.calls.values() if call.is_aggregate]
    aggregated = [name for aggregate in aggregates for name in aggregate.dependencies]
    for call in call_graph.upstream(aggregated, within_server=True).values():
        if call.intrinsic is None and call.is_unplaced:
            ops = sorted(_random_ops_of(call.local_computations))
            if ops:
                raise ProblemError(
                    ProblemType.PLAN_INVALID,
                    f"Random numbers ({', '.join(ops)}, of the type {call.type}) are drawn outside the server and the "
                    "clients and are used by the clients. In a MapReduce round every client would draw different "
                    "numbers, but the computation passes the same ones to all. Draw them with "
                    "tff.federated_eval(…, tff.CLIENTS) if every client needs separate numbers, or with "
                    "tff.federated_eval(…, tff.SERVER) and tff.federated_broadcast if all share them.",
                )


def _broadcast_values(call_graph: CallGraph) -> list[str]:
    """Returns the names of the calls whose results are broadcast."""
    return [name for call in call_graph.calls.values() if call.is_broadcast for name in call.dependencies]


def _names(tensors: Iterable[str]) -> str:
    names = list(tensors)
    more = f" and {len(names) - _MAX_SHOWN_TENSORS} more" if len(names) > _MAX_SHOWN_TENSORS else ""
    return ", ".join(names[:_MAX_SHOWN_TENSORS]) + more


def _random_outputs(wiring: Wiring, stage: Stage) -> dict[str, set[str]]:
    """Returns the outputs of a stage that depend on random operations, with these operations."""
    outputs = {}
    for value, bindings in stage.outputs.items():
        for binding in bindings:
            ops = random_ops(wiring, [binding.tensor])
            if ops:
                outputs[_place(value, binding)] = ops
    return outputs


def _place(value: str, binding: TensorBinding) -> str:
    return binding.path if binding.path == value else f"{value}: {binding.path}"


def random_ops(wiring: Wiring, tensors: Sequence[str]) -> set[str]:
    """Returns the types of the random operations that tensors of a graph depend on."""
    ops: set[str] = set()
    _collect(wiring, wiring.graph, [wiring.graph.wire(tensor) for tensor in tensors], ops=ops, seen=set())
    return ops


def _collect(wiring: Wiring, body: Body, wires: Iterable[Wire], *, ops: set[str], seen: set[tuple[str, Wire]]) -> None:
    """Adds the random operations upstream of wires of one body to `ops`."""
    pending = list(wires)
    while pending:
        wire = pending.pop()
        if wire.node is None or (body.name, wire) in seen:
            continue
        seen.add((body.name, wire))
        node = body.nodes[wire.node]
        if is_random(node):
            ops.add(node.op)
        pending.extend(body.inputs(node))
        pending.extend(Wire(name, 0) for name in body.controls(node) if name in body.nodes)
        if returns_resource(node):
            pending.extend(Wire(name, 0) for name in resource_users(body, node))
        for called in wiring.called_functions(node):
            results = [called.results[wire.index]] if node.op in CALL_OPS else called.results
            _collect(wiring, called, [*results, *(Wire(name, 0) for name in called.effects)], ops=ops, seen=seen)


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
    """Returns the nodes that use a resource, readers and writers.

    They may use any handle of the same shared name.
    """
    shared = resource.attr["shared_name"].s if "shared_name" in resource.attr else b""
    handles = {
        name
        for name, node in body.nodes.items()
        if name == resource.name or (shared and node.op == resource.op and node.attr["shared_name"].s == shared)
    }
    return [name for name, node in body.nodes.items() if any(wire.node in handles for wire in body.inputs(node))]


def _random_ops_of(local_computations: Iterable[Any]) -> set[str]:
    """Returns the random operations that the results of TFF's local computations depend on."""
    ops: set[str] = set()
    for block in local_computations:
        if block.proto.WhichOneof("computation") == "tensorflow":
            local = block.proto.tensorflow
            graph = load_graph(local.graph_def.value)
            ops |= random_ops(Wiring(graph), tensor_names(local.result))
    return ops
