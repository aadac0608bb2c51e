"""The dtypes that a plan may use: every one that TFF allows, under TensorFlow's names."""

from __future__ import annotations

from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np


class DType(str, Enum):
    """A tensor's element type. `numpy` gives the dtype it has in memory, `safetensors` the one it has in a file."""

    BOOL = "bool"
    INT8 = "int8"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    UINT8 = "uint8"
    UINT16 = "uint16"
    UINT32 = "uint32"
    UINT64 = "uint64"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    COMPLEX64 = "complex64"
    COMPLEX128 = "complex128"
    STRING = "string"

    @cached_property
    def numpy(self) -> np.dtype[Any]:
        """The numpy dtype; strings are `object` arrays of `bytes`, as TensorFlow has them."""
        if self is DType.STRING:
            return np.dtype(object)
        if self is DType.BFLOAT16:
            return bfloat16()
        return np.dtype(self.value)

    @cached_property
    def is_floating(self) -> bool:
        """Whether values may be NaN or infinite (real or complex floating point)."""
        return self.value.lstrip("b").startswith(("float", "complex"))

    @property
    def is_integer(self) -> bool:
        """Whether it is a signed or unsigned integer."""
        return "int" in self.value

    @classmethod
    def of(cls, array: np.ndarray[Any, Any]) -> DType:
        """The dtype of a numpy array.

        Raises:
          TypeError: numpy has it, TensorFlow has not (dates, records).
        """
        if array.dtype.kind in "OSU":
            return cls.STRING
        try:
            return cls(array.dtype.name)
        except ValueError:
            raise TypeError(f"dtype {array.dtype} can't be sent: it has no counterpart in TensorFlow") from None


def bfloat16() -> np.dtype[Any]:
    """Numpy's bfloat16, which `ml_dtypes` brings (TensorFlow installs it)."""
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)
