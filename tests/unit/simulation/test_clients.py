"""The forms in which clients' data may come."""

from __future__ import annotations

import numpy as np
import pytest

from muster.simulation.clients import ClientsData


class FakeClientData:
    """What the simulation reads of a TFF `ClientData`."""

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
def test_takes_a_form(data, expected):
    found = values(data, 3)
    assert found == expected
    assert list(found) == list(expected)


def test_reads_a_client_only_when_it_works():
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
def test_refuses_what_holds_no_clients(data, error, text):
    with pytest.raises(error, match=text):
        ClientsData(data).of_round(1)


def test_takes_a_data_set_for_one_client_not_for_many():
    class Dataset(list):
        element_spec = None

    with pytest.raises(TypeError, match="a single client"):
        ClientsData(Dataset([1, 2])).of_round(1)
