"""Named tensors as safetensors bytes: how updates, broadcasts, partials, checkpoints and results travel and rest.

The files are plain safetensors, which any safetensors library reads. What that format has no dtype for is packed, and the
file's `__metadata__` says so: complex128 as float64 with a last axis of 2; strings as bytes, all lengths (little-endian
uint64) before all contents. `__metadata__` holds one key, `muster`, with a JSON object: `order`, the tensors' declared
order; `packed`, the dtype and shape of each packed one; and `notes`, whatever the writer has to say of the file as a whole.

The header codec is ours, and not the safetensors package's, because an upload is judged by its header before its body has
come, a fold reads tensors in place, and equal tensors must give equal bytes (docs/decisions/0004-tensors.md).
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
_PIECE = 1 << 20  # bytes that `encode_chunks` hands over at a time: a store that copies one copies no whole tensor
_LENGTH = 8  # bytes: the header's length, little-endian
_STRINGS = 1 << 14  # strings that are checked together
_SHOWN = 100  # characters of a name that an error quotes
_MOST_AXES = 32  # of a numpy 1 array
_MOST_ELEMENTS = 1 << 48  # with axes of size 0 left out, as numpy counts them; of 16 bytes each it may address
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


def _shown(name: str) -> str:
    """Returns a name shortened for an error: a file can hold one of megabytes."""
    return repr(name if len(name) <= _SHOWN else name[: _SHOWN - 1] + "…")


class TensorsError(ValueError):
    """Bytes that are not the safetensors file they should be; the text says which tensor and why."""


@dataclass(frozen=True)
class Entry:
    """A tensor in a file: `dtype` and `shape` as the reader sees them, `begin` and `end` in bytes from the data's start."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """The bytes it takes in the file."""
        return self.end - self.begin


@dataclass(frozen=True)
class Header:
    """What a file holds. `entries` are in the order of their data; `order` is the declared order of their names."""

    entries: tuple[Entry, ...]
    order: tuple[str, ...]
    data_start: int  # bytes from the start of the file
    data_size: int  # bytes
    notes: Mapping[str, Any]

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        return self.data_start + self.data_size


def header_size(start: Buffer) -> int:
    """Bytes from a file's start to its data, read from its first 8 bytes.

    Raises:
      TensorsError: `start` is short, or the header is longer than `HEADER_LIMIT`.
    """
    if len(start) < _LENGTH:
        raise TensorsError(f"{len(start)} bytes are no safetensors file: its header's length alone takes {_LENGTH}")
    size = int.from_bytes(bytes(start[:_LENGTH]), "little")
    if size > HEADER_LIMIT:
        raise TensorsError(f"the header says that it is {size} bytes long; at most {HEADER_LIMIT} are allowed")
    return _LENGTH + size


def read_header(start: Buffer) -> Header:
    """Reads and checks a header; `start` must reach to the data's start at least.

    Raises:
      TensorsError: it is cut off, is not JSON of the format's form, names an unknown dtype, or its tensors leave gaps,
        overlap or have a size that their shape contradicts.
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
            raise TensorsError(f"tensor {_shown(entry.name)} starts at byte {entry.begin}; {position} was expected")
        position = entry.end
    names = [entry.name for entry in entries]
    if order is not None and sorted(order) != sorted(names):
        raise TensorsError("the declared order does not list just the tensors of the file")
    return Header(tuple(entries), tuple(names if order is None else order), data_start, position, notes)


def read_file_header(data: Buffer) -> Header:
    """The header of a whole file.

    Raises:
      TensorsError: see `read_header`, or the data is longer or shorter than the header says.
    """
    header = read_header(data)
    if len(data) != header.file_size:
        raise TensorsError(f"the file has {len(data)} bytes; its header says {header.file_size}")
    return header


def _read_metadata(
    metadata: Any,
) -> tuple[dict[str, tuple[DType, tuple[int, ...]]], list[str] | None, dict[str, Any]]:
    raw = metadata.get("muster") if isinstance(metadata, dict) else None
    if raw is None:
        return {}, None, {}
    try:
        ours = json.loads(raw)
        packed = {
            str(name): (DType(item["dtype"]), _shape(name, item["shape"]))
            for name, item in ours.get("packed", {}).items()
        }
        order = [str(name) for name in ours["order"]] if "order" in ours else None
        notes = dict(ours.get("notes", {}))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise TensorsError(f"__metadata__.muster can't be read: {str(error)[:_SHOWN]}") from error
    return packed, order, notes


def _shape(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(size) is int and size >= 0 for size in value):
        raise TensorsError(f"tensor {_shown(name)} has no valid shape")
    # What no array can have is refused here, before anything multiplies it: a header has room for numbers that take minutes.
    elements = 1
    for size in value[: _MOST_AXES + 1]:
        elements *= min(size or 1, _MOST_ELEMENTS + 1)
        if elements > _MOST_ELEMENTS:
            break
    if len(value) > _MOST_AXES or elements > _MOST_ELEMENTS:
        raise TensorsError(f"tensor {_shown(name)} has a shape that is larger than any array's")
    return tuple(value)


def _read_entry(name: str, item: Any, packed: Mapping[str, tuple[DType, tuple[int, ...]]]) -> Entry:
    if not isinstance(item, dict) or item.keys() != {"dtype", "shape", "data_offsets"}:
        raise TensorsError(f"tensor {_shown(name)} needs just dtype, shape and data_offsets")
    if any("\ud800" <= character <= "\udfff" for character in name):
        raise TensorsError(f"tensor {_shown(name)} has half a character in its name")
    code, shape, offsets = item["dtype"], _shape(name, item["shape"]), item["data_offsets"]
    dtype = _DTYPES.get(code) if isinstance(code, str) else None
    if dtype is None:
        raise TensorsError(f"tensor {_shown(name)} has the unknown dtype {code!r:.40}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(at) is int and at >= 0 for at in offsets):  # noqa: PLR2004
        raise TensorsError(f"tensor {_shown(name)} has no valid data_offsets")
    begin, end = offsets
    if end - begin != math.prod(shape) * dtype.numpy.itemsize:
        raise TensorsError(f"tensor {_shown(name)} takes {end - begin} bytes, which does not match its shape and dtype")
    if name in packed:
        stored = (dtype, shape)
        dtype, shape = packed[name]
        fits = {
            DType.COMPLEX128: stored == (DType.FLOAT64, (*shape, 2)),
            DType.STRING: stored[0] is DType.UINT8 and end - begin >= _LENGTH * math.prod(shape),
        }.get(dtype, False)
        if not fits:
            raise TensorsError(f"tensor {_shown(name)} is not packed as {dtype.value} of its shape should be")
    return Entry(name, dtype, shape, begin, end)


def unpack(entry: Entry, data: Buffer) -> Array:
    """The tensor of `entry` from its bytes: a view where the dtype allows it (read-only if `data` is), a copy if packed.

    Raises:
      TensorsError: strings whose lengths do not add up.
    """
    if entry.dtype is DType.STRING:
        return _unpack_strings(entry, data)
    return np.frombuffer(data, dtype=entry.dtype.numpy).reshape(entry.shape)


class StringLengths:
    """Checker of a packed string tensor as its bytes arrive, without a Python object for each string.

    All lengths precede all contents: once the lengths add up to the size of the contents, any contents are valid.
    """

    def __init__(self, entry: Entry) -> None:
        self._name = entry.name
        self._left = _LENGTH * math.prod(entry.shape)  # bytes of lengths that have not arrived
        self._contents = entry.nbytes - self._left
        self._sum = 0
        self._compare()

    def feed(self, piece: Buffer) -> None:
        """Checks the next piece; all pieces but the last hold a multiple of 8 bytes.

        Raises:
          TensorsError: the lengths do not add up to the contents.
        """
        if not self._left:
            return
        lengths = np.frombuffer(memoryview(piece)[: self._left], dtype="<u8")
        self._left -= lengths.nbytes
        for start in range(0, len(lengths), _STRINGS):
            block = lengths[start : start + _STRINGS]
            # Lengths chosen to overflow could wrap around to the right sum, so a length above the contents' size is
            # refused.
            if int(block.max()) > self._contents:
                raise self._error()
            self._sum += int(block.sum())
        self._compare()

    def _compare(self) -> None:
        if not self._left and self._sum != self._contents:
            raise self._error()

    def _error(self) -> TensorsError:
        return TensorsError(f"tensor {_shown(self._name)}: the lengths of its strings do not add up to its size")


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
    """All tensors of a file, in their declared order, as views of `data` where the dtype allows it.

    Raises:
      TensorsError: see `read_header` and `unpack`, or the data is longer or shorter than the header says.
    """
    header = read_file_header(data)
    view = memoryview(data)
    found = {e.name: unpack(e, view[header.data_start + e.begin : header.data_start + e.end]) for e in header.entries}
    return {name: found[name] for name in header.order}


def encode(tensors: Mapping[str, Any], *, notes: Mapping[str, Any] | None = None) -> bytes:
    """The file of `tensors` (numpy arrays, scalars, strings); equal names, order and values give equal bytes.

    Args:
      tensors: By name, in the order that is declared.
      notes: JSON-compatible data that `read_header` gives back.

    Raises:
      TypeError: a dtype that TensorFlow has not.
    """
    return b"".join(encode_chunks(tensors, notes=notes))


def encode_chunks(
    tensors: Mapping[str, Any], *, notes: Mapping[str, Any] | None = None
) -> Iterator[Union[bytes, memoryview]]:
    """Like `encode`, in pieces that need no copy of the tensors: the header, then views of their memory of at most 1 MiB each."""
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
    # Wide elements first keeps every tensor aligned to its own element, so that a reader may map the file and add in place.
    stored.sort(key=lambda item: -widths[item[0]])
    ours: dict[str, Any] = {"order": list(tensors)}
    if packed:
        ours["packed"] = packed
    if notes:
        ours["notes"] = dict(notes)
    header: dict[str, Any] = {"__metadata__": {"muster": json.dumps(ours, separators=(",", ":"))}}
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
