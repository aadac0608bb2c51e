"""Measures how far two values of named tensors differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from muster.wire.tensors import Array


@dataclass(frozen=True)
class Difference:
    """Largest difference of two values.

    Attributes:
      absolute: The largest absolute difference of any element; infinite where a shape, a string or
        a finiteness differs.
      relative: The largest difference of a tensor's element over the tensor's largest magnitude.
      path: The tensor with the largest relative difference; empty if there is none.
    """

    absolute: float = 0.0
    relative: float = 0.0
    path: str = ""


def difference(
    expected: Mapping[str, Array], actual: Mapping[str, Array], *, without: Collection[str] = ()
) -> Difference:
    """Returns the largest difference of two values, ignoring the tensors `without`."""
    worst = Difference()
    absolute = 0.0
    for path in sorted((expected.keys() | actual.keys()) - set(without)):
        of_tensor = _tensor_difference(expected.get(path), actual.get(path))
        absolute = max(absolute, of_tensor.absolute)
        if of_tensor.relative > worst.relative:
            worst = Difference(relative=of_tensor.relative, path=path)
    return Difference(absolute=absolute, relative=worst.relative, path=worst.path)


def _tensor_difference(expected: Any, actual: Any) -> Difference:
    infinite = Difference(absolute=np.inf, relative=np.inf)
    if expected is None or actual is None or expected.shape != actual.shape or expected.dtype != actual.dtype:
        return infinite
    if expected.dtype.kind in "Ob":
        return Difference() if np.array_equal(expected, actual) else infinite
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    left, right = expected.astype(wide), actual.astype(wide)
    finite = np.isfinite(left)
    if not np.array_equal(left[~finite], right[~finite], equal_nan=True) or not np.isfinite(right[finite]).all():
        return infinite
    if not finite.any():
        return Difference()
    absolute = float(np.abs(left[finite] - right[finite]).max())
    scale = float(max(np.abs(left[finite]).max(), np.abs(right[finite]).max()))
    return Difference(absolute=absolute, relative=absolute / scale if absolute else 0.0)


def reordered_rows(
    expected: Mapping[str, Array], actual: Mapping[str, Array], *, paths: Collection[str]
) -> frozenset[str]:
    """Returns the names of tensors that hold the same rows in another order.

    Tensors of one structure with equal numbers of rows form a table: a row is then one row of each
    tensor, such as a word and its count.

    Args:
      expected: One value.
      actual: The other value.
      paths: The tensors whose order may differ.
    """
    tables: dict[tuple[str, int], list[str]] = defaultdict(list)
    for path in sorted(paths):
        left, right = expected.get(path), actual.get(path)
        if left is None or right is None or not left.ndim:
            continue
        if left.shape == right.shape and left.dtype == right.dtype:
            tables[path.rpartition("/")[0], len(left)].append(path)
    reordered: set[str] = set()
    for names in tables.values():
        left_rows, right_rows = _rows(expected, names), _rows(actual, names)
        if left_rows != right_rows and sorted(left_rows) == sorted(right_rows):
            reordered.update(names)
    return frozenset(reordered)


def _rows(tensors: Mapping[str, Array], names: Collection[str]) -> list[str]:
    """Returns the rows of a table of tensors as text.

    Text can be sorted whatever the dtypes.
    """
    return [repr(row) for row in zip(*(tensors[name].tolist() for name in names))]
