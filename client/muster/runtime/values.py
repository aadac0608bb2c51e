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
    """Common interface of `TensorSpec`, `TensorBinding` and `ClearSum`."""

    @property
    def path(self) -> str: ...  # noqa: D102

    @property
    def dtype(self) -> DType: ...  # noqa: D102

    @property
    def shape(self) -> Shape: ...  # noqa: D102


def shape_fits(shape: tuple[int, ...], declared: Shape) -> bool:
    """Returns whether `declared` allows `shape`. None stands for any size, or for any shape."""
    if declared is None:
        return True
    return len(shape) == len(declared) and all(
        allowed is None or size == allowed for size, allowed in zip(shape, declared)
    )


def describe_type(dtype: DType, shape: Shape) -> str:
    """Formats a dtype and a shape in TFF's notation.

    For example `float32[?,2]`, or `float32[...]` for an unknown rank.
    """
    if shape is None:
        return f"{dtype.value}[...]"
    return dtype.value + (f"[{','.join('?' if size is None else str(size) for size in shape)}]" if shape else "")


def describe_array(array: Array) -> str:
    """Formats an array's dtype and shape."""
    try:
        return describe_type(DType.of(array), array.shape)
    except TypeError:
        return f"{array.dtype}{list(array.shape)}"


def value_bytes(array: Array) -> int:
    """Returns the size of an array's values in bytes.

    For strings, that is the size of the contents, not of the pointers.
    """
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
    """Checks tensors against their declarations and returns them in the declared order.

    Args:
      tensors: The tensors by name. Undeclared and missing names are errors.
      specs: The declarations, in order.
      what: The name of the value for the error, such as `state` or `update`.
      problem: The type of the error.

    Returns:
      The tensors, each of exactly its declared dtype and of an allowed shape.

    Raises:
      ProblemError: of type `problem`, with the name and the reason for every bad tensor.
    """
    declared = {spec.path: spec for spec in specs}
    errors = [FieldError(path=name, reason="is not declared by the plan") for name in tensors if name not in declared]
    checked: dict[str, Array] = {}
    for path, spec in declared.items():
        if path not in tensors:
            errors.append(FieldError(path=path, reason=f"is missing; expected {describe_type(spec.dtype, spec.shape)}"))
            continue
        array = np.asarray(tensors[path])
        if array.dtype != spec.dtype.numpy or not shape_fits(array.shape, spec.shape):
            reason = f"expected {describe_type(spec.dtype, spec.shape)}, got {describe_array(array)}"
            errors.append(FieldError(path=path, reason=reason))
            continue
        checked[path] = array
    if errors:
        listed = "; ".join(f"{error.path}: {error.reason}" for error in errors[:3])
        more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""  # noqa: PLR2004
        raise ProblemError(problem, f"The {what} does not match the plan: {listed}{more}", fields=tuple(errors))
    return checked
