"""Replaces random draws and clock reads by fixed values, so that two executions can be compared.

TFF runs a computation as many small graphs, a plan runs as seven, each in separate sessions: one
seed would start different sequences there. So every drawing operation is replaced by one that
always returns the same numbers for the same arguments. The values need not have the distribution of
those that they replace; they represent one possible outcome.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.python.core.impl.compiler import building_blocks, transformation_utils

from muster.author.randomness import is_random
from muster.runtime.graphs import load_graph
from muster.wire.manifest import Stages
from muster.wire.plan import Plan, part_of

_SEED = (7, 11)
_CLOCK = 946_684_800.5  # POSIX seconds: the day on which simulations begin
_INT64 = tf.int64.as_datatype_enum


@dataclass(frozen=True)
class _Stateless:
    """Operation with a seed as an input, which replaces a stateful one.

    Attributes:
      op: Its name.
      seed_at: The position of the seed among its inputs.
      renamed: New names of attributes, by their old ones.
    """

    op: str
    seed_at: int = 1
    renamed: tuple[tuple[str, str], ...] = ()


_STATELESS = {
    "RandomUniform": _Stateless("StatelessRandomUniform"),
    "RandomStandardNormal": _Stateless("StatelessRandomNormal"),
    "TruncatedNormal": _Stateless("StatelessTruncatedNormal"),
    "RandomUniformInt": _Stateless("StatelessRandomUniformInt", renamed=(("Tout", "dtype"),)),
    "ParameterizedTruncatedNormal": _Stateless("StatelessParameterizedTruncatedNormal", renamed=(("T", "S"),)),
    "Multinomial": _Stateless("StatelessMultinomial", seed_at=2),
    "NonDeterministicInts": _Stateless("StatelessRandomUniformFullInt", renamed=(("shape_dtype", "T"),)),
}
# For each operation on data sets: the replacement, which takes two seeds as inputs, the position of
# the first one, and the number of its inputs.
_DATASETS = {
    "ShuffleDataset": ("ShuffleDataset", 2, 4),
    "ShuffleDatasetV2": ("ShuffleDataset", 2, 4),
    "ShuffleDatasetV3": ("ShuffleDataset", 2, 4),
    "ShuffleAndRepeatDataset": ("ShuffleAndRepeatDataset", 2, 5),
    "ShuffleAndRepeatDatasetV2": ("ShuffleAndRepeatDataset", 2, 5),
    "RandomDataset": ("RandomDataset", 0, 2),
    "RandomDatasetV2": ("RandomDataset", 0, 2),
    "SamplingDataset": ("SamplingDataset", 2, 4),
}
# Generators of seeds, whose outputs are no longer used.
_SEED_GENERATORS = ("AnonymousSeedGenerator", "AnonymousRandomSeedGenerator", "DummySeedGenerator")


def fix_draws(graph_def: Any) -> frozenset[str]:
    """Fixes the draws of a `GraphDef` in place, those in its functions included.

    Returns:
      The types of the operations that still draw.
    """
    unfixed = _NodeFixer(graph_def.node, suffix="").fix()
    for function in graph_def.library.function:
        fixer = _NodeFixer(function.node_def, suffix=":output:0")
        unfixed |= fixer.fix()
        for name, tensor in function.ret.items():
            function.ret[name] = fixer.renamed.get(tensor, tensor)
    return unfixed


@dataclass(frozen=True)
class FixedPlan:
    """Plan with fixed draws, for comparisons only.

    Attributes:
      plan: The plan.
      unfixed: The types of the operations that still draw.
    """

    plan: Plan
    unfixed: frozenset[str]


def fix_plan(plan: Plan) -> FixedPlan:
    """Returns a copy of a plan with fixed draws."""
    parts = dict(plan.parts)
    stages = {}
    unfixed: frozenset[str] = frozenset()
    for name in Stages.model_fields:
        stage = getattr(plan.manifest.stages, name)
        graph_def = load_graph(plan.part(stage.graph))
        unfixed |= fix_draws(graph_def)
        data = graph_def.SerializeToString(deterministic=True)
        part = part_of(data)
        parts[part.sha256] = data
        stages[name] = stage.model_copy(update={"graph": part})
    manifest = plan.manifest.model_copy(update={"stages": plan.manifest.stages.model_copy(update=stages)})
    return FixedPlan(plan=Plan(manifest, parts), unfixed=unfixed)


def fix_computation(computation: Any) -> Any:
    """Returns a TFF computation with fixed draws."""

    def fix(block: Any) -> tuple[Any, bool]:
        if not isinstance(block, building_blocks.CompiledComputation):
            return block, False
        if block.proto.WhichOneof("computation") != "tensorflow":
            return block, False
        proto = type(block.proto)()
        proto.CopyFrom(block.proto)
        graph_def = load_graph(proto.tensorflow.graph_def.value)
        fix_draws(graph_def)
        proto.tensorflow.graph_def.Pack(graph_def)
        proto.tensorflow.ClearField("cache_key")  # else TFF would run the graph that it compiled before
        return building_blocks.CompiledComputation(proto, type_signature=block.type_signature), True

    fixed, _ = transformation_utils.transform_postorder(computation.to_building_block(), fix)
    concrete = tff.framework.ConcreteComputation
    return concrete.with_type(concrete.from_building_block(fixed), computation.type_signature)


class _NodeFixer:
    """Fixer of the draws in a graph or in a function.

    Args:
      nodes: The `NodeDef`s.
      suffix: Suffix of a node's name in the name of its first output.

    Attributes:
      renamed: The new names of outputs, by their old ones.
    """

    def __init__(self, nodes: Any, *, suffix: str) -> None:
        self._nodes = nodes
        self._suffix = suffix
        self._added: list[Any] = []
        self.renamed: dict[str, str] = {}

    def fix(self) -> frozenset[str]:
        """Fixes all nodes. Returns the operations that still draw."""
        unfixed = set()
        for node in self._nodes:
            fix = self._fix_of(node.op)
            if fix is not None:
                fix(node)
            elif is_random(node) and node.op not in _SEED_GENERATORS:
                unfixed.add(node.op)
        for node in self._nodes:
            node.input[:] = [self.renamed.get(name, name) for name in node.input]
        self._nodes.extend(self._added)
        return frozenset(unfixed)

    def _fix_of(self, op: str) -> Callable[[Any], None] | None:
        """Returns the function that fixes an operation; None if there is none."""
        if op in _STATELESS:
            return self._make_stateless
        if op in _DATASETS:
            return self._fix_dataset
        return {
            "Timestamp": self._fix_clock,
            "RandomShuffle": self._disable_shuffle,
            "RandomShuffleQueueV2": self._disable_queue_shuffle,
            "RandomShuffleQueue": self._disable_queue_shuffle,
            "RandomGamma": self._replace_by_mean,
            "RandomPoisson": self._replace_by_mean,
            "RandomPoissonV2": self._replace_by_mean,
        }.get(op)

    def _make_stateless(self, node: Any) -> None:
        """Replaces a draw by the stateless operation with a fixed seed."""
        new = _STATELESS[node.op]
        pair = [node.attr[name].i or fallback for name, fallback in zip(("seed", "seed2"), _SEED)]
        seed = self._constant(f"{node.name}_seed", tf.constant(pair, tf.int64))
        data, controls = _split(node)
        node.op = new.op
        node.input[:] = [*data[: new.seed_at], seed, *data[new.seed_at :], *controls]
        for old, name in new.renamed:
            node.attr[name].CopyFrom(node.attr[old])
            del node.attr[old]
        for name in ("seed", "seed2"):
            del node.attr[name]
        node.attr["Tseed"].type = _INT64

    def _fix_dataset(self, node: Any) -> None:
        """Fixes the seeds of a data set, and its order for all passes."""
        op, at, count = _DATASETS[node.op]
        data, controls = _split(node)
        seeds = [
            self._constant(f"{node.name}_{name}", tf.constant(value, tf.int64))
            for name, value in zip(("seed", "seed2"), _SEED)
        ]
        had_seeds = node.op != "ShuffleDatasetV2"
        node.input[:] = [*data[:at], *seeds, *(data[at + 2 : count] if had_seeds else []), *controls]
        if op.startswith("Shuffle"):
            node.attr["reshuffle_each_iteration"].b = False
        if "rerandomize_each_iteration" in node.attr:
            del node.attr["rerandomize_each_iteration"]
        node.op = op

    def _fix_clock(self, node: Any) -> None:
        """Replaces a clock read by a constant."""
        _, controls = _split(node)
        node.op = "Const"
        node.input[:] = controls
        node.attr.clear()
        node.attr["dtype"].type = tf.float64.as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(_CLOCK, tf.float64))
        if self._suffix:
            self.renamed[f"{node.name}:ts:0"] = f"{node.name}:output:0"

    def _disable_shuffle(self, node: Any) -> None:
        """Replaces a shuffle of a tensor by the identity."""
        node.op = "Identity"
        for name in ("seed", "seed2"):
            del node.attr[name]

    def _disable_queue_shuffle(self, node: Any) -> None:
        """Replaces a shuffling queue by one that returns its elements in order."""
        node.op = node.op.replace("RandomShuffleQueue", "FIFOQueue")
        for name in ("min_after_dequeue", "seed", "seed2"):
            if name in node.attr:
                del node.attr[name]

    def _replace_by_mean(self, node: Any) -> None:
        """Replaces a draw with the shape `shape + mean.shape` by its mean, broadcast."""
        (shape, mean), controls = _split(node)
        mean_type = next(node.attr[name].type for name in ("R", "T", "dtype") if name in node.attr)
        dtype = next(node.attr[name].type for name in ("dtype", "T") if name in node.attr)
        shape_type = node.attr["S"].type
        inner = self._node(f"{node.name}_inner", "Shape", [mean], {"T": mean_type, "out_type": shape_type})
        axis = self._constant(f"{node.name}_axis", tf.constant(0, tf.int32))
        types = {"T": shape_type, "Tidx": tf.int32.as_datatype_enum}
        full_shape = self._node(f"{node.name}_shape", "ConcatV2", [shape, inner, axis], types, count=2)
        cast = self._node(f"{node.name}_mean", "Cast", [mean], {"SrcT": mean_type, "DstT": dtype}, output="y")
        node.op = "BroadcastTo"
        node.input[:] = [cast, full_shape, *controls]
        node.attr.clear()
        node.attr["T"].type, node.attr["Tidx"].type = dtype, shape_type

    def _node(
        self, name: str, op: str, inputs: list[str], types: dict[str, int], *, count: int = 0, output: str = "output"
    ) -> str:
        """Adds a node. Returns the name of its first output."""
        node: Any = type(self._nodes[0])()
        node.name, node.op = f"{name}_fixed", op
        node.input[:] = inputs
        for key, value in types.items():
            node.attr[key].type = value
        if count:
            node.attr["N"].i = count
        self._added.append(node)
        return f"{node.name}:{output}:0" if self._suffix else str(node.name)

    def _constant(self, name: str, value: Any) -> str:
        """Adds a constant. Returns the name of its output."""
        node = type(self._nodes[0])()
        node.name = f"{name}_fixed"
        node.op = "Const"
        node.attr["dtype"].type = value.dtype.as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
        self._added.append(node)
        return f"{node.name}{self._suffix}"


def _split(node: Any) -> tuple[list[str], list[str]]:
    """Returns a node's data inputs and its control inputs."""
    data = [name for name in node.input if not name.startswith("^")]
    return data, [name for name in node.input if name.startswith("^")]
