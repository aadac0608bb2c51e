"""Tests of the validation of stored updates, by their headers and values."""

import numpy as np
import pytest
from support.plans import every_dtype_plan, make_plan

from muster.wire.dtypes import DType
from muster.wire.manifest import FoldKind, TensorSpec
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import decode, encode
from muster_coordinator.domain.updates import UpdateReader, all_finite, finite_sum_implies_finite_updates, rules_for

SPECS = tuple(TensorSpec(path=path, dtype=DType.FLOAT32, shape=(3,)) for path in "ab")
PLAN = make_plan("two", state={"n": np.int64(0)}, update=SPECS, zero={path: np.zeros(3, np.float32) for path in "ab"})
FLOATS = [dtype for dtype in DType if dtype.is_floating]


def body(first, second, **more):
    return memoryview(encode({"a": np.full(3, first, np.float32), "b": np.full(3, second, np.float32), **more}))


def reader(*, allow_non_finite=False):
    return UpdateReader(rules_for(PLAN.manifest, allow_non_finite=allow_non_finite))


def test_each_update_is_read_by_its_own_header():
    reads = reader()
    for update in (
        {"a": np.full(3, 1, np.float32), "b": np.full(3, 2, np.float32)},
        {"a": np.full(3, 3, np.float32), "b": np.full(3, 4, np.float32)},
        {"b": np.full(3, 5, np.float32), "a": np.full(3, 6, np.float32)},  # same size, with the tensors swapped
    ):
        tensors = reads.read(memoryview(encode(update)))
        assert list(tensors) == ["a", "b"]
        for name, value in update.items():
            np.testing.assert_array_equal(tensors[name], value)
            assert not tensors[name].flags.writeable


def test_invalid_update_between_valid_ones_is_refused():
    reads = reader()
    bad = {
        "cut off": body(1, 1)[:-1],
        "longer": memoryview(bytes(body(1, 1)) + b"x"),
        "another dtype": memoryview(encode({"a": np.zeros(3, np.int32), "b": np.zeros(3, np.float32)})),
        "one more": body(1, 1, c=np.zeros(1, np.float32)),
        "not finite": body(1, np.nan),
    }
    for what, data in bad.items():
        assert float(reads.read(body(7, 8))["b"][0]) == 8
        with pytest.raises(ProblemError) as refused:
            reads.read(data)
        expected = ProblemType.UPDATE_NOT_FINITE if what == "not finite" else ProblemType.UPDATE_INVALID
        assert refused.value.type is expected, what


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", FLOATS)
def test_sum_shows_a_non_finite_addend(dtype, value):
    size = 200_000  # more than is checked at a time
    bad = np.ones(size, dtype.numpy)
    bad[size - 2] = complex(0, value) if dtype.value.startswith("complex") else value
    total = np.zeros(size, dtype.numpy)
    assert all_finite({"total": total + 1, "n": np.int64(1), "s": np.array([b"x"], object)})
    with np.errstate(all="ignore"):
        for addend in (
            np.ones(size, dtype.numpy),
            bad,
            -bad,
            np.ones(size, dtype.numpy),
        ):  # infinities that cancel give NaN
            np.add(total, addend, out=total)
    assert not all_finite({"n": np.int64(1), "total": total})


def test_empty_first_update_is_refused():
    with pytest.raises(ProblemError) as raised:
        reader().read(memoryview(b""))
    assert raised.value.type is ProblemType.UPDATE_INVALID


def test_finite_sum_is_enough_only_if_every_float_is_summed():
    rules = PLAN.manifest.folds
    assert finite_sum_implies_finite_updates(PLAN.manifest)
    for other in (FoldKind.MAXIMUM, FoldKind.MINIMUM, FoldKind.TENSORFLOW):
        mixed = (rules[0], rules[1].model_copy(update={"kind": other}))
        assert not finite_sum_implies_finite_updates(PLAN.manifest.model_copy(update={"folds": mixed}))
    assert not finite_sum_implies_finite_updates(PLAN.manifest.model_copy(update={"folds": rules[:1]}))


def test_reader_and_decode_agree_for_every_dtype():
    plan = every_dtype_plan()
    rng = np.random.default_rng(0)
    update = {}
    for spec in plan.manifest.update:
        shape = tuple(2 if size is None else size for size in spec.shape or ())
        values = rng.integers(0, 2, shape)
        update[spec.path] = (
            np.full(shape, b"xy", object) if spec.dtype is DType.STRING else np.asarray(values).astype(spec.dtype.numpy)
        )
    data = memoryview(encode(update))
    tensors = UpdateReader(rules_for(plan.manifest, allow_non_finite=False)).read(data)
    expected = decode(data)
    for name, value in tensors.items():
        assert value.dtype == expected[name].dtype
        np.testing.assert_array_equal(value, expected[name])
