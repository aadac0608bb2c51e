"""Converts a client's data to the tensors and element streams that a plan's `work` takes.

Imports no TensorFlow. A `tf.data.Dataset` is read through its iterator, so it needs no import here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

import numpy as np

from muster.runtime.paths import field_names, flat_order, join_path
from muster.runtime.values import Array, describe_array, describe_type, shape_fits, value_bytes
from muster.wire.dtypes import DType
from muster.wire.manifest import SequenceType, StructType, TensorType, Type
from muster.wire.problems import FieldError, ProblemError, ProblemType

Elements = Callable[[], Iterator[tuple[Array, ...]]]


@dataclass(frozen=True)
class DataLeaves:
    """Leaves of a client's data by path, in TFF's declared order; the plan's `work` binds them.

    Attributes:
      tensors: The plain tensors.
      sequences: A function for each data set that starts a pass over its elements.
    """

    tensors: dict[str, Array] = field(default_factory=dict)
    sequences: dict[str, Elements] = field(default_factory=dict)


class DataMeter:
    """Counter of the bytes of a client's data that a plan reads.

    Repeated passes over a data set count once.
    """

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}

    @property
    def total(self) -> int:
        """Returns the bytes read so far.

        That is the size of each tensor and of the longest pass over each data set.
        """
        return sum(self._sizes.values())

    def record(self, path: str, size: int) -> None:
        """Records that one pass over the leaf `path` has read `size` bytes."""
        self._sizes[path] = max(self._sizes.get(path, 0), size)


def adapt(data: Any, declared: Type, *, root: str = "data", meter: Optional[DataMeter] = None) -> DataLeaves:
    """Flattens a client's data (or any value of a plan).

    Args:
      data: A value of the type `declared`. A sequence may be a `tf.data.Dataset` or any iterable of
        elements; one that can be read only once (a generator) is buffered in memory, since a plan
        may read it again. A structure may be a mapping with its keys in any order, a sequence, or
        an object with the fields as attributes. Plain Python values are converted to the declared
        dtype; arrays must have it.
      declared: The plan's `manifest.data`.
      root: The name of the root, for paths.
      meter: Counts the bytes: of tensors at once, of a sequence's elements when they are read.

    Raises:
      ProblemError: `invalid_request`, with the path, the expected and the actual value. For the
        elements of a sequence it is raised when they are read.
    """
    leaves = DataLeaves()
    _add_leaves(leaves, data, declared, path="", root=root, meter=meter or DataMeter())
    return leaves


def _add_leaves(leaves: DataLeaves, data: Any, declared: Type, *, path: str, root: str, meter: DataMeter) -> None:
    """Adds the leaves of the value `data`, which stands at `path`, to `leaves`."""
    name = path or root
    if isinstance(declared, TensorType):
        array = leaves.tensors[name] = to_array(data, declared, path=name)
        meter.record(name, value_bytes(array))
    elif isinstance(declared, SequenceType):
        leaves.sequences[name] = _elements(data, declared.element, path=name, meter=meter)
    else:
        for item, key, value in zip(declared.fields, field_names(declared), _field_values(data, declared, path=name)):
            _add_leaves(leaves, value, item.type, path=join_path(path, key), root=root, meter=meter)


def _elements(data: Any, element: Type, *, path: str, meter: DataMeter) -> Elements:
    """Returns a function that starts a pass over a data set.

    The pass yields each element as a tuple of its leaves.
    """
    if isinstance(data, (Mapping, str, bytes)) or not isinstance(data, Iterable):
        hint = " (a single batch goes into a list: [batch])" if isinstance(data, Mapping) else ""
        raise _mismatch(path, expected="a tf.data.Dataset or an iterable of elements", actual=_type_name(data) + hint)
    source: Iterable[Any] = _BufferedIterable(data) if isinstance(data, Iterator) else data

    def read() -> Iterator[tuple[Array, ...]]:
        size = 0
        for number, item in enumerate(source):
            leaves: list[Array] = []
            _flatten(item, element, path=f"{path}[{number}]", into=leaves)
            size += sum(map(value_bytes, leaves))
            meter.record(path, size)
            yield tuple(leaves)

    return read


class _BufferedIterable:
    """Iterable that buffers a source that can be read only once, for later passes."""

    def __init__(self, source: Iterator[Any]) -> None:
        self._source = source
        self._buffer: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        at = 0
        while True:
            if at == len(self._buffer):
                try:
                    self._buffer.append(next(self._source))
                except StopIteration:
                    return
            yield self._buffer[at]
            at += 1


def _flatten(value: Any, declared: Type, *, path: str, into: list[Array]) -> None:
    """Appends the leaves of an element to `into`, in TensorFlow's flattening order."""
    if isinstance(declared, StructType):
        fields, names = _field_values(value, declared, path=path), field_names(declared)
        for at in flat_order(declared):
            _flatten(fields[at], declared.fields[at].type, path=join_path(path, names[at]), into=into)
    elif isinstance(declared, TensorType):
        into.append(to_array(value, declared, path=path))


def _field_values(value: Any, declared: StructType, *, path: str) -> list[Any]:
    """Returns the values of a structure's fields, in the declared order."""
    names = [item.name for item in declared.fields]
    expected = f"a structure of {', '.join(str(name) for name in field_names(declared)) or 'nothing'}"
    if isinstance(value, Mapping):
        if set(value) != set(names):
            raise _mismatch(path, expected=expected, actual=f"a mapping of {', '.join(map(str, value)) or 'nothing'}")
        return [value[name] for name in names]
    if value is None and not names:
        return []
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        if len(value) != len(names):
            raise _mismatch(path, expected=expected, actual=f"a {type(value).__name__} of {len(value)}")
        tuple_names = getattr(value, "_fields", None)
        if tuple_names is not None and None not in names:
            if set(tuple_names) != set(names):
                raise _mismatch(path, expected=expected, actual=f"a {type(value).__name__} of {', '.join(tuple_names)}")
            return [getattr(value, str(name)) for name in names]
        return list(value)
    if names and None not in names and all(hasattr(value, str(name)) for name in names):
        return [getattr(value, str(name)) for name in names]
    raise _mismatch(path, expected=expected, actual=_type_name(value))


def to_array(value: Any, declared: TensorType, *, path: str) -> Array:
    """Converts `value` to an array of the declared dtype and shape.

    Strings become an object array of bytes.

    Raises:
      ProblemError: `invalid_request`, if the dtype or the shape differs.
    """
    expected = describe_type(declared.dtype, declared.shape)
    value = value.numpy() if hasattr(value, "numpy") else value  # a TensorFlow tensor
    typed = isinstance(value, (np.ndarray, np.generic)) and not isinstance(value, (np.bytes_, np.str_))
    try:
        if declared.dtype is DType.STRING:
            array = _bytes_array(np.asarray(value) if typed else np.array(value, dtype=object))
        else:
            array = np.asarray(value)
            array = array if typed else _convert(array, declared.dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise _mismatch(
            path, expected=expected, actual=f"{_type_name(value)}, which can't be converted to it"
        ) from error
    if array.dtype != declared.dtype.numpy:
        hint = f"; convert it with .astype({declared.dtype.value!r})" if array.dtype.kind in "biufc" else ""
        raise _mismatch(path, expected=expected, actual=describe_array(array) + hint)
    if not shape_fits(array.shape, declared.shape):
        raise _mismatch(path, expected=expected, actual=describe_array(array))
    return array


def _convert(array: Array, dtype: DType) -> Array:
    """Converts an array of plain Python values to `dtype`, unless that loses information.

    numpy has chosen the array's dtype.
    """
    convertible_kinds = (
        "iu"
        if dtype.is_integer
        else "iufc"
        if dtype.value.startswith("complex")
        else "iuf"
        if dtype.is_floating
        else ""
    )
    if array.size and array.dtype.kind not in convertible_kinds:
        return array
    converted = array.astype(dtype.numpy)
    return array if dtype.is_integer and not np.array_equal(converted, array) else converted


def _bytes_array(array: Array) -> Array:
    if array.dtype.kind not in "OSU":
        return array
    flat = array.reshape(-1).tolist()
    if not all(isinstance(item, (str, bytes)) for item in flat):
        raise TypeError("holds objects that are not strings")
    result = np.empty(len(flat), dtype=object)
    for at, item in enumerate(flat):
        result[at] = item.encode() if isinstance(item, str) else item
    return result.reshape(array.shape)


def _type_name(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _mismatch(path: str, *, expected: str, actual: str) -> ProblemError:
    """Returns the error for a value that differs from its declaration."""
    reason = f"expected {expected}, got {actual}"
    return ProblemError(
        ProblemType.INVALID_REQUEST,
        f"The data does not match the plan: {path}: {reason}",
        fields=(FieldError(path=path, reason=reason),),
    )
