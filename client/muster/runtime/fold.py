"""The fold: many updates into one accumulator, in place, with numpy wherever the plan proves that it may.

A sum, a maximum or a minimum goes straight into the accumulator's memory. Tensors for which a plan needs its own graphs
(`FoldKind.TENSORFLOW`), and they alone, are computed by `accumulate` and `merge`. Sums in the clear are numpy either way:
int64, every update checked at both ends first. This module never imports TensorFlow by itself.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Optional

import numpy as np

from muster.runtime.norms import is_scaled, iter_pieces, scale
from muster.runtime.values import Array, check_tensors, describe_array, shape_fits
from muster.wire.manifest import ClearSum, FoldKind, PlanManifest
from muster.wire.problems import FieldError, ProblemError, ProblemType

if TYPE_CHECKING:
    from muster.runtime.stages import Runtime

_INT64_MAX = int(np.iinfo(np.int64).max)
_MAPPED = 1 << 18  # bytes from which an array gets pages of its own
_PRIVATE: dict[str, Any] = {"flags": mmap.MAP_PRIVATE} if hasattr(mmap, "MAP_PRIVATE") else {}  # Windows knows no other
_UFUNCS: dict[FoldKind, np.ufunc] = {
    FoldKind.SUM: np.add,
    FoldKind.MAXIMUM: np.maximum,
    FoldKind.MINIMUM: np.minimum,
}


@dataclass(frozen=True)
class Folded:
    """An accumulator's tensors, as the stages take them apart.

    Attributes:
      accumulator: What `report` takes, by the names of `manifest.accumulator`.
      clear_sums: What `update` takes beside the aggregate, int64, by the names of `manifest.clear_sums`.
    """

    accumulator: dict[str, Array]
    clear_sums: dict[str, Array]


class Fold:
    """How the updates of one plan fold.

    Args:
      manifest: The plan's.
      zero: The empty accumulator by name (`Plan.zero()`); it is copied, never written to. None where `manifest.sums_alone`: then
        it is all zeros, and a plan's parts need not be in memory for it.
      tensorflow: Gives the plan's `Runtime`; asked once, and only where `manifest.folds_with_tensorflow`.
    """

    def __init__(
        self,
        manifest: PlanManifest,
        *,
        zero: Optional[Mapping[str, Any]],
        tensorflow: Optional[Callable[[], Runtime]] = None,
    ) -> None:
        self.manifest = manifest
        if zero is None and not manifest.sums_alone:
            raise ValueError(f"plan {manifest.name!r} folds with more than sums: give its zero")
        self._zero = zero and check_tensors(zero, manifest.accumulator, what="zero", problem=ProblemType.PLAN_INVALID)
        self.steps = [
            (rule.path, rule.update or "", _UFUNCS[rule.kind]) for rule in manifest.folds if rule.kind in _UFUNCS
        ]
        self.unproven = frozenset(rule.path for rule in manifest.folds if rule.kind is FoldKind.TENSORFLOW)
        self.runtime: Optional[Runtime] = None
        if manifest.folds_with_tensorflow:
            if tensorflow is None:
                raise ValueError(
                    f"plan {manifest.name!r} folds with TensorFlow: give `tensorflow`, which makes its Runtime"
                )
            self.runtime = tensorflow()

    def start(self) -> Accumulator:
        """A new accumulator that holds the zero."""
        return Accumulator(self)

    def empty(self) -> dict[str, Array]:
        """A zero in memory of its own, by the names of `manifest.accumulator`."""
        if self._zero is None:
            return {
                spec.path: zeros(tuple(size or 0 for size in spec.shape or ()), spec.dtype.numpy)
                for spec in self.manifest.accumulator
            }
        return {name: _copied(value) for name, value in self._zero.items()}

    def split(self, tensors: Mapping[str, Any]) -> Folded:
        """Takes an accumulator's tensors apart, for `report` and `update`.

        Raises:
          ProblemError: `update_invalid`, if they are not what `Accumulator.tensors` gives.
        """
        clear_names = {item.path for item in self.manifest.clear_sums}
        plain = {name: value for name, value in tensors.items() if name not in clear_names}
        sums = {name: np.asarray(value) for name, value in tensors.items() if name in clear_names}
        checked = check_tensors(plain, self.manifest.accumulator, what="partial", problem=ProblemType.UPDATE_INVALID)
        for item in self.manifest.clear_sums:
            value = sums.get(item.path)
            if value is None or value.dtype != np.int64 or not shape_fits(value.shape, item.shape):
                found = "nothing" if value is None else describe_array(value)
                raise _refused(item.path, f"expected the sum as int64, got {found}")
        return Folded(accumulator=checked, clear_sums={item.path: sums[item.path] for item in self.manifest.clear_sums})


class Accumulator:
    """A running fold. Not for several threads at once. An update that is refused leaves no trace in it."""

    def __init__(self, fold: Fold) -> None:
        self._fold = fold
        self._plain = fold.empty()
        self._clear: dict[str, Array] = {
            item.path: zeros(tuple(size or 0 for size in item.shape or ()), np.dtype(np.int64))
            for item in fold.manifest.clear_sums
        }

    @property
    def aliases(self) -> bool:
        """Whether its tensors may be the memory of an update: a graph that passes a tensor through hands back what it was fed."""
        return self._fold.runtime is not None

    def add(self, tensors: Mapping[str, Any], *, factor: float = 1.0) -> None:
        """Folds one update in, without a copy of it (of one that is scaled and folds with TensorFlow: with one).

        Args:
          tensors: By the names of `manifest.update`, dtypes and shapes as declared there.
          factor: What its floating-point tensors of one dimension or more are multiplied by on the way
            (`muster.runtime.norms`), rounded to their dtype.

        Raises:
          ProblemError: `update_invalid`, if a tensor does not match, or a sum in the clear is out of its range.
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
        """Folds another accumulator in.

        Args:
          tensors: What its `tensors` gave.

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
        """The accumulator's own memory, by name: `manifest.accumulator`, then the sums in the clear as int64."""
        return {**self._plain, **self._clear}

    def _set_computed(self, computed: Mapping[str, Array]) -> None:
        """Takes what the graphs computed from the accumulator as it was, before anything is added to the rest of it in place."""
        for path, value in computed.items():
            # TensorFlow may hand back the very memory that it was fed, where a graph passes a tensor through.
            self._plain[path] = np.array(value) if self._fold.steps else value

    def _check_overflow(self, item: ClearSum, value: Array) -> None:
        held = self._clear[item.path]
        if item.modulus is None and held.size and int(held.max()) + int(value.max()) > _INT64_MAX:
            raise _refused(item.path, "the sum would not fit int64; give the secure sum a smaller maximum")

    def _add_clear(self, item: ClearSum, value: Array) -> None:
        target = self._clear[item.path]
        # Said, since numpy would add int64 and uint64 as float64.
        np.add(target, value, out=target, dtype=np.int64, casting="unsafe")
        if item.modulus is not None:
            np.mod(target, item.modulus, out=target)


def zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Zeros, in memory that goes back to the system as soon as nothing holds them.

    The C library keeps what large arrays leave behind, for each thread that made some: many models' worth, in a server.
    """
    count = math.prod(shape)
    if count * dtype.itemsize < _MAPPED or dtype.hasobject:
        return np.zeros(shape, dtype)
    pages = mmap.mmap(-1, count * dtype.itemsize, **_PRIVATE)
    return np.frombuffer(pages, dtype, count).reshape(shape)


def _copied(value: Array) -> Array:
    copy = zeros(value.shape, value.dtype)
    copy[...] = value
    return copy


def _combine(target: Array, combine: np.ufunc, value: Array, *, factor: float = 1.0) -> None:
    if factor == 1.0 or not is_scaled(value):
        combine(target, value, target)
        return
    for into, piece in iter_pieces(target, value):
        combine(into, scale(piece, factor), out=into)


def _check_range(value: Array, item: ClearSum) -> None:
    top = item.modulus - 1 if item.modulus is not None else item.maximum
    if not value.size:
        return
    least, most = int(value.min()), int(value.max())
    if least < item.minimum or (top is not None and most > top):
        raise _refused(
            item.path, f"holds {least} to {most}; {item.kind} allows {item.minimum} to {'any' if top is None else top}"
        )


def _refused(path: str, reason: str) -> ProblemError:
    return ProblemError(
        ProblemType.UPDATE_INVALID,
        f"The update does not match the plan: {path}: {reason}",
        fields=(FieldError(path=path, reason=reason),),
    )
