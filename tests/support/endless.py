"""Plans whose graphs never end, made with TensorFlow from plans that do."""

from __future__ import annotations

from collections.abc import Collection

from muster.wire.dtypes import DType
from muster.wire.manifest import Stage, TensorBinding
from muster.wire.plan import Plan, part_of

STEPS = 10**15  # of a loop that adds one


def endless(plan: Plan, *stages: str) -> Plan:
    """The plan with each of `stages` replaced by a loop of 10**15 steps before its outputs. Its tensors are scalars of int64."""
    found, parts = plan.manifest.stages, dict(plan.parts)
    for name in stages:
        stage: Stage = getattr(found, name)
        graph, outputs, loop = _loop(
            [binding for bindings in stage.inputs.values() for binding in bindings],
            {value: [binding.path for binding in bindings] for value, bindings in stage.outputs.items()},
        )
        made = stage.model_copy(update={"graph": part_of(graph), "outputs": outputs, "initialize": loop})
        found = found.model_copy(update={name: made})
        parts[part_of(graph).sha256] = graph
    manifest = plan.manifest.model_copy(update={"name": f"{plan.manifest.name}_endless", "stages": found})
    return Plan(manifest, {part.sha256: parts[part.sha256] for part in manifest.parts})


def _loop(
    inputs: Collection[TensorBinding], outputs: dict[str, list[str]]
) -> tuple[bytes, dict[str, tuple[TensorBinding, ...]], str | None]:
    """The graph, its outputs, and the name of its loop if no output waits for that."""
    import tensorflow as tf

    made: dict[str, list[TensorBinding]] = {value: [] for value in outputs}
    with tf.Graph().as_default() as graph:
        for binding in inputs:
            tf.compat.v1.placeholder(tf.int64, [], name=binding.tensor.partition(":")[0])
        (steps,) = tf.while_loop(lambda at: at < STEPS, lambda at: [at + 1], [tf.constant(0, tf.int64)])
        for value, paths in outputs.items():
            for at, path in enumerate(paths):
                tensor = tf.identity(steps, name=f"endless_{value}_{at}")
                made[value].append(TensorBinding(path=path, dtype=DType.INT64, shape=(), tensor=tensor.name))
        data: bytes = graph.as_graph_def().SerializeToString(deterministic=True)
    return (
        data,
        {value: tuple(bindings) for value, bindings in made.items()},
        None if any(made.values()) else steps.op.name,
    )
