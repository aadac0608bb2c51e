"""Measures the difference of two values of named tensors."""

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
      absolute: The largest absolute difference of any element; infinite where a shape, a string or a finiteness
        differs.
      relative: The largest difference of a tensor's element over the tensor's largest magnitude.
      path: The tensor with the largest relative difference; empty if there is none.
    """

    absolute: float = 0.0
    relative: float = 0.0
    path: str = ""


def difference(
    expected: Mapping[str, Array], found: Mapping[str, Array], *, without: Collection[str] = ()
) -> Difference:
    """Returns the largest difference of two values, tensor by tensor, ignoring the tensors `without`."""
    worst = Difference()
    absolute = 0.0
    for path in sorted((expected.keys() | found.keys()) - set(without)):
        one = _difference(expected.get(path), found.get(path))
        absolute = max(absolute, one.absolute)
        if one.relative > worst.relative:
            worst = Difference(relative=one.relative, path=path)
    return Difference(absolute=absolute, relative=worst.relative, path=worst.path)


def _difference(expected: Any, found: Any) -> Difference:
    infinite = Difference(absolute=np.inf, relative=np.inf)
    if expected is None or found is None or expected.shape != found.shape or expected.dtype != found.dtype:
        return infinite
    if expected.dtype.kind in "Ob":
        return Difference() if np.array_equal(expected, found) else infinite
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    left, right = expected.astype(wide), found.astype(wide)
    finite = np.isfinite(left)
    if not np.array_equal(left[~finite], right[~finite], equal_nan=True) or not np.isfinite(right[finite]).all():
        return infinite
    if not finite.any():
        return Difference()
    absolute = float(np.abs(left[finite] - right[finite]).max())
    scale = float(max(np.abs(left[finite]).max(), np.abs(right[finite]).max()))
    return Difference(absolute=absolute, relative=absolute / scale if absolute else 0.0)


def reordered_rows(
    expected: Mapping[str, Array], found: Mapping[str, Array], *, paths: Collection[str]
) -> frozenset[str]:
    """Returns the names of tensors that hold the same rows in another order.

    Tensors of one structure with equally many rows belong together: a row is then one row of each tensor, such as a
    word and its count.

    Args:
      expected: One value.
      found: The other.
      paths: The tensors whose order may differ.
    """
    tables: dict[tuple[str, int], list[str]] = defaultdict(list)
    for path in sorted(paths):
        one, other = expected.get(path), found.get(path)
        if one is not None and other is not None and one.ndim and one.shape == other.shape and one.dtype == other.dtype:
            tables[path.rpartition("/")[0], len(one)].append(path)
    moved: set[str] = set()
    for names in tables.values():
        left, right = _rows(expected, names), _rows(found, names)
        if left != right and sorted(left) == sorted(right):
            moved.update(names)
    return frozenset(moved)


def _rows(tensors: Mapping[str, Array], names: Collection[str]) -> list[str]:
    return [repr(row) for row in zip(*(tensors[name].tolist() for name in names))]
