"""Finds operations of a plan that can't be seeded. Imports TensorFlow when called."""

from __future__ import annotations

from muster.wire.manifest import Stages
from muster.wire.plan import Plan

_UNSEEDED = frozenset({"Timestamp", "NonDeterministicInts"})  # the clock; the system's entropy


def unseeded_operations(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Returns the operations that read the clock or the system's entropy, by stage.

    Args:
      plan: A whole plan.
    """
    from muster.runtime.graphs import load_graph

    unseeded = {}
    for name in Stages.model_fields:
        graph = load_graph(plan.part(getattr(plan.manifest.stages, name).graph))
        nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
        operations = sorted({node.op for node in nodes} & _UNSEEDED)
        if operations:
            unseeded[name] = tuple(operations)
    return unseeded
