"""Validates updates as a stream of bytes: names, dtypes, shapes, size, ranges and finite values."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from muster.wire.dtypes import DType
from muster.wire.encodings import EncodingError, TruncatedError, decoding_reader
from muster.wire.manifest import ClearSum, FoldKind, PlanManifest, TensorSpec
from muster.wire.problems import MAX_FIELDS, FieldError, ProblemError, ProblemType, shorten
from muster.wire.tensors import (
    HEADER_LIMIT,
    Array,
    Entry,
    Header,
    StringLengths,
    TensorsError,
    header_size,
    read_file_header,
    read_header,
    unpack,
)

# Bytes of an upload that are read at a time. At each read a server copies the rest of its buffer.
CHUNK_SIZE = 1 << 17
# Bytes of a stored update that are checked at a time, so that temporary arrays fit into the cache.
_CHECKED_SIZE = 1 << 18
OPEN_TENSOR_SIZE = 64 << 20  # bytes allowed for a tensor whose shape the plan leaves open
_MIN_HEADER_BOUND = 1 << 16  # bytes of a header that are parsed for any plan, in about a millisecond
_HEADER = 1024  # bytes allowed for a header
_HEADER_TENSOR = 256  # bytes allowed in a header for each tensor, besides its name


@dataclass(frozen=True, slots=True)
class UpdateRules:
    """Requirements of a plan and a task's policy on an update.

    Attributes:
      specs: The tensors by name.
      ranges: The clear sums' bounds by tensor, inclusive.
      max_bytes: Bytes of the whole file.
      allow_non_finite: Whether values may be NaN or infinite.
      header_bytes: Bytes of the file up to its data.
      subject: Noun for the file in refusals.
      refusal: Type of the problem of a file that does not match.
    """

    specs: dict[str, TensorSpec]
    ranges: dict[str, tuple[int, int]]
    max_bytes: int
    allow_non_finite: bool
    header_bytes: int = HEADER_LIMIT
    subject: str = "update"
    refusal: ProblemType = ProblemType.UPDATE_INVALID


def rules_for(manifest: PlanManifest, *, allow_non_finite: bool) -> UpdateRules:
    """Returns the requirements of a plan on its updates.

    Args:
      manifest: The plan's manifest.
      allow_non_finite: Whether the task accepts NaN and infinity.
    """
    ranges = {item.path: _range(item) for item in manifest.clear_sums}
    return _rules(manifest.update, ranges=ranges, allow_non_finite=allow_non_finite)


def rules_for_state(manifest: PlanManifest) -> UpdateRules:
    """Returns the requirements of a plan on its server state, whose values may be any."""
    kind = ProblemType.INVALID_REQUEST
    return _rules(manifest.state, ranges={}, allow_non_finite=True, subject="state", refusal=kind)


def _rules(specs: Sequence[TensorSpec], **rules: Any) -> UpdateRules:
    # A name occurs up to three times in a header, twice as nested JSON text, which takes up to
    # seven bytes per letter.
    header = _HEADER + sum(_HEADER_TENSOR + 4 * (len(json.dumps(spec.path)) - 2) for spec in specs)
    size = sum(map(_max_bytes, specs)) + header
    by_path = {spec.path: spec for spec in specs}
    return UpdateRules(by_path, max_bytes=size, header_bytes=max(header, _MIN_HEADER_BOUND), **rules)


def _range(item: ClearSum) -> tuple[int, int]:
    top = item.maximum if item.maximum is not None else (item.modulus or 1) - 1
    return item.minimum, top


def _max_bytes(spec: TensorSpec) -> int:
    if spec.dtype is DType.STRING or spec.shape is None or None in spec.shape:
        return OPEN_TENSOR_SIZE
    return math.prod(size for size in spec.shape if size is not None) * spec.dtype.numpy.itemsize


def _check_header_size(size: int, rules: UpdateRules) -> None:
    """Raises `ProblemError` (`rules.refusal`) for a header larger than the plan needs."""
    if size > rules.header_bytes:
        detail = f"The {rules.subject}'s header has {size} bytes; one of this plan has at most {rules.header_bytes}"
        raise ProblemError(rules.refusal, detail)


def check_header(header: Header, rules: UpdateRules) -> None:
    """Checks names, dtypes and shapes.

    Raises:
      ProblemError: `rules.refusal`, with a field error for each tensor that is wrong, missing or
        unknown, up to `MAX_FIELDS`.
    """
    entries = {entry.name: entry for entry in header.entries}
    wrong = [name for name in entries if name not in rules.specs]
    wrong += [name for name, spec in rules.specs.items() if not _matches(entries.get(name), spec)]
    if wrong:
        fields = tuple(
            FieldError(path=shorten(name), reason=shorten(_mismatch(entries.get(name), rules, name)))
            for name in wrong[:MAX_FIELDS]
        )
        first = f"{fields[0].path} {fields[0].reason}"
        detail = f"The {rules.subject} does not match the plan in {len(wrong)} of its tensors: {first}"
        raise ProblemError(rules.refusal, detail, fields=fields)


def _matches(entry: Entry | None, spec: TensorSpec) -> bool:
    return entry is not None and entry.dtype is spec.dtype and _fits(entry.shape, spec.shape)


def _mismatch(entry: Entry | None, rules: UpdateRules, name: str) -> str:
    """Returns the reason for which a tensor does not match the plan."""
    spec = rules.specs.get(name)
    if spec is None:
        return f"the plan's {rules.subject}s have no such tensor"
    if entry is None:
        return "is missing"
    if entry.dtype is not spec.dtype:
        return f"has dtype {entry.dtype.value}; the plan says {spec.dtype.value}"
    return f"has shape {list(entry.shape)}; the plan says {_text(spec.shape)}"


def _fits(shape: tuple[int, ...], spec: tuple[int | None, ...] | None) -> bool:
    if spec is None:
        return True
    return len(shape) == len(spec) and all(
        size is None or size == actual for actual, size in zip(shape, spec, strict=True)
    )


def _text(shape: tuple[int | None, ...] | None) -> str:
    return "any" if shape is None else "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


class UpdateReader:
    """Reader and validator of stored updates of one plan.

    Clients that run the same plan with the same library write the same header, byte for byte. So a
    header that equals the last valid one is not parsed and checked again.
    """

    def __init__(self, rules: UpdateRules) -> None:
        self._rules = rules
        self._start = b""  # the bytes before the tensors' data, of the last update with a valid header
        self._size = 0  # bytes of that update
        self._layout: list[_PlacedTensor] = []

    def read(self, data: memoryview) -> dict[str, Array]:
        """Returns an update's tensors, as views of `data` where the dtype allows it.

        Raises:
          ProblemError: as for `validated`.
        """
        try:
            if not self._start or len(data) != self._size or data[: len(self._start)] != self._start:
                self._learn(data)
            return {placed.entry.name: self._tensor(placed, data) for placed in self._layout}
        except TensorsError as error:
            raise ProblemError(ProblemType.UPDATE_INVALID, f"The update can't be read: {error}") from error

    def _learn(self, data: memoryview) -> None:
        rules = self._rules
        _check_header_size(header_size(data[:8]), rules)
        header = read_file_header(data)
        check_header(header, rules)
        entries = {entry.name: entry for entry in header.entries}
        self._layout = [_PlacedTensor.of(entries[name], header.data_start, rules) for name in rules.specs]
        self._start, self._size = bytes(data[: header.data_start]), header.file_size

    def _tensor(self, placed: _PlacedTensor, data: memoryview) -> Array:
        entry = placed.entry
        if placed.checked:
            raw = data[placed.begin : placed.end]
            for start in range(0, len(raw), _CHECKED_SIZE):
                _check_values(entry, raw[start : start + _CHECKED_SIZE], self._rules)
        if entry.dtype is DType.STRING:
            return unpack(entry, data[placed.begin : placed.end])
        return np.ndarray(entry.shape, placed.dtype, data, placed.begin)


@dataclass(frozen=True, slots=True)
class _PlacedTensor:
    """Position of a tensor in a file: `begin` and `end` are offsets in bytes from the file's start.

    `checked` is true if its values must be checked.
    """

    entry: Entry
    dtype: np.dtype[Any]
    begin: int
    end: int
    checked: bool

    @classmethod
    def of(cls, entry: Entry, start: int, rules: UpdateRules) -> _PlacedTensor:
        finite = entry.dtype.is_floating and not rules.allow_non_finite
        checked = finite or entry.dtype is DType.BOOL or entry.name in rules.ranges
        return cls(entry, entry.dtype.numpy, start + entry.begin, start + entry.end, checked)


def finite_sum_implies_finite_updates(manifest: PlanManifest) -> bool:
    """Returns True if checking the final sum for NaN/inf is enough to validate every update.

    That holds if every floating-point tensor of an update enters a proven sum: NaN plus any value
    is NaN, and an infinity plus any value is an infinity or NaN. It does not hold for a maximum,
    which hides minus infinity, nor for a graph.
    """
    summed = {rule.update for rule in manifest.folds if rule.kind is FoldKind.SUM}
    return all(spec.path in summed for spec in manifest.update if spec.dtype.is_floating)


def all_finite(tensors: Mapping[str, Array]) -> bool:
    """Returns whether contiguous tensors hold neither NaN nor infinity, complex ones included."""
    for array in tensors.values():
        if array.dtype != np.dtype(object) and (dtype := DType.of(array)).is_floating:
            raw = array.reshape(-1).view(np.uint8).data
            starts = range(0, len(raw), _CHECKED_SIZE)
            if not all(_all_finite(dtype, raw[start : start + _CHECKED_SIZE]) for start in starts):
                return False
    return True


def validated(read: Callable[[int], bytes], rules: UpdateRules, *, length: int | None) -> Iterator[bytes]:
    """Yields an upload in chunks, each validated first, in memory of one chunk, for strings too.

    Strings are validated by their lengths, which arrive before the contents. No chunk of an update
    may be used before all of them have passed.

    Args:
      read: Reads up to the given number of bytes of the body; b"" at its end.
      rules: The update's requirements.
      length: The body's declared length in bytes; None if undeclared.

    Raises:
      ProblemError: `too_large`, `rules.refusal`, `update_not_finite` or `update_truncated`.
    """
    if length is not None and length > rules.max_bytes:
        raise ProblemError(
            ProblemType.TOO_LARGE,
            f"The {rules.subject} has {length} bytes; one of this plan has at most {rules.max_bytes}",
        )
    reader = _Reader(read, rules.subject)
    try:
        start = reader.exactly(8)
        _check_header_size(header_size(start), rules)
        start += reader.exactly(header_size(start) - len(start))
        header = read_header(start)
    except TensorsError as error:
        raise ProblemError(rules.refusal, f"The {rules.subject} can't be read: {error}") from error
    check_header(header, rules)
    if header.file_size > rules.max_bytes:
        most = f"one of this plan has at most {rules.max_bytes}"
        detail = f"The {rules.subject}'s header announces {header.file_size} bytes; {most}"
        raise ProblemError(ProblemType.TOO_LARGE, detail)
    if length is not None and length != header.file_size:
        kind = ProblemType.UPDATE_TRUNCATED if length < header.file_size else rules.refusal
        raise ProblemError(kind, f"The body has {length} bytes; the {rules.subject}'s header says {header.file_size}")
    yield start
    for entry in header.entries:
        yield from _validated_tensor(reader, entry, rules)
    if read(1):
        raise ProblemError(
            rules.refusal, f"The body continues after the {header.file_size} bytes of the {rules.subject}"
        )


def _validated_tensor(reader: _Reader, entry: Entry, rules: UpdateRules) -> Iterator[bytes]:
    left = entry.nbytes
    try:
        lengths = StringLengths(entry) if entry.dtype is DType.STRING else None
        while left:
            piece = reader.exactly(min(left, CHUNK_SIZE))
            if lengths is not None:
                lengths.feed(piece)
            _check_values(entry, memoryview(piece), rules)
            left -= len(piece)
            yield piece
    except TensorsError as error:
        raise ProblemError(rules.refusal, f"The {rules.subject} can't be read: {error}") from error


def decoded_update(
    read: Callable[[int], bytes], rules: UpdateRules, *, encoding: str, length: int | None
) -> Callable[[int], bytes]:
    """Decodes the update in an encoded body as a stream, up to the bound of its size.

    Args:
      read: Reads up to the given number of bytes of the encoded body; b"" at its end.
      rules: The update's requirements. They bound the encoded body too, so that a long body with
        little content is refused.
      encoding: One of `muster.wire.encodings.available`.
      length: The encoded body's declared length in bytes; None if undeclared.

    Raises:
      ProblemError: `too_large`, here or while reading; while reading, `update_invalid` if it is not
        `encoding` or has trailing bytes, and `update_truncated` if it ends early.
    """
    most = rules.max_bytes
    if length is not None and length > most:
        raise ProblemError(
            ProblemType.TOO_LARGE,
            f"The encoded update has {length} bytes; one of this plan has at most {most} unencoded",
        )
    left = most

    def bounded(size: int) -> bytes:
        nonlocal left
        piece = read(min(size, left + 1))
        left -= len(piece)
        if left < 0:
            raise ProblemError(
                ProblemType.TOO_LARGE,
                f"The encoded update continues after {most} bytes, the most that one of this plan has",
            )
        return piece

    inner = decoding_reader(bounded, encoding)

    def checked(size: int) -> bytes:
        try:
            return inner(size)
        except TruncatedError as error:
            detail = f"The encoded update ended too early; send it again: {error}"
            raise ProblemError(ProblemType.UPDATE_TRUNCATED, detail) from error
        except EncodingError as error:
            raise ProblemError(ProblemType.UPDATE_INVALID, f"The update can't be read: {error}") from error

    return checked


class _Reader:
    """Reader of exact numbers of bytes from a body that arrives in pieces of any size."""

    def __init__(self, read: Callable[[int], bytes], subject: str) -> None:
        self._read = read
        self._subject = subject

    def exactly(self, size: int) -> bytes:
        piece = self._read(size)
        if len(piece) == size:
            return piece
        pieces = [piece]
        received = len(piece)
        while received < size:
            piece = self._read(size - received)
            if not piece:
                detail = f"The body ended before the {self._subject} did; send it again"
                raise ProblemError(ProblemType.UPDATE_TRUNCATED, detail)
            pieces.append(piece)
            received += len(piece)
        return b"".join(pieces)


def _check_values(entry: Entry, raw: memoryview, rules: UpdateRules) -> None:
    if entry.dtype is DType.STRING:
        return
    if entry.dtype is DType.BOOL:
        if len(raw) and np.frombuffer(raw, np.uint8).max() > 1:
            raise ProblemError(rules.refusal, f"Tensor {entry.name} holds bytes that are neither true nor false")
        return
    if entry.name in rules.ranges and len(raw):
        low, high = rules.ranges[entry.name]
        values = np.frombuffer(raw, entry.dtype.numpy)
        if int(values.min()) < low or int(values.max()) > high:
            detail = f"Tensor {entry.name} leaves the range of its sum, {low} to {high} inclusive"
            raise ProblemError(ProblemType.UPDATE_INVALID, detail)
    if entry.dtype.is_floating and not rules.allow_non_finite and not _all_finite(entry.dtype, raw):
        detail = f"Tensor {entry.name} holds NaN or infinity, which this task does not allow"
        raise ProblemError(
            ProblemType.UPDATE_NOT_FINITE, detail, fields=(FieldError(path=entry.name, reason="is not finite"),)
        )


def _all_finite(dtype: DType, raw: memoryview) -> bool:
    if dtype is DType.BFLOAT16:
        exponent = np.uint16(0x7F80)  # all ones: NaN or infinity
        return not bool(((np.frombuffer(raw, np.uint16) & exponent) == exponent).any())
    if dtype in (DType.COMPLEX64, DType.COMPLEX128):
        return bool(np.isfinite(np.frombuffer(raw, np.float32 if dtype is DType.COMPLEX64 else np.float64)).all())
    return bool(np.isfinite(np.frombuffer(raw, dtype.numpy)).all())
