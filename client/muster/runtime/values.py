"""Checks named tensors against what a plan declares. numpy only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Optional, Protocol

import numpy as np

from muster.wire.dtypes import DType
from muster.wire.problems import FieldError, ProblemError, ProblemType

Array = np.ndarray[Any, Any]
Shape = Optional[tuple[Optional[int], ...]]


class TensorDeclaration(Protocol):
    """What a `TensorSpec`, a `TensorBinding` and a `ClearSum` have in common."""

    @property
    def path(self) -> str: ...  # noqa: D102

    @property
    def dtype(self) -> DType: ...  # noqa: D102

    @property
    def shape(self) -> Shape: ...  # noqa: D102


def shape_fits(shape: tuple[int, ...], declared: Shape) -> bool:
    """Whether `shape` is one that `declared` allows; None stands for any size, or for any shape."""
    if declared is None:
        return True
    return len(shape) == len(declared) and all(want is None or have == want for have, want in zip(shape, declared))


def describe_type(dtype: DType, shape: Shape) -> str:
    """A dtype and a shape in TFF's way: `float32[?,2]`; `float32[...]` where not even the rank is known."""
    if shape is None:
        return f"{dtype.value}[...]"
    return dtype.value + (f"[{','.join('?' if size is None else str(size) for size in shape)}]" if shape else "")


def describe_array(array: Array) -> str:
    """The dtype and shape that an array has."""
    try:
        return describe_type(DType.of(array), array.shape)
    except TypeError:
        return f"{array.dtype}{list(array.shape)}"


def value_bytes(array: Array) -> int:
    """Returns the bytes of an array's values: for strings those of the contents, not of the pointers."""
    if array.dtype.kind == "O":
        return sum(len(item) for item in array.reshape(-1).tolist())
    return array.nbytes


def check_tensors(
    tensors: Mapping[str, Any],
    specs: Iterable[TensorDeclaration],
    *,
    what: str,
    problem: ProblemType = ProblemType.INVALID_REQUEST,
) -> dict[str, Array]:
    """The tensors in the declared order, each of just its declared dtype and a shape that is allowed.

    Args:
      tensors: By name; more or fewer names than declared are an error.
      specs: What is declared, in order.
      what: What the tensors are, for the error: `state`, `update`.
      problem: The type of the error.

    Raises:
      ProblemError: of type `problem`, with every bad tensor's name and reason.
    """
    wanted = {spec.path: spec for spec in specs}
    errors = [FieldError(path=name, reason="is not declared by the plan") for name in tensors if name not in wanted]
    found: dict[str, Array] = {}
    for path, spec in wanted.items():
        if path not in tensors:
            errors.append(FieldError(path=path, reason=f"is missing; expected {describe_type(spec.dtype, spec.shape)}"))
            continue
        array = np.asarray(tensors[path])
        if array.dtype != spec.dtype.numpy or not shape_fits(array.shape, spec.shape):
            reason = f"expected {describe_type(spec.dtype, spec.shape)}, got {describe_array(array)}"
            errors.append(FieldError(path=path, reason=reason))
            continue
        found[path] = array
    if errors:
        listed = "; ".join(f"{error.path}: {error.reason}" for error in errors[:3])
        more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""  # noqa: PLR2004
        raise ProblemError(problem, f"The {what} does not match the plan: {listed}{more}", fields=tuple(errors))
    return found
