"""Element types of tensors: all that TFF allows, by TensorFlow's names."""

from __future__ import annotations

from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np


class DType(str, Enum):
    """Element type of a tensor, by TensorFlow's name."""

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
        """Numpy dtype in memory. Strings are `object` arrays of `bytes`, as in TensorFlow."""
        if self is DType.STRING:
            return np.dtype(object)
        if self is DType.BFLOAT16:
            return bfloat16()
        return np.dtype(self.value)

    @cached_property
    def is_floating(self) -> bool:
        """True for real and complex floating point, whose values may be NaN or infinite."""
        return self.value.lstrip("b").startswith(("float", "complex"))

    @property
    def is_integer(self) -> bool:
        """True for signed and unsigned integers."""
        return "int" in self.value

    @classmethod
    def of(cls, array: np.ndarray[Any, Any]) -> DType:
        """Returns the dtype of a numpy array.

        Raises:
          TypeError: TensorFlow has no such dtype (dates, records).
        """
        if array.dtype.kind in "OSU":
            return cls.STRING
        try:
            return cls(array.dtype.name)
        except ValueError:
            raise TypeError(f"dtype {array.dtype} can't be sent: it has no counterpart in TensorFlow") from None


def bfloat16() -> np.dtype[Any]:
    """Returns numpy's bfloat16, which needs `ml_dtypes` (installed with TensorFlow)."""
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)
