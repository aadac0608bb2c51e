"""Checks the numpy fold: order, chunks and trees don't matter, bad updates leave no trace."""

import subprocess
import sys
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.runtime.fold import Fold
from muster.wire.dtypes import DType
from muster.wire.manifest import (
    ClearSum,
    FoldKind,
    FoldRule,
    Part,
    PlanManifest,
    Stage,
    Stages,
    StructType,
    TensorSpec,
)  # fmt: skip
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import decode, encode

NOWHERE = Part(sha256="0" * 64, size=0)
NOTHING = Stage(graph=NOWHERE, outputs={})
INT64_MAX = np.iinfo(np.int64).max


def manifest(rules, specs, clear=()):
    update = [TensorSpec(path=rule.update, dtype=spec.dtype, shape=spec.shape) for rule, spec in zip(rules, specs)]
    empty = StructType(fields=())
    return PlanManifest(
        name="test",
        made_by="test",
        stages=Stages(**dict.fromkeys(Stages.model_fields, NOTHING)),
        state=(),
        broadcast=(),
        update=(*update, *(TensorSpec(path=item.path, dtype=item.dtype, shape=item.shape) for item in clear)),
        accumulator=specs,
        result=(),
        data=empty,
        state_type=empty,
        result_type=empty,
        folds=rules,
        clear_sums=clear,
        initial_state=NOWHERE,
        zero=NOWHERE,
    )


SPECS = tuple(
    TensorSpec(path=path, dtype=dtype, shape=(2,))
    for path, dtype in (("total", DType.INT64), ("least", DType.INT32), ("most", DType.FLOAT32), ("small", DType.INT8))
)
RULES = tuple(
    FoldRule(path=spec.path, kind=kind, update=f"of_{spec.path}")
    for spec, kind in zip(SPECS, (FoldKind.SUM, FoldKind.MINIMUM, FoldKind.MAXIMUM, FoldKind.SUM))
)
CLEAR = (
    ClearSum(path="secure_sum/0", dtype=DType.INT32, shape=(2,), kind="secure_sum", maximum=1 << 30),
    ClearSum(path="secure_modular_sum/0", dtype=DType.INT32, shape=(), kind="secure_modular_sum", modulus=7),
)
ZERO = {
    "total": np.zeros(2, np.int64),
    "least": np.full(2, np.iinfo(np.int32).max, np.int32),
    "most": np.full(2, -np.inf, np.float32),
    "small": np.zeros(2, np.int8),
}
FOLD = Fold(manifest(RULES, SPECS, CLEAR), zero=ZERO)


def update(seed):
    rng = np.random.default_rng(seed)
    return {
        "of_total": rng.integers(-1000, 1000, 2),
        "of_least": rng.integers(-1000, 1000, 2, dtype=np.int32),
        "of_most": rng.normal(size=2).astype(np.float32),
        "of_small": rng.integers(-128, 128, 2, dtype=np.int8),
        "secure_sum/0": rng.integers(0, (1 << 30) + 1, 2, dtype=np.int32),
        "secure_modular_sum/0": np.array(rng.integers(7), np.int32),
    }


def folded(updates):
    accumulator = FOLD.start()
    for item in updates:
        accumulator.add(item)
    return accumulator


@given(st.lists(st.integers(0, 99), min_size=1, max_size=12), st.integers(0, 10_000))
def test_fold_is_bit_identical_in_any_order_and_tree(seeds, shape):
    random = Random(shape)  # noqa: S311
    updates = [update(seed) for seed in seeds]
    expected = encode(folded(updates).tensors())
    random.shuffle(updates)
    partials = [FOLD.start()]
    while updates:
        size = random.randint(0, 3)  # empty partials too
        partials.append(folded(updates[:size]))
        updates = updates[size:]
    while len(partials) > 1:
        left, right = (partials.pop(random.randrange(len(partials))) for _ in range(2))
        left.merge(decode(encode(right.tensors())))  # read-only views, as from the store
        partials.append(left)
    assert encode(partials[0].tensors()) == expected


def test_each_rule_computes_its_operation():
    first, second = update(1), update(2)
    tensors = folded([first, second]).tensors()
    assert list(tensors) == ["total", "least", "most", "small", "secure_sum/0", "secure_modular_sum/0"]
    np.testing.assert_array_equal(tensors["total"], first["of_total"] + second["of_total"])
    np.testing.assert_array_equal(tensors["least"], np.minimum(first["of_least"], second["of_least"]))
    np.testing.assert_array_equal(tensors["most"], np.maximum(first["of_most"], second["of_most"]))
    np.testing.assert_array_equal(tensors["small"], first["of_small"] + second["of_small"])  # wraps, as TensorFlow does
    wide = first["secure_sum/0"].astype(np.int64) + second["secure_sum/0"]
    np.testing.assert_array_equal(tensors["secure_sum/0"], wide)
    assert tensors["secure_sum/0"].dtype == np.int64
    assert tensors["secure_modular_sum/0"] == (first["secure_modular_sum/0"] + second["secure_modular_sum/0"]) % 7


def test_split_separates_inputs_of_report_and_update():
    parts = FOLD.split(folded([update(1)]).tensors())
    assert list(parts.accumulator) == ["total", "least", "most", "small"]
    assert list(parts.clear_sums) == ["secure_sum/0", "secure_modular_sum/0"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"secure_sum/0": np.array([0, (1 << 30) + 1], np.int32)},
            "secure_sum/0: holds 0 to 1073741825; secure_sum allows 0 to 1073741824",
        ),
        (
            {"secure_sum/0": np.array([-1, 0], np.int32)},
            "secure_sum/0: holds -1 to 0; secure_sum allows 0 to 1073741824",
        ),
        (
            {"secure_modular_sum/0": np.array(7, np.int32)},
            "secure_modular_sum/0: holds 7 to 7; secure_modular_sum allows 0 to 6",
        ),
        ({"of_total": np.zeros(2, np.int32)}, "of_total: expected int64[2], got int32[2]"),
        ({"of_small": np.zeros((), np.int8)}, "of_small: expected int8[2], got int8"),  # would broadcast
        ({"more": np.zeros(2)}, "more: is not declared by the plan"),
    ],
)
def test_bad_update_is_refused_and_leaves_no_trace(change, text):
    accumulator = folded([update(1)])
    before = encode(accumulator.tensors())
    with pytest.raises(ProblemError) as caught:
        accumulator.add({**update(2), **change})
    assert caught.value.type is ProblemType.UPDATE_INVALID
    assert caught.value.detail == f"The update does not match the plan: {text}"
    assert encode(accumulator.tensors()) == before


def test_sum_that_overflows_int64_is_refused():
    wide = ClearSum(path="s", dtype=DType.INT64, shape=(), kind="secure_sum_bitwidth", maximum=INT64_MAX)
    accumulator = Fold(manifest((), (), (wide,)), zero={}).start()
    accumulator.add({"s": np.array(INT64_MAX)})
    with pytest.raises(ProblemError, match="would not fit int64"):
        accumulator.add({"s": np.array(1)})
    assert accumulator.tensors()["s"] == INT64_MAX


def test_large_sum_of_unsigned_integers_is_exact():
    wide = ClearSum(path="s", dtype=DType.UINT64, shape=(), kind="secure_sum_bitwidth", maximum=INT64_MAX)
    accumulator = Fold(manifest((), (), (wide,)), zero={}).start()
    for value in ((1 << 59) + 1, 3, 5):
        accumulator.add({"s": np.array(value, np.uint64)})
    assert accumulator.tensors()["s"] == (1 << 59) + 9


def test_bfloat16_sums_stay_bfloat16():
    spec = TensorSpec(path="a", dtype=DType.BFLOAT16, shape=())
    rule = FoldRule(path="a", kind=FoldKind.SUM, update="u")
    accumulator = Fold(manifest((rule,), (spec,)), zero={"a": np.zeros((), DType.BFLOAT16.numpy)}).start()
    for _ in range(300):
        accumulator.add({"u": np.ones((), DType.BFLOAT16.numpy)})
    assert accumulator.tensors()["a"] == 256  # the largest integer up to which bfloat16 can count by one


def test_zero_is_copied_and_runtime_is_requested_only_if_needed():
    folded([update(1)])
    assert not ZERO["total"].any()
    rule = FoldRule(path="total", kind=FoldKind.TENSORFLOW, update="of_total")
    with pytest.raises(ValueError, match="folds with TensorFlow"):
        Fold(manifest((rule,), SPECS[:1]), zero={"total": ZERO["total"]})


def test_fold_loads_no_tensorflow():
    check = (
        "import sys, muster.runtime.fold, muster.runtime.data, muster.runtime; sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False, timeout=300).returncode == 0  # noqa: S603
