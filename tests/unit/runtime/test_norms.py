"""Checks the norm of an update and its scaling in every kind of fold."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from muster.runtime.fold import Fold
from muster.runtime.norms import NormBound, is_measured, scale, update_norm
from muster.wire.dtypes import DType
from muster.wire.manifest import TensorSpec

FLOATS = [dtype for dtype in DType if dtype.is_floating]


@pytest.mark.parametrize("dtype", FLOATS)
def test_norm_of_every_float_dtype_is_exact_for_three_and_four(dtype):
    assert update_norm({"x": np.array([[3], [4]], dtype.numpy)}) == 5.0
    assert scale(np.array([3, 4], dtype.numpy), 0.5).astype(np.complex128).tolist() == [1.5, 2]


def test_norm_excludes_scalars_integers_and_text():
    update = {
        "kernel": np.array([[2.0, 0.0]], np.float32),
        "bias": np.array([1.0, 2.0]),
        "phase": np.array([4j], np.complex64),
        "weight": np.array(1e9),
        "count": np.full(3, 1 << 40),
        "flag": np.array([True]),
        "name": np.array([b"x"], object),
        "empty": np.zeros((0, 3), np.float32),
    }
    assert update_norm(update) == 5.0
    assert update_norm({}) == 0.0


def test_norm_is_deterministic_and_needs_no_copy():
    big = np.random.default_rng(0).normal(size=(1 << 22)).astype(np.float32)  # 16 MB
    tracemalloc.start()
    first = update_norm({"x": big})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert first == update_norm({"x": big.reshape(1024, -1)})
    assert first == pytest.approx(float(np.linalg.norm(big.astype(np.float64))), rel=1e-12)
    assert peak < 2 << 20


@pytest.mark.parametrize(
    ("clip", "values", "factor"),
    [
        (False, [3.0, 4.0], 1.0),  # the bound itself is allowed
        (False, [3.0, 4.1], None),
        (True, [6.0, 8.0], 0.5),
        (True, [math.inf, 0.0], None),
        (True, [math.nan, 0.0], None),
        (False, [math.nan, 0.0], None),
        (True, [1e200, 0.0], None),  # its square overflows float64
        (True, [0.0, 0.0], 1.0),
    ],
)
def test_bound_returns_the_factor_of_an_update(clip, values, factor):
    assert NormBound(5.0, clip).factor({"x": np.array(values)}) == factor


def test_is_measured_depends_on_dtype_and_rank():
    measured = {
        (dtype, shape): is_measured(TensorSpec(path="x", dtype=dtype, shape=shape))
        for dtype in (DType.BFLOAT16, DType.INT64)
        for shape in ((), (2,), (None,), None)
    }
    assert [key for key, counts in measured.items() if counts] == [
        (DType.BFLOAT16, (2,)),
        (DType.BFLOAT16, (None,)),
        (DType.BFLOAT16, None),
    ]


def test_fold_scales_vectors_in_place_but_not_scalars():
    from support.plans import make_plan

    zero = {"v": np.zeros((2, 2), np.float32), "weight": np.array(0.0), "n": np.zeros(2, np.int64)}
    specs = tuple(TensorSpec(path=name, dtype=DType.of(value), shape=value.shape) for name, value in zero.items())
    plan = make_plan("scaled", state={"s": np.int64(0)}, update=specs, zero=zero)
    accumulator = Fold(plan.manifest, zero=plan.zero()).start()
    update = {"v": np.full((2, 2), 8, np.float32), "weight": np.array(3.0), "n": np.array([5, 7])}
    before = {name: value.copy() for name, value in update.items()}
    accumulator.add(update)
    accumulator.add(update, factor=0.25)
    tensors = accumulator.tensors()
    assert tensors["v"].tolist() == [[10, 10], [10, 10]]
    assert float(tensors["weight"]) == 6.0
    assert tensors["n"].tolist() == [10, 14]
    assert all(np.array_equal(update[name], before[name]) for name in update)


def test_fold_with_tensorflow_gets_the_scaled_update():
    from support.plans import make_plan

    from muster.wire.manifest import FoldKind, FoldRule

    class Runtime:
        def accumulate(self, accumulator, update, *, only=None):
            return {name: accumulator[name] + update[name] for name in only or accumulator}

    zero = {"v": np.zeros(2, np.float32), "weight": np.array(0.0)}
    specs = tuple(TensorSpec(path=name, dtype=DType.of(value), shape=value.shape) for name, value in zero.items())
    manifest = make_plan("graph", state={"s": np.int64(0)}, update=specs, zero=zero).manifest
    rules = tuple(FoldRule(path=rule.path, kind=FoldKind.TENSORFLOW) for rule in manifest.folds)
    fold = Fold(manifest.model_copy(update={"folds": rules}), zero=zero, tensorflow=Runtime)
    accumulator = fold.start()
    accumulator.add({"v": np.array([4, 8], np.float32), "weight": np.array(2.0)}, factor=0.5)
    assert accumulator.tensors()["v"].tolist() == [2, 4]
    assert float(accumulator.tensors()["weight"]) == 2.0
