"""Tensor files: all dtypes, other implementations of the format, and invalid bytes."""

from __future__ import annotations

import json

import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis.extra import numpy as hnp
from support.plans import every_dtype_update

from muster.wire.dtypes import DType
from muster.wire.tensors import (
    HEADER_LIMIT,
    Entry,
    StringLengths,
    TensorsError,
    decode,
    encode,
    encode_chunks,
    header_size,
    read_header,
    unpack,
)

SHAPES = [(), (1,), (0,), (3,), (2, 3), (2, 0, 3), (1, 1, 1, 1)]
GOOD = encode(every_dtype_update(), notes={"folded": 3})


def values(dtype, shape):
    if dtype is DType.STRING:
        array = np.empty(shape, object)
        for at in np.ndindex(shape):
            array[at] = bytes(at) * (sum(at) % 3)
        return array
    bits = np.random.default_rng(7).integers(0, 256, (*shape, dtype.numpy.itemsize), np.uint8)
    return bits.view(dtype.numpy).reshape(shape) if dtype is not DType.BOOL else (bits[..., 0] > 127)


def same(left, right):
    if left.dtype == object:
        return left.shape == right.shape and left.tolist() == right.tolist()
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DType)
def test_tensor_round_trip_is_bit_identical(dtype, shape):
    array = values(dtype, shape)
    data = encode({"before": np.int8(1), "x": array})
    assert list(decode(data)) == ["before", "x"]
    for buffer in (data, bytearray(data), memoryview(data)):
        assert same(decode(buffer)["x"], array)
    (entry,) = [entry for entry in read_header(data).entries if entry.name == "x"]
    assert (entry.dtype, entry.shape) == (dtype, shape)
    assert b"".join(encode_chunks({"before": np.int8(1), "x": array})) == data


def test_non_contiguous_arrays_are_encoded_by_value():
    base = np.arange(24, dtype=np.int32).reshape(4, 6)
    odd = {"transposed": base.T, "strided": base[::2, ::3], "big": base.astype(">i4"), "text": np.array(["é", ""])}
    decoded = decode(encode({**odd, "python": 3, "list": [1.5, 2.5]}))
    assert decoded["transposed"].tolist() == base.T.tolist()
    assert decoded["strided"].tolist() == base[::2, ::3].tolist()
    assert (decoded["big"].tolist(), decoded["big"].dtype.byteorder) == (base.tolist(), "=")
    assert decoded["text"].tolist() == ["é".encode(), b""]
    assert (decoded["python"].shape, decoded["list"].tolist()) == ((), [1.5, 2.5])
    for bad in (np.array("2020-01-01", "M8[D]"), np.zeros(1, [("a", "i4")])):
        with pytest.raises(TypeError, match="no counterpart in TensorFlow"):
            encode({"x": bad})


def test_equal_tensors_in_equal_order_are_equal_bytes():
    one = every_dtype_update()
    assert encode(one, notes={"folded": 3}) == GOOD
    assert encode(dict(reversed(one.items()))) != encode(one)
    assert list(decode(encode(dict(reversed(one.items()))))) == list(reversed(one))
    assert read_header(GOOD).notes == {"folded": 3}


def test_tensors_are_aligned_to_their_elements():
    header = read_header(GOOD)
    for entry in header.entries:
        width = 1 if entry.dtype in (DType.STRING, DType.BOOL) else min(entry.dtype.numpy.itemsize, 8)
        assert (header.data_start + entry.begin) % width == 0, entry


def test_safetensors_package_reads_and_writes_the_same_files():
    unknown = {DType.BFLOAT16, DType.STRING, DType.COMPLEX128, DType.COMPLEX64}  # of its numpy loader
    arrays = {dtype.value: values(dtype, (2, 3)) for dtype in DType if dtype not in unknown}
    arrays |= {"empty": np.zeros((0, 2), np.float32), "scalar": np.array(1.5)}
    theirs = safetensors.numpy.load(encode(arrays))
    assert theirs.keys() == arrays.keys()
    assert all(same(theirs[name], array) for name, array in arrays.items())
    ours = decode(safetensors.numpy.save(arrays, metadata={"made": "there"}))
    assert all(same(ours[name], array) for name, array in arrays.items())


def test_header_size_is_read_from_the_first_bytes():
    assert header_size(GOOD[:8]) == read_header(GOOD).data_start
    with pytest.raises(TensorsError, match="not a safetensors file"):
        header_size(GOOD[:7])
    assert header_size(HEADER_LIMIT.to_bytes(8, "little")) == 8 + HEADER_LIMIT
    with pytest.raises(TensorsError, match="at most"):
        header_size((HEADER_LIMIT + 1).to_bytes(8, "little"))
    with pytest.raises(TensorsError, match="cut off"):
        read_header(GOOD[:50])


@pytest.mark.parametrize("cut", [1, 8, 100])
def test_data_of_another_length_is_refused(cut):
    with pytest.raises(TensorsError, match="its header declares"):
        decode(GOOD[:-cut])
    with pytest.raises(TensorsError, match="its header declares"):
        decode(GOOD + b"\0" * cut)


def with_header(document):
    text = json.dumps(document).encode()
    return len(text).to_bytes(8, "little") + text + b"\0" * 16


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "document",
    [
        {"a": {**ENTRY, "dtype": "F33"}},
        {"a": {**ENTRY, "dtype": []}},
        {"a": {**ENTRY, "dtype": {}}},
        {"a": {**ENTRY, "dtype": None}},
        {"a": {**ENTRY, "shape": 2}},
        {"a": {**ENTRY, "shape": [2.0]}},
        {"a": {**ENTRY, "shape": [True, 2]}},
        {"a": {**ENTRY, "shape": [-2, -1]}},
        {"a": {**ENTRY, "data_offsets": [0, 8, 8]}},
        {"a": {**ENTRY, "data_offsets": ["0", "8"]}},
        {"a": {**ENTRY, "data_offsets": [8, 0]}},
        {"a": {**ENTRY, "data_offsets": [4, 12]}},
        {"a": {**ENTRY, "more": 1}},
        {"a": []},
        {"a": None},
        {"a\ud800": ENTRY},
        {"a": ENTRY, "b": ENTRY},
        {"__metadata__": {"muster": "{"}, "a": ENTRY},
        {"__metadata__": {"muster": "[]"}, "a": ENTRY},
        {"__metadata__": {"muster": 1}, "a": ENTRY},
        {"__metadata__": {"muster": '{"order": ["b"]}'}, "a": ENTRY},
        {"__metadata__": {"muster": '{"order": ["a", "a"]}'}, "a": ENTRY},
        {"__metadata__": {"muster": '{"order": 3}'}, "a": ENTRY},
        {"__metadata__": {"muster": '{"notes": [3]}'}, "a": ENTRY},
        {"__metadata__": {"muster": '{"packed": {"a": {"dtype": "string", "shape": [1]}}}'}, "a": ENTRY},
        {"__metadata__": {"muster": '{"packed": {"a": {"dtype": "complex128", "shape": [1]}}}'}, "a": ENTRY},
        {"__metadata__": {"muster": '{"packed": {"a": {"dtype": "float32", "shape": [2]}}}'}, "a": ENTRY},
        {"__metadata__": {"muster": '{"packed": {"a": {"dtype": [], "shape": [2]}}}'}, "a": ENTRY},
        {"__metadata__": {"muster": '{"packed": {"a": 3}}'}, "a": ENTRY},
        {"__metadata__": {"muster": '{"packed": 3}'}, "a": ENTRY},
    ],
)
def test_inconsistent_header_is_refused(document):
    with pytest.raises(TensorsError):
        read_header(with_header(document))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(["F32", "U8", "BOOL"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
ENTRIES = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["F32", "U8", "F64"]) | JSON, "shape": st.lists(st.integers(-1, 4), max_size=3) | JSON}
).flatmap(
    lambda item: st.lists(st.integers(-1, 64), min_size=2, max_size=2).map(lambda at: {**item, "data_offsets": at})
)
METADATA = (
    st.fixed_dictionaries(
        {},
        optional={
            "order": st.lists(st.text(max_size=1)) | JSON,
            "packed": st.dictionaries(st.text(max_size=1), JSON) | JSON,
            "notes": JSON,
        },
    ).map(lambda document: {"muster": json.dumps(document)})
    | JSON
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(max_size=1), ENTRIES | JSON, max_size=3), st.none() | METADATA)
def test_random_header_is_read_or_refused(entries, metadata):
    document = entries if metadata is None else {**entries, "__metadata__": metadata}
    try:
        decode(with_header(document))
    except TensorsError:
        return


@settings(max_examples=250, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, len(GOOD)),
)
@example([(0, 0)], 0)
def test_changed_bytes_are_read_or_refused(changes, end):
    data = bytearray(GOOD)
    for at, byte in changes:
        data[at] = byte
    for piece in (bytes(data), bytes(data[:end])):
        try:
            decode(piece)
        except TensorsError:
            continue


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=8), hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, min_side=0)), max_size=4
    )
)
def test_random_tensors_round_trip(arrays):
    try:
        data = encode(arrays)
    except TypeError:
        return
    decoded = decode(data)
    assert list(decoded) == list(arrays)
    assert all(decoded[name].shape == array.shape for name, array in arrays.items())


@given(
    lengths=st.lists(st.one_of(st.integers(0, 40), st.integers(0, 2**64 - 1)), max_size=60),
    size=st.integers(0, 400),
    honest=st.booleans(),
    piece=st.integers(1, 20).map(lambda count: 8 * count),
)
def test_string_lengths_are_checked_equally_in_pieces(lengths, size, honest, piece):
    contents = bytes(sum(lengths)) if honest and sum(lengths) < 5000 else bytes(size)
    data = np.array(lengths, "<u8").tobytes() + contents
    entry = Entry("s", DType.STRING, (len(lengths),), 0, len(data))
    fits = sum(lengths) == len(contents)
    for step in (piece, max(1, len(data))):
        try:
            checker = StringLengths(entry)
            for start in range(0, len(data), step):
                checker.feed(data[start : start + step])
            taken = True
        except TensorsError:
            taken = False
        assert taken is fits
    if fits:
        assert [len(item) for item in unpack(entry, data)] == lengths
    else:
        with pytest.raises(TensorsError):
            unpack(entry, data)


def test_many_strings_round_trip():
    strings = np.array([b"x" * (number % 7) + bytes([number % 256]) for number in range(50_000)], object).reshape(
        100, 500
    )
    decoded = decode(encode({"s": strings}))["s"]
    assert decoded.shape == strings.shape
    assert (decoded == strings).all()
