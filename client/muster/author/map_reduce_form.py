"""The computations of a `MapReduceForm`: their graphs, the leaves of their values, and what those without arguments give."""

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


def type_leaves(type_: Any, *, root: str) -> list[Leaf]:
    """The leaves of a value of a TFF type; none where there is no value."""
    return [] if type_ is None else list(leaves(to_type(type_), root=root))


def tensor_specs(found: Sequence[Leaf]) -> tuple[TensorSpec, ...]:
    """The tensors among leaves, as files declare them."""
    return tuple(
        TensorSpec(path=path, dtype=leaf.dtype, shape=leaf.shape)
        for path, leaf in found
        if isinstance(leaf, TensorType)
    )


def run_without_arguments(
    computation: Any, value: str, found: Sequence[Leaf], *, seed: Optional[int] = None
) -> dict[str, Array]:
    """Runs a computation without arguments in plain TensorFlow, without TFF's executor.

    Args:
      computation: A computation that TFF compiled to TensorFlow.
      value: Description of its result, for errors.
      found: The leaves of its result.
      seed: Seeds the random operations that have no seed.

    Returns:
      The tensors by name.
    """
    graph = tensorflow_proto(computation)
    nowhere = Part(sha256="", size=0)  # it is no part of the plan
    canonical = canonicalize(
        load_graph(graph.graph_def.value)
    )  # seeds are derived from names, which are then the same each time
    outputs = {
        value: tuple(
            item.model_copy(update={"tensor": canonical.tensor(item.tensor)})
            for item in bind_tensors(found, graph.result)
        )
    }
    initialize = canonical.tensor(graph.initialize_op) if graph.initialize_op else None
    stage = Stage(graph=nowhere, outputs=outputs, initialize=initialize)
    if seed is not None:
        seed_graph(canonical.graph, seed=seed, stage=value)
    return StageGraph(canonical.graph, stage=stage, name=value).run({})[value]
