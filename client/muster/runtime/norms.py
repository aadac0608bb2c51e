"""The L2 norm of an update, and a bound on it: a defence against clients whose update outweighs all the others.

What is measured is the update's floating-point tensors (complex ones included) that have at least one dimension, all together as one long
vector. Scalars are left alone: a weighted mean's update is a sum of weighted values beside its weight, and the counts and losses
of a round are scalars too. Integers, booleans and strings are not measured. numpy only, in pieces: no copy of the update.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from muster.runtime.values import Array, TensorDeclaration
from muster.wire.dtypes import DType

_PIECE = 1 << 16  # elements at a time


@dataclass(frozen=True)
class NormBound:
    """A bound on the norm of an update.

    Attributes:
      maximum: The largest norm that is taken, inclusive.
      clip: Whether a larger update is scaled down to `maximum` rather than left out.
    """

    maximum: float
    clip: bool = False

    def factor(self, update: Mapping[str, Array]) -> Optional[float]:
        """What to multiply the update's measured tensors by: 1.0 if it keeps the bound, None if it is to be left out.

        An update whose norm is no finite number (it holds NaN or infinity) can't be scaled, and is left out.
        """
        norm = update_norm(update)
        if norm <= self.maximum:
            return 1.0
        return self.maximum / norm if self.clip and math.isfinite(norm) else None


def is_measured(spec: TensorDeclaration) -> bool:
    """Whether a tensor of an update counts in its norm. One whose rank the plan leaves open may."""
    return spec.dtype.is_floating and spec.shape != ()


def update_norm(update: Mapping[str, Array]) -> float:
    """The L2 norm of an update's measured tensors, in float64 and always summed in the same order; 0.0 if it has none.

    Elements up to 1e154 do not overflow; beyond, the norm is infinite.
    """
    total = 0.0
    for array in update.values():
        if not is_scaled(array):
            continue
        for piece in _pieces(array):
            # Pairwise sums, and of numpy itself: a BLAS would split the work by its number of threads.
            with np.errstate(over="ignore", invalid="ignore"):
                total += float(np.square(_reals(piece)).sum())
    return math.sqrt(total) if not math.isnan(total) else math.nan


def is_scaled(array: Array) -> bool:
    """Whether a tensor is measured, and scaled by a clip."""
    return array.ndim > 0 and array.dtype != np.dtype(object) and DType.of(array).is_floating


def scale(array: Array, factor: float) -> Array:
    """The array times `factor`, computed in double precision and rounded once to the array's dtype."""
    wide = np.complex128 if array.dtype.kind == "c" else np.float64
    return (array.astype(wide) * factor).astype(array.dtype)


def iter_pieces(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """Walks over arrays of one shape in step, as flat views of at most 65,536 elements each."""
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, flat[0].size, _PIECE):
        yield tuple(each[start : start + _PIECE] for each in flat)


def _pieces(array: Array) -> Iterator[Array]:
    for (piece,) in iter_pieces(array):
        yield piece


def _reals(piece: Array) -> np.ndarray[Any, np.dtype[np.float64]]:
    if piece.dtype.kind == "c":
        return piece.astype(np.complex128).view(np.float64)
    return piece.astype(np.float64)
