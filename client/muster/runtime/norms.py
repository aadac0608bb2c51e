"""Measures the L2 norm of an update and bounds it, so that no client's update outweighs all others.

The norm covers the update's floating-point and complex tensors of at least one dimension, taken as
one long vector. Scalars are excluded: a weighted mean uploads a weighted sum and its weight, and
the counts and losses of a round are scalars too. Integers, booleans and strings are excluded.
Uses numpy only, in slices, without a copy of the update.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from muster.runtime.values import Array, TensorDeclaration
from muster.wire.dtypes import DType

_SLICE_LENGTH = 1 << 16  # elements


@dataclass(frozen=True)
class NormBound:
    """Bound on the norm of an update.

    Attributes:
      maximum: The largest accepted norm, inclusive.
      clip: Whether a larger update is scaled down to `maximum` instead of being dropped.
    """

    maximum: float
    clip: bool = False

    def factor(self, update: Mapping[str, Array]) -> Optional[float]:
        """Returns the factor that brings an update within the bound.

        Returns:
          1.0 if the update is within the bound; None if it must be dropped. An update whose norm
          is not finite (it holds NaN or infinity) can't be scaled and must be dropped.
        """
        norm = update_norm(update)
        if norm <= self.maximum:
            return 1.0
        return self.maximum / norm if self.clip and math.isfinite(norm) else None


def is_measured(spec: TensorDeclaration) -> bool:
    """Returns whether a tensor counts in the norm. A tensor of unknown rank may count."""
    return spec.dtype.is_floating and spec.shape != ()


def update_norm(update: Mapping[str, Array]) -> float:
    """Returns the L2 norm of an update's measured tensors; 0.0 if it has none.

    The sum is in float64 and always in the same order. Elements up to 1e154 do not overflow;
    beyond that, the norm is infinite.
    """
    total = 0.0
    for array in update.values():
        if not is_scaled(array):
            continue
        for (values,) in iter_slices(array):
            # numpy's own pairwise sum: the order of a BLAS sum depends on the number of threads.
            with np.errstate(over="ignore", invalid="ignore"):
                total += float(np.square(_as_reals(values)).sum())
    return math.sqrt(total) if not math.isnan(total) else math.nan


def is_scaled(array: Array) -> bool:
    """Returns whether a tensor counts in the norm and is scaled by a clip."""
    return array.ndim > 0 and array.dtype != np.dtype(object) and DType.of(array).is_floating


def scale(array: Array, factor: float) -> Array:
    """Multiplies an array by `factor` in double precision; rounds once, to the array's dtype."""
    wide = np.complex128 if array.dtype.kind == "c" else np.float64
    return (array.astype(wide) * factor).astype(array.dtype)


def iter_slices(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """Yields flat views of arrays of one shape, slice by slice, of at most 65,536 elements each."""
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, flat[0].size, _SLICE_LENGTH):
        yield tuple(array[start : start + _SLICE_LENGTH] for array in flat)


def _as_reals(array: Array) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Converts an array to float64; a complex element becomes its real and imaginary parts."""
    if array.dtype.kind == "c":
        return array.astype(np.complex128).view(np.float64)
    return array.astype(np.float64)
