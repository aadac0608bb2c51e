"""Reads the computations of a `MapReduceForm`.

Returns their graphs, the leaves of their values, and the results of those without arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import tensorflow_federated as tff

from muster.author.canonical import canonicalize
from muster.author.types import bind_tensors, to_type
from muster.runtime.graphs import StageGraph, load_graph
from muster.runtime.paths import Leaf, leaves
from muster.runtime.seeds import seed_graph
from muster.wire.manifest import Part, Stage, TensorSpec, TensorType
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import Array


def tensorflow_proto(computation: Any) -> Any:
    """Returns the `tensorflow` field of a computation's proto.

    It holds the graph, the bindings of parameter and result, and the initialize operation.

    Raises:
      ProblemError: `plan_invalid`, if TFF compiled the computation to anything else.
    """
    proto = tff.framework.ConcreteComputation.get_proto(computation)
    kind = proto.WhichOneof("computation")
    if kind != "tensorflow":
        raise ProblemError(
            ProblemType.PLAN_INVALID, f"TFF compiled a step of the computation to {kind}, not to TensorFlow"
        )
    return proto.tensorflow


def type_leaves(type_: Any, *, root: str) -> list[Leaf]:
    """Returns the leaves of a value of a TFF type; an empty list for the type None."""
    return [] if type_ is None else list(leaves(to_type(type_), root=root))


def tensor_specs(value_leaves: Sequence[Leaf]) -> tuple[TensorSpec, ...]:
    """Returns the declarations of the tensors among the leaves of a value."""
    return tuple(
        TensorSpec(path=path, dtype=leaf.dtype, shape=leaf.shape)
        for path, leaf in value_leaves
        if isinstance(leaf, TensorType)
    )


def run_without_arguments(
    computation: Any, *, value: str, result: Sequence[Leaf], seed: Optional[int] = None
) -> dict[str, Array]:
    """Runs a computation without arguments in plain TensorFlow, without TFF's executor.

    Args:
      computation: A computation that TFF compiled to TensorFlow.
      value: Description of its result, for errors.
      result: The leaves of its result.
      seed: Seeds the random operations that have no seed.

    Returns:
      The tensors by name.
    """
    graph = tensorflow_proto(computation)
    no_part = Part(sha256="", size=0)  # the graph is not stored in the plan
    # Seeds are derived from names, and canonical names are the same in every process.
    canonical = canonicalize(load_graph(graph.graph_def.value))
    outputs = {
        value: tuple(
            item.model_copy(update={"tensor": canonical.tensor(item.tensor)})
            for item in bind_tensors(result, graph.result)
        )
    }
    initialize = canonical.tensor(graph.initialize_op) if graph.initialize_op else None
    stage = Stage(graph=no_part, outputs=outputs, initialize=initialize)
    if seed is not None:
        seed_graph(canonical.graph, seed=seed, stage=value)
    return StageGraph(canonical.graph, stage=stage, name=value).run({})[value]
