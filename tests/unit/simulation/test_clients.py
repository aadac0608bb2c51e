"""The forms of clients' data."""

from __future__ import annotations

import numpy as np
import pytest

from muster.runtime.client_data import ClientsData, ClientsDataWarning
from muster.wire.dtypes import DType
from muster.wire.manifest import SequenceType, StructField, StructType, TensorType


class FakeClientData:
    """Part of a TFF `ClientData` that the simulation reads."""

    def __init__(self):
        self.client_ids = ["ann", "bob"]
        self.made = []

    def create_tf_dataset_for_client(self, client_id):
        self.made.append(client_id)
        return [client_id]


def values(data, number=1):
    return {name: source() for name, source in ClientsData(data).of_round(number).items()}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ([[1], [2]], {"0": [1], "1": [2]}),
        ({"b": [1], "a": [2]}, {"b": [1], "a": [2]}),
        (np.array([7, 8]), {"0": 7, "1": 8}),
        (iter([[1], [2]]), {"0": [1], "1": [2]}),
        (FakeClientData(), {"ann": ["ann"], "bob": ["bob"]}),
        (lambda: [[1]], {"0": [1]}),
        (lambda number: {"a": number}, {"a": 3}),
        (lambda number=9: {"a": number}, {"a": 9}),
    ],
    ids=["list", "mapping", "array", "iterator", "client data", "function", "of the round", "default argument"],
)
def test_accepted_forms(data, expected):
    sources = values(data, 3)
    assert sources == expected
    assert list(sources) == list(expected)


def test_data_is_read_when_the_client_works():
    data = FakeClientData()
    sources = ClientsData(data).of_round(1)
    assert data.made == []
    sources["bob"]()
    assert data.made == ["bob"]


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        ([], ValueError, "no clients"),
        ({1: [0], "1": [0]}, ValueError, "same name"),
        (5, TypeError, r"goes into a list: \[dataset\]"),
        ("text", TypeError, "is a str"),
    ],
)
def test_data_without_clients_is_refused(data, error, text):
    with pytest.raises(error, match=text):
        ClientsData(data).of_round(1)


def test_data_set_is_one_clients_data():
    class Dataset(list):
        element_spec = None

    with pytest.raises(TypeError, match="a single client"):
        ClientsData(Dataset([1, 2])).of_round(1)


def test_argument_with_a_default_is_left_out_with_a_warning():
    def data(number=9):
        return [number]

    with pytest.warns(
        ClientsDataWarning, match=r"data of the clients' data is called once, without its argument number.*take the"
    ):
        assert values(data, 3) == {"0": 9}


def test_generator_is_replayed_in_every_round():
    data = ClientsData([iter([1, 2]), iter([3])])
    for number in (1, 2):
        assert [list(source()) for source in data.of_round(number).values()] == [[1, 2], [3]]


BATCHES = SequenceType(
    element=StructType(
        container="mapping", fields=(StructField(name="x", type=TensorType(dtype=DType.FLOAT32, shape=(None,))),)
    )
)
BATCH = {"x": np.ones(2, np.float32)}
PAIR = StructType(container="mapping", fields=tuple(StructField(name=name, type=BATCHES) for name in "ab"))


@pytest.mark.parametrize(
    ("data", "declared"),
    [
        ([BATCH, BATCH], BATCHES),
        (lambda: [BATCH], BATCHES),
        (lambda number: [BATCH] * number, BATCHES),
        (BATCH, BATCHES.element),
        ({"a": [BATCH], "b": [BATCH]}, PAIR),
    ],
    ids=["a list of batches", "from a function", "of a round", "a structure", "a structure of data sets"],
)
def test_one_clients_data_in_place_of_a_list_yields_a_hint(data, declared):
    clients = ClientsData(data)
    clients.of_round(1)
    assert clients.hint(declared) == (
        "The data is that of one client, where a list of clients' data is needed: put it into a list, [data]"
    )


@pytest.mark.parametrize("data", [[[BATCH], [BATCH]], {"ann": [BATCH]}, [[{"y": 1}]], FakeClientData(), iter([BATCH])])
def test_list_of_clients_data_yields_no_hint(data):
    assert ClientsData(data).hint(BATCHES) == ""
