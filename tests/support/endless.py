"""Makes plans with graphs that never end from ordinary plans, with TensorFlow."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from muster.wire.dtypes import DType
from muster.wire.manifest import SequenceBinding, Stage, TensorBinding
from muster.wire.plan import Plan, part_of

STEPS = 10**15  # iterations of a loop that adds one
SIZE = 8000  # rows of a matrix whose singular values take minutes


def endless(plan: Plan, *stages: str, uninterruptible: bool = False) -> Plan:
    """Returns the plan with a loop of 10**15 steps in each of `stages`.

    The plan's tensors must be int64 scalars.

    `uninterruptible`: uses an operation that takes minutes and ignores its time limit, instead of
      the loop.
    """
    changed, parts = plan.manifest.stages, dict(plan.parts)
    for name in stages:
        stage: Stage = getattr(changed, name)
        graph, outputs, loop = _endless_graph(
            [binding for bindings in stage.inputs.values() for binding in bindings],
            {value: [binding.path for binding in bindings] for value, bindings in stage.outputs.items()},
            uninterruptible=uninterruptible,
        )
        looping = stage.model_copy(update={"graph": part_of(graph), "outputs": outputs, "initialize": loop})
        changed = changed.model_copy(update={name: looping})
        parts[part_of(graph).sha256] = graph
    manifest = plan.manifest.model_copy(update={"name": f"{plan.manifest.name}_endless", "stages": changed})
    return Plan(manifest, {part.sha256: parts[part.sha256] for part in manifest.parts})


def _loop() -> Any:
    import tensorflow as tf

    (steps,) = tf.while_loop(lambda at: at < STEPS, lambda at: [at + 1], [tf.constant(0, tf.int64)])
    return steps


def _kernel() -> Any:
    """Returns the result of one operation that takes minutes, which TensorFlow can't interrupt."""
    import tensorflow as tf

    values = tf.linalg.svd(tf.random.stateless_uniform([SIZE, SIZE], [1, 2]), compute_uv=False)
    return tf.cast(values[0], tf.int64)


def _endless_graph(
    inputs: Collection[TensorBinding | SequenceBinding], outputs: dict[str, list[str]], *, uninterruptible: bool
) -> tuple[bytes, dict[str, tuple[TensorBinding, ...]], str | None]:
    """Returns the graph, its outputs, and the name of its loop if no output depends on that."""
    import tensorflow as tf

    bindings: dict[str, list[TensorBinding]] = {value: [] for value in outputs}
    with tf.Graph().as_default() as graph:
        for binding in inputs:
            tf.compat.v1.placeholder(tf.int64, [], name=binding.tensor.partition(":")[0])
        steps = _kernel() if uninterruptible else _loop()
        for value, paths in outputs.items():
            for at, path in enumerate(paths):
                tensor = tf.identity(steps, name=f"endless_{value}_{at}")
                bindings[value].append(TensorBinding(path=path, dtype=DType.INT64, shape=(), tensor=tensor.name))
        data: bytes = graph.as_graph_def().SerializeToString(deterministic=True)
    return (
        data,
        {value: tuple(bound) for value, bound in bindings.items()},
        None if any(bindings.values()) else steps.op.name,
    )
