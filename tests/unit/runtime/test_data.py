"""Checks how a client's data is flattened and its tensors are named."""

import numpy as np
import pytest

from muster.runtime.data import DataMeter, adapt
from muster.runtime.paths import element_leaves, field_names, leaves
from muster.wire.dtypes import DType
from muster.wire.manifest import SequenceType, StructField, StructType, TensorType
from muster.wire.problems import ProblemError

FLOAT = TensorType(dtype=DType.FLOAT32, shape=())
TEXT = TensorType(dtype=DType.STRING, shape=(None,))
BYTE = TensorType(dtype=DType.UINT8, shape=None)


def struct(container="mapping", **fields):
    return StructType(
        container=container, fields=tuple(StructField(name=name, type=type_) for name, type_ in fields.items())
    )


def unnamed(*types):
    return StructType(fields=tuple(StructField(type=type_) for type_ in types))


NESTED = struct(z=FLOAT, empty=struct(), a=unnamed(TEXT, unnamed(), unnamed(FLOAT)))


def test_paths_follow_the_declared_order():
    assert [path for path, _ in leaves(NESTED, root="state")] == ["z", "a/0", "a/2/0"]
    assert [path for path, _ in leaves(FLOAT, root="state")] == ["state"]
    assert [path for path, _ in leaves(FLOAT, root="", prefix="secure_sum")] == ["secure_sum"]


def test_escaped_names_do_not_collide():
    names = ["a/b", "a%2Fb", "1", None]
    both = StructType(fields=tuple(StructField(name=name, type=FLOAT) for name in names))
    assert field_names(both) == ["a%2Fb", "a%252Fb", "%31", "3"]
    assert field_names(struct(**{"1": FLOAT})) == ["1"]


def test_elements_are_flattened_as_tensorflow_does():
    assert [leaf.dtype for leaf in element_leaves(struct(z=FLOAT, a=TEXT))] == [DType.STRING, DType.FLOAT32]
    assert [leaf.dtype for leaf in element_leaves(struct("sequence", z=FLOAT, a=TEXT))] == [DType.FLOAT32, DType.STRING]


@pytest.mark.parametrize(
    "value",
    [{"a": (["x"], (), (2,)), "z": 1, "empty": {}}, {"a": [[b"x"], None, [2.0]], "z": 1, "empty": ()}],
)
def test_nested_value_is_flattened_by_name(value):
    adapted = adapt(value, NESTED, root="state").tensors
    assert {path: array.tolist() for path, array in adapted.items()} == {"z": 1.0, "a/0": [b"x"], "a/2/0": 2.0}
    assert [array.dtype for array in adapted.values()] == [np.float32, object, np.float32]


@pytest.mark.parametrize(
    ("value", "expected"),
    [([1, 255], [1, 255]), ([], []), (np.array([3], np.uint8), [3])],
)
def test_plain_values_become_the_declared_dtype(value, expected):
    array = adapt(value, BYTE).tensors["data"]
    assert (array.dtype, array.tolist()) == (np.dtype(np.uint8), expected)


@pytest.mark.parametrize("value", [[256], [-1], [0.5], ["x"], np.array([1]), [[1], [2, 3]], None, {}])
def test_lossy_conversion_is_refused(value):
    with pytest.raises(ProblemError, match=r"data: expected uint8\[\.\.\.\], got"):
        adapt(value, BYTE)


def test_strings_are_encoded_as_utf8_bytes():
    assert adapt(["é", b"a\x00", ""], TEXT).tensors["data"].tolist() == ["é".encode(), b"a\x00", b""]
    assert adapt(np.array(["a", "bc"]), TEXT).tensors["data"].tolist() == [b"a", b"bc"]
    with pytest.raises(ProblemError, match="expected string"):
        adapt([b"a", 3], TEXT)


def test_sequence_can_be_read_repeatedly():
    adapted = adapt((value for value in (1.0, 2.0)), SequenceType(element=FLOAT)).sequences["data"]
    for _ in range(2):
        assert [element[0].item() for element in adapted()] == [1.0, 2.0]
    rows = adapt(np.ones((3, 2), np.float32), SequenceType(element=TensorType(dtype=DType.FLOAT32, shape=(2,))))
    assert [element[0].shape for element in rows.sequences["data"]()] == [(2,)] * 3


def test_bad_element_is_named_by_its_position():
    adapted = adapt([{"x": 1.0}, {"x": [1.0]}], SequenceType(element=struct(x=FLOAT))).sequences["data"]
    with pytest.raises(ProblemError, match=r"data\[1\]/x: expected float32, got float32\[1\]"):
        list(adapted())


def test_meter_counts_repeated_passes_once():
    meter = DataMeter()
    floats = TensorType(dtype=DType.FLOAT32, shape=(None,))
    declared = struct(rows=SequenceType(element=floats), names=TEXT)
    data = adapt(
        {"rows": [np.zeros(3, np.float32), np.zeros(1, np.float32)], "names": ["ab", "cde"]}, declared, meter=meter
    )
    assert meter.total == 5
    rows = data.sequences["rows"]
    next(iter(rows()))
    assert meter.total == 5 + 12
    for _ in range(3):
        list(rows())
    assert meter.total == 5 + 16
