"""The computations of a `MapReduceForm`: their graphs, the leaves of their values, and what those without arguments give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow_federated as tff

from muster.runtime.graphs import StageGraph, load_graph
from muster.runtime.paths import Leaf, leaves
from muster.wire.manifest import Part, Stage, TensorSpec, TensorType
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import Array

from .types import bind_tensors, to_type


def graph_of(computation: Any) -> Any:
    """The `tensorflow` part of a computation's proto: graph, parameter and result bindings, initialize op.

    Raises:
      ProblemError: `plan_invalid`, if TFF compiled it to anything else.
    """
    proto = tff.framework.ConcreteComputation.get_proto(computation)
    kind = proto.WhichOneof("computation")
    if kind != "tensorflow":
        raise ProblemError(
            ProblemType.PLAN_INVALID, f"TFF compiled a part of the computation to {kind}, not to TensorFlow"
        )
    return proto.tensorflow


def to_leaves(type_: Any, *, root: str) -> list[Leaf]:
    """The leaves of a value of a TFF type; none where there is no value."""
    return [] if type_ is None else list(leaves(to_type(type_), root=root))


def specs(found: Sequence[Leaf]) -> tuple[TensorSpec, ...]:
    """The tensors among leaves, as files declare them."""
    return tuple(
        TensorSpec(path=path, dtype=leaf.dtype, shape=leaf.shape)
        for path, leaf in found
        if isinstance(leaf, TensorType)
    )


def run(computation: Any, value: str, found: Sequence[Leaf]) -> dict[str, Array]:
    """What a computation without arguments gives, by plain TensorFlow: nothing runs in TFF.

    Args:
      computation: One that TFF compiled to TensorFlow.
      value: What it gives, for errors.
      found: The leaves of its result.

    Returns:
      The tensors by name.
    """
    graph = graph_of(computation)
    nowhere = Part(sha256="", size=0)  # it is no part of the plan
    outputs = {value: bind_tensors(found, graph.result)}
    stage = Stage(graph=nowhere, outputs=outputs, initialize=graph.initialize_op or None)
    return StageGraph(load_graph(graph.graph_def.value), stage=stage, name=value).run({})[value]
