"""The client's data: how the callback that gives it is called, and the check of what is about to leave the device."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable, Optional

import numpy as np

from muster.wire.dtypes import DType
from muster.wire.tensors import Array

DataCallback = Callable[..., Any]


@dataclass(frozen=True)
class WorkContext:
    """What the data is for. `plan` is the plan's name."""

    task: str
    round: int
    plan: str


def bind(data: DataCallback) -> Callable[[WorkContext], Any]:
    """Makes `data()` and `data(context)` alike.

    Raises:
      TypeError: `data` can't be called, or needs more than one argument.
    """
    if not callable(data):
        raise TypeError(f"data must be a function that gives the client's data, not {type(data).__name__}")
    try:
        parameters = inspect.signature(data).parameters.values()
    except ValueError:  # some built-ins have none
        return lambda _: data()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [
        item.name for item in parameters if item.default is item.empty and item.kind in (*positional, item.KEYWORD_ONLY)
    ]
    if not needed:
        return lambda _: data()
    by_keyword = [item.name for item in parameters if item.default is item.empty and item.kind is item.KEYWORD_ONLY]
    if len(needed) > 1 or by_keyword:
        raise TypeError(f"data takes no argument, or one (its context); this one needs {', '.join(needed)}")
    return data


def not_finite(update: Mapping[str, Array]) -> Optional[str]:
    """The name of a tensor that holds NaN or infinity, or None."""
    for name, array in update.items():
        dtype = DType.of(array)
        # numpy's isfinite does not know bfloat16, which is exact as float32.
        checked = array.astype(np.float32) if dtype is DType.BFLOAT16 else array
        if dtype.is_floating and not np.isfinite(checked).all():
            return name
    return None
