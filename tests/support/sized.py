"""Makes plans and updates of a given size for benchmarks, with float32 tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from muster.wire.dtypes import DType
from muster.wire.manifest import FoldKind, FoldRule, Part, SequenceBinding, Stage, TensorBinding, TensorSpec
from muster.wire.plan import Plan, part_of
from muster.wire.tensors import Array
from support.plans import make_plan

_FLOAT_SIZE = 4  # bytes


def sized_update(size: int, *, tensors: int, seed: int) -> dict[str, Array]:
    """Returns an update of `tensors` tensors with `size` bytes in total."""
    rng = np.random.default_rng(seed)
    return {f"layer/{at}": rng.standard_normal(size // _FLOAT_SIZE // tensors, np.float32) for at in range(tensors)}


def sized_plan(size: int, *, tensors: int) -> Plan:
    """Returns a plan that sums such updates with numpy."""
    zero = {name: np.zeros_like(value) for name, value in sized_update(size, tensors=tensors, seed=0).items()}
    specs = tuple(TensorSpec(path=name, dtype=DType.FLOAT32, shape=value.shape) for name, value in zero.items())
    return make_plan("sized", state={"rounds": np.int64(0)}, update=specs, zero=zero)


def with_tensorflow(plan: Plan, *, proven: int = 0) -> Plan:
    """Returns the plan with TensorFlow graphs for `accumulate` and `merge`.

    Only the first `proven` tensors are still folded with numpy.
    """
    import tensorflow as tf

    specs = plan.manifest.accumulator
    parts: dict[str, bytes] = dict(plan.parts)

    def bind(spec: TensorSpec, tensor: Any) -> TensorBinding:
        return TensorBinding(path=spec.path, dtype=spec.dtype, shape=spec.shape, tensor=tensor.name)

    def stage(left: str, right: str) -> Stage:
        with tf.Graph().as_default() as graph:
            placeholders = [
                [
                    tf.compat.v1.placeholder(spec.dtype.value, spec.shape, name=f"{side}_{at}")
                    for at, spec in enumerate(specs)
                ]
                for side in (left, right)
            ]
            sums = [first + second for first, second in zip(*placeholders, strict=True)]
        data = graph.as_graph_def().SerializeToString()
        part: Part = part_of(data)
        parts[part.sha256] = data

        def bound(tensors: list[Any]) -> tuple[TensorBinding | SequenceBinding, ...]:
            return tuple(bind(spec, tensor) for spec, tensor in zip(specs, tensors, strict=True))

        inputs = {left: bound(placeholders[0]), right: bound(placeholders[1])}
        outputs = {"accumulator": tuple(bind(spec, tensor) for spec, tensor in zip(specs, sums, strict=True))}
        return Stage(graph=part, inputs=inputs, outputs=outputs)

    stages = plan.manifest.stages.model_copy(
        update={"accumulate": stage("accumulator", "update"), "merge": stage("left", "right")}
    )
    folds = tuple(
        rule if at < proven else FoldRule(path=rule.path, kind=FoldKind.TENSORFLOW)
        for at, rule in enumerate(plan.manifest.folds)
    )
    return Plan(plan.manifest.model_copy(update={"stages": stages, "folds": folds}), parts)
