"""Checks a plan's graphs and the manifest's bindings to them. Needs no TensorFlow.

A session allows feeding any tensor, even a constant. A plan names the fed tensors in its manifest,
so a binding to anything but a placeholder could replace a value that `ops.check_graph` relied on,
such as the empty file name of an in-memory cache. Hence every binding must name the output of a
different top-level `Placeholder`. This is checked at every entry of a plan: when it is built,
loaded by a command, uploaded, and before a client or the committer passes a graph to TensorFlow.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any, Optional

from muster.runtime.graph_def import parse_graph
from muster.runtime.ops import check_graph, printable
from muster.wire.dtypes import DType
from muster.wire.manifest import Binding, SequenceBinding, Stage, Stages
from muster.wire.plan import Plan
from muster.wire.problems import ProblemError, ProblemType

# TensorFlow's number of each dtype (`tensorflow/core/framework/types.proto`).
DATA_TYPE_NUMBERS = {
    DType.FLOAT32: 1,
    DType.FLOAT64: 2,
    DType.INT32: 3,
    DType.UINT8: 4,
    DType.INT16: 5,
    DType.INT8: 6,
    DType.STRING: 7,
    DType.COMPLEX64: 8,
    DType.INT64: 9,
    DType.BOOL: 10,
    DType.BFLOAT16: 14,
    DType.UINT16: 17,
    DType.COMPLEX128: 18,
    DType.FLOAT16: 19,
    DType.UINT32: 22,
    DType.UINT64: 23,
}
VARIANT_NUMBER = 21  # the `DataType` of a data set
_OUTPUT = re.compile(r"([^:^]+):(0|[1-9][0-9]{0,5})")
_MAX_QUOTED_NAME = 80  # characters


def check_plan_graphs(plan: Plan) -> None:
    """Checks all graphs of a plan: their operations and the bindings of their stages.

    Args:
      plan: A whole plan, or a device's copy, which holds only the graph of `work`.

    Raises:
      ProblemError: `plan_invalid`, with the stage, the reason and the fix.
      ImportError: `protobuf` is not installed.
    """
    for name in Stages.model_fields:
        stage: Stage = getattr(plan.manifest.stages, name)
        if stage.graph.sha256 in plan.parts:
            load_checked_graph(plan.part(stage.graph), stage=stage, name=name)


def load_checked_graph(data: bytes, *, stage: Stage, name: str) -> Any:
    """Parses a stage's graph and checks it.

    Returns:
      The `GraphDef`, as the message class of `muster.runtime.graph_def`.

    Raises:
      ProblemError: `plan_invalid`.
      ImportError: `protobuf` is not installed.
    """
    graph = parse_graph(data, what=name)
    check_stage(graph, stage=stage, name=name)
    return graph


def check_stage(graph: Any, *, stage: Stage, name: str) -> None:
    """Checks a graph's operations, and that the stage's bindings match it.

    Args:
      graph: A `GraphDef`, TensorFlow's own or that of `muster.runtime.graph_def`.
      stage: The stage, as the manifest describes it.
      name: The stage's name, such as `work`.

    Raises:
      ProblemError: `plan_invalid`.
    """
    check_graph(graph, stage=name)
    for misfit in _misfits(graph, stage):
        raise ProblemError(
            ProblemType.PLAN_INVALID,
            f"The plan's {name} can't be used: {printable(misfit)}. The manifest does not fit the graph, so the plan "
            "was changed after it was built: build it anew from the computation.",
        )


def _misfits(graph: Any, stage: Stage) -> Iterator[str]:
    """Yields each contradiction between the manifest of a stage and its graph."""
    nodes = {node.name: node for node in graph.node}
    fed: set[str] = set()
    for value, bindings in stage.inputs.items():
        for binding in bindings:
            misfit = _misfit_of_input(nodes, binding)
            if misfit is None and binding.tensor in fed:
                misfit = "an earlier input is bound to it too"
            if misfit is not None:
                yield f"the input {_short(f'{value}/{binding.path}')} is bound to {_short(binding.tensor)}: {misfit}"
            fed.add(binding.tensor)
    for binding in itertools.chain.from_iterable(stage.outputs.values()):
        match = _OUTPUT.fullmatch(binding.tensor)
        if match is None or match[1] not in nodes:
            yield (
                f"the output {_short(binding.path)} is bound to {_short(binding.tensor)}, "
                "which is no output of a node of the graph"
            )
    if stage.initialize is not None and stage.initialize not in nodes:
        yield f"it starts with the operation {_short(stage.initialize)}, which the graph does not have"


def _misfit_of_input(nodes: dict[str, Any], binding: Binding) -> Optional[str]:
    """Returns the reason why an input's binding does not match the graph; None if it does."""
    node_name, _, output = binding.tensor.partition(":")
    node = nodes.get(node_name)
    if node is None or output != "0":
        return "the graph has no such placeholder"
    if node.op != "Placeholder":
        return f"that is an operation {_short(node.op)}, and a binding may feed only a placeholder"
    data_type = VARIANT_NUMBER if isinstance(binding, SequenceBinding) else DATA_TYPE_NUMBERS[binding.dtype]
    if "dtype" not in node.attr or node.attr["dtype"].type != data_type:
        return "the placeholder has another dtype"
    if (
        not isinstance(binding, SequenceBinding)
        and "shape" in node.attr
        and not _fits(node.attr["shape"].shape, binding.shape)
    ):
        return "the placeholder has another shape"
    return None


def _fits(shape: Any, declared: Optional[tuple[Optional[int], ...]]) -> bool:
    """Returns whether a tensor can have both shapes."""
    if shape.unknown_rank or declared is None:
        return True
    sizes = [item.size for item in shape.dim]
    return len(sizes) == len(declared) and all(
        size < 0 or other is None or size == other for size, other in zip(sizes, declared)
    )


def _short(name: str) -> str:
    return name if len(name) <= _MAX_QUOTED_NAME else f"{name[:_MAX_QUOTED_NAME]}…"
