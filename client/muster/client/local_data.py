"""Adapts the data callback and checks an update for NaN and infinity."""

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
    """Assignment that a data callback returns data for.

    Attributes:
      task: The task.
      round: The round, from 1.
      plan: The plan's name.
      kind: The kind of the work: `train`, `evaluate` or `analytics`.
      selector: The task's value that says which data to use, such as `{"split": "test"}`, or None.
    """

    task: str
    round: int
    plan: str
    kind: str = "train"
    selector: Optional[Mapping[str, Any]] = None


def accept_context(data: DataCallback) -> Callable[[WorkContext], Any]:
    """Returns `data` as a function of a context; a callback without parameters ignores it.

    Raises:
      TypeError: `data` can't be called, or needs more than one argument.
    """
    if not callable(data):
        raise TypeError(f"data must be a function that returns the client's data, not {type(data).__name__}")
    try:
        parameters = inspect.signature(data).parameters.values()
    except ValueError:  # some built-ins have no signature
        return lambda _: data()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [
        item.name for item in parameters if item.default is item.empty and item.kind in (*positional, item.KEYWORD_ONLY)
    ]
    if not required:
        return lambda _: data()
    keyword_only = [item.name for item in parameters if item.default is item.empty and item.kind is item.KEYWORD_ONLY]
    if len(required) > 1 or keyword_only:
        raise TypeError(f"data takes no argument, or one (its context); this function needs {', '.join(required)}")
    return data


def name_of_non_finite(update: Mapping[str, Array]) -> Optional[str]:
    """Returns the name of a tensor that holds NaN or infinity, or None."""
    for name, array in update.items():
        dtype = DType.of(array)
        # numpy's isfinite does not support bfloat16; float32 holds every bfloat16 exactly.
        checked = array.astype(np.float32) if dtype is DType.BFLOAT16 else array
        if dtype.is_floating and not np.isfinite(checked).all():
            return name
    return None
