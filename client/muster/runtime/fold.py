"""Folds updates into an accumulator, in place, with numpy wherever the plan's fold rules allow it.

Sums, maxima and minima are computed in the accumulator's memory. Only tensors whose rule is
`FoldKind.TENSORFLOW` are computed by the plan's graphs `accumulate` and `merge`. Sums in the clear
always use numpy, in int64, after a check of each update's range. This module imports no TensorFlow.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Optional

import numpy as np

from muster.runtime.norms import is_scaled, iter_slices, scale
from muster.runtime.values import Array, check_tensors, describe_array, shape_fits
from muster.wire.manifest import ClearSum, FoldKind, PlanManifest
from muster.wire.problems import FieldError, ProblemError, ProblemType

if TYPE_CHECKING:
    from muster.runtime.stages import Runtime

_INT64_MAX = int(np.iinfo(np.int64).max)
_MIN_MAPPED_SIZE = 1 << 18  # bytes; larger arrays are mapped separately
# On Windows, anonymous maps are always private.
_PRIVATE_MAP: dict[str, Any] = {"flags": mmap.MAP_PRIVATE} if hasattr(mmap, "MAP_PRIVATE") else {}
_UFUNCS: dict[FoldKind, np.ufunc] = {
    FoldKind.SUM: np.add,
    FoldKind.MAXIMUM: np.maximum,
    FoldKind.MINIMUM: np.minimum,
}


@dataclass(frozen=True)
class Folded:
    """Tensors of an accumulator, separated by the stage that takes them.

    Attributes:
      accumulator: The input of `report`, by the names of `manifest.accumulator`.
      clear_sums: The sums that `update` takes beside the aggregate, int64, by the names of
        `manifest.clear_sums`.
    """

    accumulator: dict[str, Array]
    clear_sums: dict[str, Array]


class Fold:
    """Folding rules of one plan, ready for use.

    Args:
      manifest: The plan's manifest.
      zero: The empty accumulator by name (`Plan.zero()`). It is copied and never written to. May be
        None if `manifest.sums_alone`: the accumulator then starts with zeros, and the plan's parts
        need not be in memory.
      tensorflow: Returns the plan's `Runtime`. Called once, and only if
        `manifest.folds_with_tensorflow`.

    Attributes:
      steps: The numpy steps: a tensor of the accumulator, its tensor of the update, the function.
      unproven: The tensors of the accumulator that only the plan's graphs can fold.
      runtime: The plan's runtime; None if numpy alone suffices.

    Raises:
      ValueError: `zero` or `tensorflow` is missing, but the plan needs it.
    """

    def __init__(
        self,
        manifest: PlanManifest,
        *,
        zero: Optional[Mapping[str, Any]],
        tensorflow: Optional[Callable[[], Runtime]] = None,
    ) -> None:
        self.manifest = manifest
        if zero is None and not manifest.has_only_sums:
            raise ValueError(f"plan {manifest.name!r} does not fold with sums alone: pass its `zero`")
        self._zero = zero and check_tensors(zero, manifest.accumulator, what="zero", problem=ProblemType.PLAN_INVALID)
        self.steps = [
            (rule.path, rule.update or "", _UFUNCS[rule.kind]) for rule in manifest.folds if rule.kind in _UFUNCS
        ]
        self.unproven = frozenset(rule.path for rule in manifest.folds if rule.kind is FoldKind.TENSORFLOW)
        self.runtime: Optional[Runtime] = None
        if manifest.folds_with_tensorflow:
            if tensorflow is None:
                raise ValueError(
                    f"plan {manifest.name!r} folds with TensorFlow: pass `tensorflow`, which returns its Runtime"
                )
            self.runtime = tensorflow()

    def start(self) -> Accumulator:
        """Returns a new accumulator that holds the zero."""
        return Accumulator(self)

    def empty(self) -> dict[str, Array]:
        """Returns a copy of the zero in separate memory, by the names of `manifest.accumulator`."""
        if self._zero is None:
            return {
                spec.path: zeros(tuple(size or 0 for size in spec.shape or ()), spec.dtype.numpy)
                for spec in self.manifest.accumulator
            }
        return {name: _copy(value) for name, value in self._zero.items()}

    def split(self, tensors: Mapping[str, Any]) -> Folded:
        """Separates an accumulator's tensors into the inputs of `report` and `update`.

        Args:
          tensors: The tensors of an accumulator (`Accumulator.tensors`).

        Raises:
          ProblemError: `update_invalid`, if a tensor does not match the manifest.
        """
        clear_names = {item.path for item in self.manifest.clear_sums}
        plain = {name: value for name, value in tensors.items() if name not in clear_names}
        sums = {name: np.asarray(value) for name, value in tensors.items() if name in clear_names}
        checked = check_tensors(plain, self.manifest.accumulator, what="partial", problem=ProblemType.UPDATE_INVALID)
        for item in self.manifest.clear_sums:
            value = sums.get(item.path)
            if value is None or value.dtype != np.int64 or not shape_fits(value.shape, item.shape):
                actual = "nothing" if value is None else describe_array(value)
                raise _invalid_update(item.path, f"expected the sum as int64, got {actual}")
        return Folded(accumulator=checked, clear_sums={item.path: sums[item.path] for item in self.manifest.clear_sums})


class Accumulator:
    """Running fold of updates. Not thread-safe. A rejected update leaves no trace in it."""

    def __init__(self, fold: Fold) -> None:
        self._fold = fold
        self._plain = fold.empty()
        self._clear: dict[str, Array] = {
            item.path: zeros(tuple(size or 0 for size in item.shape or ()), np.dtype(np.int64))
            for item in fold.manifest.clear_sums
        }

    @property
    def may_alias_updates(self) -> bool:
        """True if its tensors may share memory with an update.

        A graph that passes a tensor through returns the memory that it was fed.
        """
        return self._fold.runtime is not None

    def add(self, tensors: Mapping[str, Any], *, factor: float = 1.0) -> None:
        """Adds one update, without a copy unless it is scaled and folds with TensorFlow.

        Args:
          tensors: The update by the names of `manifest.update`, with the declared dtypes and
            shapes.
          factor: Factor of the tensors that count in the norm (`muster.runtime.norms.is_scaled`);
            the products are rounded to the tensors' dtypes.

        Raises:
          ProblemError: `update_invalid`, if a tensor does not match, or a sum in the clear is out
            of its range.
        """
        manifest = self._fold.manifest
        update = check_tensors(tensors, manifest.update, what="update", problem=ProblemType.UPDATE_INVALID)
        for item in manifest.clear_sums:
            _check_range(update[item.path], item)
            self._check_overflow(item, update[item.path])
        if self._fold.runtime is not None:
            plain = {name: value for name, value in update.items() if name not in self._clear}
            if factor != 1.0:
                plain = {name: scale(value, factor) if is_scaled(value) else value for name, value in plain.items()}
            self._set_computed(self._fold.runtime.accumulate(self._plain, plain, only=self._fold.unproven))
        with np.errstate(all="ignore"):  # integers wrap and floats overflow to infinity, as in TensorFlow
            for path, source, combine in self._fold.steps:
                _combine(self._plain[path], combine, update[source], factor=factor)
        for item in manifest.clear_sums:
            self._add_clear(item, update[item.path])

    def merge(self, tensors: Mapping[str, Any]) -> None:
        """Adds another accumulator.

        Args:
          tensors: The tensors of the other accumulator (`Accumulator.tensors`).

        Raises:
          ProblemError: `update_invalid`, if a tensor does not match.
        """
        other = self._fold.split(tensors)
        for item in self._fold.manifest.clear_sums:
            self._check_overflow(item, other.clear_sums[item.path])
        if self._fold.runtime is not None:
            self._set_computed(self._fold.runtime.merge(self._plain, other.accumulator, only=self._fold.unproven))
        with np.errstate(all="ignore"):
            for path, _, combine in self._fold.steps:
                _combine(self._plain[path], combine, other.accumulator[path])
        for item in self._fold.manifest.clear_sums:
            self._add_clear(item, other.clear_sums[item.path])

    def tensors(self) -> dict[str, Array]:
        """Returns the accumulator's own memory by name, not a copy.

        The tensors of `manifest.accumulator`, then the sums in the clear as int64.
        """
        return {**self._plain, **self._clear}

    def _set_computed(self, computed: Mapping[str, Array]) -> None:
        """Stores the tensors that the graphs computed from the accumulator.

        Called before numpy changes the other tensors in place.
        """
        for path, value in computed.items():
            # TensorFlow may return the memory that it was fed, if a graph passes a tensor through.
            self._plain[path] = np.array(value) if self._fold.steps else value

    def _check_overflow(self, item: ClearSum, value: Array) -> None:
        total = self._clear[item.path]
        if item.modulus is None and total.size and int(total.max()) + int(value.max()) > _INT64_MAX:
            raise _invalid_update(item.path, "the sum would not fit int64; give the secure sum a smaller maximum")

    def _add_clear(self, item: ClearSum, value: Array) -> None:
        target = self._clear[item.path]
        # An explicit dtype: numpy would add int64 and uint64 as float64.
        np.add(target, value, out=target, dtype=np.int64, casting="unsafe")
        if item.modulus is not None:
            np.mod(target, item.modulus, out=target)


def zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Returns an array of zeros whose memory returns to the system when the array is freed.

    The C library's allocator would retain the memory of large arrays, for each thread that created
    some. In a server this adds up to the size of many models.
    """
    count = math.prod(shape)
    if count * dtype.itemsize < _MIN_MAPPED_SIZE or dtype.hasobject:
        return np.zeros(shape, dtype)
    pages = mmap.mmap(-1, count * dtype.itemsize, **_PRIVATE_MAP)
    return np.frombuffer(pages, dtype, count).reshape(shape)


def _copy(value: Array) -> Array:
    copy = zeros(value.shape, value.dtype)
    copy[...] = value
    return copy


def _combine(target: Array, combine: np.ufunc, value: Array, *, factor: float = 1.0) -> None:
    """Combines `value`, multiplied by `factor`, into `target` in place."""
    if factor == 1.0 or not is_scaled(value):
        combine(target, value, target)
        return
    for target_slice, value_slice in iter_slices(target, value):
        combine(target_slice, scale(value_slice, factor), out=target_slice)


def _check_range(value: Array, item: ClearSum) -> None:
    """Raises `update_invalid` if a value of a sum in the clear is outside its declared range."""
    upper = item.modulus - 1 if item.modulus is not None else item.maximum
    if not value.size:
        return
    smallest, largest = int(value.min()), int(value.max())
    if smallest < item.minimum or (upper is not None and largest > upper):
        allowed = f"{item.kind} allows {item.minimum} to {'any' if upper is None else upper}"
        raise _invalid_update(item.path, f"holds {smallest} to {largest}; {allowed}")


def _invalid_update(path: str, reason: str) -> ProblemError:
    return ProblemError(
        ProblemType.UPDATE_INVALID,
        f"The update does not match the plan: {path}: {reason}",
        fields=(FieldError(path=path, reason=reason),),
    )
