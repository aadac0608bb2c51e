"""Encodes named tensors as safetensors: updates, broadcasts, partials, checkpoints and results.

Any safetensors library reads these files. Dtypes that the format lacks are packed: complex128 as
float64 with a last axis of 2; strings as bytes, all lengths (little-endian uint64) before all
contents. `__metadata__` has one key, `muster`, with a JSON object of `order`, the declared order of
the tensors; `packed`, the dtype and shape of each packed tensor; and `notes` of the writer.

The safetensors package is not used, because an update is validated by its header before its body
arrives, a fold reads tensors in place, and equal tensors must be equal bytes
(docs/decisions/0004-tensors.md).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

import numpy as np

from muster.wire.dtypes import DType

Array = np.ndarray[Any, Any]
Buffer = Union[bytes, bytearray, memoryview]

HEADER_LIMIT = 4 << 20  # bytes; a header lists tensors, a few dozen bytes each
_PIECE = 1 << 20  # bytes that `encode_chunks` yields at a time, so that a store copies no whole tensor
_LENGTH = 8  # bytes of a length, little-endian
_STRINGS = 1 << 14  # strings that are processed together
_MAX_QUOTED = 100  # characters of a name in an error
_MAX_AXES = 32  # of a numpy 1 array
_MAX_ELEMENTS = 1 << 48  # axes of size 0 left out, as in numpy
_CODES: dict[DType, str] = {
    DType.BOOL: "BOOL",
    DType.INT8: "I8",
    DType.INT16: "I16",
    DType.INT32: "I32",
    DType.INT64: "I64",
    DType.UINT8: "U8",
    DType.UINT16: "U16",
    DType.UINT32: "U32",
    DType.UINT64: "U64",
    DType.FLOAT16: "F16",
    DType.BFLOAT16: "BF16",
    DType.FLOAT32: "F32",
    DType.FLOAT64: "F64",
    DType.COMPLEX64: "C64",
}
_DTYPES = {code: dtype for dtype, code in _CODES.items()}


def _quoted(name: str) -> str:
    """Returns a name shortened for an error. A file may contain one of megabytes."""
    return repr(name if len(name) <= _MAX_QUOTED else name[: _MAX_QUOTED - 1] + "…")


class TensorsError(ValueError):
    """Error raised when bytes are not the expected safetensors file."""


@dataclass(frozen=True)
class Entry:
    """Tensor in a file.

    Attributes:
      name: Name of the tensor.
      dtype: Dtype after unpacking.
      shape: Shape after unpacking.
      begin: First byte, from the start of the file's data.
      end: Byte after the last one, from the start of the file's data.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in the file."""
        return self.end - self.begin


@dataclass(frozen=True)
class Header:
    """Header of a file.

    Attributes:
      entries: Tensors, in the order of their data.
      order: Names of the tensors, in their declared order.
      data_start: Bytes from the start of the file to its data.
      data_size: Bytes of the data.
      notes: Notes of the file's writer.
    """

    entries: tuple[Entry, ...]
    order: tuple[str, ...]
    data_start: int
    data_size: int
    notes: Mapping[str, Any]

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        return self.data_start + self.data_size


def header_size(start: Buffer) -> int:
    """Returns the bytes from a file's start to its data.

    Args:
      start: The first 8 bytes of the file, or more.

    Raises:
      TensorsError: `start` is shorter, or the header is longer than `HEADER_LIMIT`.
    """
    if len(start) < _LENGTH:
        raise TensorsError(
            f"{len(start)} bytes are not a safetensors file: the length of its header has {_LENGTH} bytes"
        )
    size = int.from_bytes(bytes(start[:_LENGTH]), "little")
    if size > HEADER_LIMIT:
        raise TensorsError(f"the header declares a length of {size} bytes; at most {HEADER_LIMIT} are allowed")
    return _LENGTH + size


def read_header(start: Buffer) -> Header:
    """Parses and checks a header.

    Args:
      start: Bytes from the start of the file to its data, or more.

    Raises:
      TensorsError: the header is cut off, is not JSON of the format, names an unknown dtype, or its
        tensors have gaps, overlap or contradict their shapes.
    """
    data_start = header_size(start)
    if len(start) < data_start:
        raise TensorsError(f"the header is cut off: {len(start)} bytes of {data_start}")
    try:
        document = json.loads(bytes(start[_LENGTH:data_start]))
    except (ValueError, RecursionError) as error:
        raise TensorsError(f"the header is not JSON: {type(error).__name__}") from error
    if not isinstance(document, dict):
        raise TensorsError("the header is not a JSON object")
    packed, order, notes = _read_metadata(document.pop("__metadata__", {}))
    entries = sorted(
        (_read_entry(name, item, packed) for name, item in document.items()), key=lambda e: (e.begin, e.end)
    )
    position = 0
    for entry in entries:
        if entry.begin != position:
            raise TensorsError(f"tensor {_quoted(entry.name)} starts at byte {entry.begin}; {position} was expected")
        position = entry.end
    names = [entry.name for entry in entries]
    if order is not None and sorted(order) != sorted(names):
        raise TensorsError("the declared order does not list exactly the tensors of the file")
    return Header(tuple(entries), tuple(names if order is None else order), data_start, position, notes)


def read_file_header(data: Buffer) -> Header:
    """Parses and checks the header of a complete file.

    Raises:
      TensorsError: see `read_header`; or the file's size is not the one that the header declares.
    """
    header = read_header(data)
    if len(data) != header.file_size:
        raise TensorsError(f"the file has {len(data)} bytes; its header declares {header.file_size}")
    return header


def _read_metadata(
    metadata: Any,
) -> tuple[dict[str, tuple[DType, tuple[int, ...]]], list[str] | None, dict[str, Any]]:
    raw = metadata.get("muster") if isinstance(metadata, dict) else None
    if raw is None:
        return {}, None, {}
    try:
        document = json.loads(raw)
        packed = {
            str(name): (DType(item["dtype"]), _shape(name, item["shape"]))
            for name, item in document.get("packed", {}).items()
        }
        order = [str(name) for name in document["order"]] if "order" in document else None
        notes = dict(document.get("notes", {}))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TensorsError(f"__metadata__.muster can't be read: {str(error)[:_MAX_QUOTED]}") from error
    return packed, order, notes


def _shape(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(size) is int and size >= 0 for size in value):
        raise TensorsError(f"tensor {_quoted(name)} has an invalid shape")
    # An impossible shape is refused before it is multiplied: its numbers could take minutes.
    elements = 1
    for size in value[: _MAX_AXES + 1]:
        elements *= min(size or 1, _MAX_ELEMENTS + 1)
        if elements > _MAX_ELEMENTS:
            break
    if len(value) > _MAX_AXES or elements > _MAX_ELEMENTS:
        raise TensorsError(f"tensor {_quoted(name)} has a shape that exceeds any array")
    return tuple(value)


def _read_entry(name: str, item: Any, packed: Mapping[str, tuple[DType, tuple[int, ...]]]) -> Entry:
    if not isinstance(item, dict) or item.keys() != {"dtype", "shape", "data_offsets"}:
        raise TensorsError(f"tensor {_quoted(name)} must have exactly dtype, shape and data_offsets")
    if any("\ud800" <= character <= "\udfff" for character in name):
        raise TensorsError(f"tensor {_quoted(name)} has a lone surrogate in its name")
    code, shape, offsets = item["dtype"], _shape(name, item["shape"]), item["data_offsets"]
    dtype = _DTYPES.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise TensorsError(f"tensor {_quoted(name)} has the unknown dtype {code!r:.40}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(at) is int and at >= 0 for at in offsets):  # noqa: PLR2004
        raise TensorsError(f"tensor {_quoted(name)} has invalid data_offsets")
    begin, end = offsets
    if end - begin != math.prod(shape) * dtype.numpy.itemsize:
        raise TensorsError(f"tensor {_quoted(name)} has {end - begin} bytes, which do not match its shape and dtype")
    if name in packed:
        stored = (dtype, shape)
        dtype, shape = packed[name]
        is_packed = {
            DType.COMPLEX128: stored == (DType.FLOAT64, (*shape, 2)),
            DType.STRING: stored[0] is DType.UINT8 and end - begin >= _LENGTH * math.prod(shape),
        }.get(dtype, False)
        if not is_packed:
            raise TensorsError(f"tensor {_quoted(name)} is not packed like {dtype.value} of its shape")
    return Entry(name, dtype, shape, begin, end)


def unpack(entry: Entry, data: Buffer) -> Array:
    """Returns a tensor from its bytes: a copy if it is packed, else a view of `data`.

    Args:
      entry: Entry of the tensor.
      data: Its bytes in the file. A view of read-only bytes is read-only.

    Raises:
      TensorsError: the lengths of strings do not add up.
    """
    if entry.dtype is DType.STRING:
        return _unpack_strings(entry, data)
    return np.frombuffer(data, dtype=entry.dtype.numpy).reshape(entry.shape)


class StringLengths:
    """Incremental checker of a packed string tensor, without a Python object per string.

    All lengths precede all contents. Once they add up to the size of the contents, any contents are
    valid.
    """

    def __init__(self, entry: Entry) -> None:
        self._name = entry.name
        self._pending = _LENGTH * math.prod(entry.shape)  # bytes of lengths that have not arrived
        self._contents = entry.nbytes - self._pending
        self._sum = 0
        self._compare()

    def feed(self, piece: Buffer) -> None:
        """Checks the next piece. All pieces but the last have a multiple of 8 bytes.

        Raises:
          TensorsError: the lengths do not add up to the contents.
        """
        if not self._pending:
            return
        lengths = np.frombuffer(memoryview(piece)[: self._pending], dtype="<u8")
        self._pending -= lengths.nbytes
        for start in range(0, len(lengths), _STRINGS):
            block = lengths[start : start + _STRINGS]
            # A single length above the contents' size is refused, since an overflow could hide it.
            if int(block.max()) > self._contents:
                raise self._error()
            self._sum += int(block.sum())
        self._compare()

    def _compare(self) -> None:
        if not self._pending and self._sum != self._contents:
            raise self._error()

    def _error(self) -> TensorsError:
        return TensorsError(f"tensor {_quoted(self._name)}: the lengths of its strings do not add up to its size")


def _unpack_strings(entry: Entry, data: Buffer) -> Array:
    StringLengths(entry).feed(data)
    count = math.prod(entry.shape)
    lengths = np.frombuffer(data, dtype="<u8", count=count)
    contents = memoryview(data)
    strings = np.empty(count, dtype=object)
    start = _LENGTH * count
    for first in range(0, count, _STRINGS):
        ends = np.cumsum(lengths[first : first + _STRINGS], dtype=np.uint64).tolist()
        block, begin = bytes(contents[start : start + ends[-1]]), 0
        for index, end in enumerate(ends, first):
            strings[index] = block[begin:end]
            begin = end
        start += begin
    return strings.reshape(entry.shape)


def decode(data: Buffer) -> dict[str, Array]:
    """Returns all tensors of a file, in their declared order, as views of `data` unless packed.

    Raises:
      TensorsError: see `read_file_header` and `unpack`.
    """
    header = read_file_header(data)
    contents = memoryview(data)[header.data_start :]
    tensors = {entry.name: unpack(entry, contents[entry.begin : entry.end]) for entry in header.entries}
    return {name: tensors[name] for name in header.order}


def encode(tensors: Mapping[str, Any], *, notes: Mapping[str, Any] | None = None) -> bytes:
    """Encodes tensors as a file. Equal names, order and values are equal bytes.

    Args:
      tensors: Numpy arrays, scalars or strings by name, in the order to declare.
      notes: JSON-compatible data, which `read_header` returns.

    Raises:
      TypeError: TensorFlow has no such dtype.
    """
    return b"".join(encode_chunks(tensors, notes=notes))


def encode_chunks(
    tensors: Mapping[str, Any], *, notes: Mapping[str, Any] | None = None
) -> Iterator[Union[bytes, memoryview]]:
    """Yields the pieces of `encode` without a copy: the header, then views of at most 1 MiB."""
    packed: dict[str, dict[str, Any]] = {}
    stored: list[tuple[str, str, Sequence[int], Union[bytes, memoryview]]] = []
    widths: dict[str, int] = {}
    for name, value in tensors.items():
        array = np.asarray(value)
        dtype = DType.of(array)
        widths[name] = 1
        if dtype is DType.STRING:
            packed[name] = {"dtype": dtype.value, "shape": list(array.shape)}
            strings = _pack_strings(array)
            stored.append((name, "U8", [len(strings)], strings))
            continue
        array = np.ascontiguousarray(array, dtype=dtype.numpy).reshape(array.shape)
        widths[name] = array.dtype.itemsize
        if dtype is DType.COMPLEX128:
            packed[name] = {"dtype": dtype.value, "shape": list(array.shape)}
            stored.append((name, "F64", [*array.shape, 2], _bytes_of(array)))
        else:
            stored.append((name, _CODES[dtype], list(array.shape), _bytes_of(array)))
    # Wide elements first, so that each tensor is aligned and a reader can add in place.
    stored.sort(key=lambda item: -widths[item[0]])
    document: dict[str, Any] = {"order": list(tensors)}
    if packed:
        document["packed"] = packed
    if notes:
        document["notes"] = dict(notes)
    header: dict[str, Any] = {"__metadata__": {"muster": json.dumps(document, separators=(",", ":"))}}
    position = 0
    for name, code, shape, raw in stored:
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [position, position + len(raw)]}
        position += len(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(_LENGTH, "little") + text
    for _, _, _, raw in stored:
        for start in range(0, len(raw), _PIECE):
            yield raw[start : start + _PIECE]


def _bytes_of(array: Array) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _pack_strings(array: Array) -> bytes:
    strings = [item.encode() if isinstance(item, str) else bytes(item) for item in array.reshape(-1).tolist()]
    return np.array([len(item) for item in strings], dtype="<u8").tobytes() + b"".join(strings)
