"""Consistency of manifests: an inconsistent plan is refused at every entry, with a short error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.plans import every_dtype_plan, folded_by_graphs, sum_plan

from muster.wire.dtypes import DType
from muster.wire.manifest import ClearSum, FoldKind, FoldRule, PlanManifest, SequenceType, TensorSpec, TensorType
from muster.wire.manifest_checks import check_manifest, tensor_bytes
from muster.wire.plan import Plan, part_of
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import encode

PLAN = every_dtype_plan()
MANIFEST = PLAN.manifest
ROOT = Path(__file__).parents[3]
PLANS = sorted(path for folder in ("tests", "client", "examples") for path in (ROOT / folder).rglob("*.plan"))


def changed(**fields):
    return PLAN.manifest.model_copy(update=fields)


def staged(stage, **fields):
    stages = MANIFEST.stages
    return changed(stages=stages.model_copy(update={stage: getattr(stages, stage).model_copy(update=fields)}))


def spec(path="t/int64", dtype=DType.INT64, shape=(2, 3)):
    return TensorSpec(path=path, dtype=dtype, shape=shape)


def rule(**fields):
    return FoldRule(**{"path": "t/int64", "kind": FoldKind.SUM, "update": "t/int64", **fields})


def clear(**fields):
    first, second = MANIFEST.clear_sums
    return changed(clear_sums=(first.model_copy(update=fields), second))


def modular(**fields):
    first, second = MANIFEST.clear_sums
    return changed(clear_sums=(first, second.model_copy(update=fields)))


def shaped(*shape, dtype=DType.FLOAT32):
    """Returns a manifest with another shape of its state, consistently."""
    specs = (TensorSpec(path="total", dtype=dtype, shape=shape),)
    return changed(state=specs)


BAD = {
    "a name of megabytes": changed(name="n" * 3_000_000),
    "a long made_by": changed(made_by="m" * 501),
    "no fold rule": changed(folds=()),
    "a fold rule too many": changed(folds=(rule(), rule(path="more"))),
    "two fold rules for one tensor": changed(folds=(rule(), rule())),
    "a fold of a tensor that the accumulator lacks": changed(folds=(rule(path="other"),)),
    "a fold of a tensor that the update lacks": changed(folds=(rule(update="nowhere"),)),
    "a fold of nothing": changed(folds=(rule(update=None),)),
    "a fold of another dtype": changed(folds=(rule(update="t/float32"),)),
    "a fold of another shape": changed(folds=(rule(update="secure/modular"),)),
    "a fold with TensorFlow of a tensor that the update lacks": changed(
        folds=(rule(kind=FoldKind.TENSORFLOW, update="nowhere"),)
    ),
    "a tensor twice": changed(update=(*MANIFEST.update, MANIFEST.update[0])),
    "a long path": changed(result=(spec("p" * 1001),)),
    "too many tensors": changed(result=tuple(spec(str(number)) for number in range(10_001))),
    "a negative dimension": shaped(-1),
    "a dimension of 2**70": shaped(1 << 70),
    "dimensions whose product overflows": shaped(1 << 32, 1 << 32),
    "dimensions whose product overflows to zero": shaped(1 << 40, 1 << 40, 1 << 40),
    "more axes than an array has": shaped(*[1] * 33),
    "a tensor of 4 GB": shaped(1 << 30),
    "an open tensor of 4 GB and more": shaped(None, 1 << 30),
    "an impossible shape of the data": changed(data=SequenceType(element=TensorType(dtype=DType.INT8, shape=(-5,)))),
    "an impossible type of the state": changed(state_type=TensorType(dtype=DType.INT8, shape=(1 << 41,))),
    "an accumulator of 8 GB": changed(accumulator=tuple(spec(f"a{number}", shape=(1 << 27,)) for number in range(8))),
    "a clear sum of no tensor": clear(path="secure/other"),
    "a clear sum of a float": clear(dtype=DType.FLOAT32),
    "a clear sum of another shape": clear(shape=(3,)),
    "a clear sum whose minimum is above its maximum": clear(minimum=10),
    "a clear sum without a maximum": clear(maximum=None),
    "a clear sum with a maximum that no integer has": clear(maximum=1 << 70),
    "a clear sum with a modulus and a maximum": clear(modulus=5),
    "a modular sum without a modulus": modular(modulus=None),
    "a modular sum with modulus 0": modular(modulus=0),
    "a modular sum with a negative modulus": modular(modulus=-3),
    "a modular sum with a modulus beyond int64": modular(modulus=1 << 64),
    "a clear sum that is an accumulator's tensor too": changed(
        clear_sums=(ClearSum(path="t/int64", dtype=DType.INT64, shape=(2, 3), kind="secure_sum", maximum=3),)
    ),
    "a long initialize": staged("update", initialize="i" * 1001),
    "a stage with an unknown input": staged("zero", inputs={"state": MANIFEST.stages.prepare.inputs["state"]}),
    "a stage with an unknown output": staged(
        "prepare", outputs={**MANIFEST.stages.prepare.outputs, "more": MANIFEST.stages.prepare.outputs["broadcast"]}
    ),
    "a stage without its output": staged("prepare", outputs={}),
    "a work without data": staged("work", inputs={"broadcast": MANIFEST.stages.work.inputs["broadcast"]}),
    "an input of one tensor twice": staged(
        "merge", inputs=dict.fromkeys(("left", "right"), MANIFEST.stages.merge.inputs["left"])
    ),
}


@pytest.mark.parametrize("manifest", BAD.values(), ids=list(BAD))
def test_inconsistent_manifest_is_refused_at_every_entry(manifest):
    manifest = PlanManifest.decode(manifest.encode())
    plan = Plan(manifest, PLAN.parts)
    for enter in (
        lambda: check_manifest(manifest),
        plan.check_complete,
        lambda: Plan.decode(plan.encode()),
        lambda: Plan.decode(plan.for_client().encode()),
    ):
        with pytest.raises(ProblemError) as refused:
            enter()
        assert refused.value.type is ProblemType.PLAN_INVALID
        assert len(refused.value.to_problem().model_dump_json()) < 5000, (
            "the answer is small, however wrong the plan is"
        )


@pytest.mark.parametrize("stage", list(type(MANIFEST.stages).model_fields))
def test_stage_with_other_values_than_the_plan_is_refused(stage):
    declared = getattr(MANIFEST.stages, stage)
    for field in ("inputs", "outputs"):
        for value, bindings in getattr(declared, field).items():
            first = bindings[0] if bindings else None
            others = [(), bindings[1:], bindings[::-1]] if bindings else []
            if first is not None and first.kind == "tensor":
                rest = bindings[1:]
                others.append((first.model_copy(update={"path": "other"}), *rest))
                others.append((first.model_copy(update={"dtype": DType.UINT8}), *rest))
                others.append((first.model_copy(update={"shape": (7, 7)}), *rest))
            for other in others:
                if other == bindings:
                    continue
                with pytest.raises(ProblemError, match=r"stages\."):
                    check_manifest(staged(stage, **{field: {**getattr(declared, field), value: other}}))


@pytest.mark.parametrize("path", PLANS, ids=[path.stem for path in PLANS])
def test_plans_of_earlier_versions_are_accepted(path):
    plan = Plan.load(path)
    plan.check_complete()
    Plan.decode(plan.for_client().encode())


def test_valid_handmade_plans_are_accepted():
    for plan in (PLAN, sum_plan(), folded_by_graphs(sum_plan())):
        plan.check_complete()


def test_undeclared_dtype_or_shape_of_state_or_zero_is_refused():
    plan = sum_plan()
    for field, tensors in (("initial_state", plan.initial_state()), ("zero", plan.zero())):
        name = next(iter(tensors))
        for value in (np.zeros(5, tensors[name].dtype), np.zeros(tensors[name].shape, np.uint8)):
            data = encode({**tensors, name: value})
            manifest = plan.manifest.model_copy(update={field: part_of(data)})
            parts = {**plan.parts, part_of(data).sha256: data}
            other = Plan(manifest, {part.sha256: parts[part.sha256] for part in manifest.parts})
            with pytest.raises(ProblemError, match="another dtype or shape"):
                Plan.decode(other.encode()).check_complete()


def test_tensor_bytes_needs_no_numpy_dtype():
    for dtype in DType:
        assert tensor_bytes(dtype, (3, None)) == 3 * dtype.numpy.itemsize
    assert tensor_bytes(DType.INT8, (0, 1 << 40)) == 0
    assert tensor_bytes(DType.COMPLEX128, None) == 16
