"""Computations of the matrix and their clients' data, equal to the bit in all environments.

The environments differ in Python, numpy and TensorFlow.

Imported by the clients' environments too, so Python 3.9 and numpy are all that it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

CLIENTS, ROUNDS = 3, 2


@dataclass(frozen=True)
class Case:
    """Plan, by its path from the root of the checkout, and each client's data.

    `data(client)` takes the client's number, from 0.
    """

    name: str
    plan: str
    data: Callable[[int], Any]


def _ids(client: int) -> Any:
    return np.int64((1 << 40) + client)


def _number(client: int) -> Any:
    return np.float32(0.1 + client)


def _collatz(client: int) -> Any:
    return list(np.arange(1 + client, 30, 3, dtype=np.int64))


def _digits(client: int) -> Any:
    rows, columns = np.arange(45)[:, None], np.arange(64)[None, :]
    x = ((rows * 37 + columns * 11 + client * 5) % 17 / 16).astype(np.float32)
    y = ((np.arange(45) * 3 + client) % 10).astype(np.int32)
    return [{"x": x[at : at + 20], "y": y[at : at + 20]} for at in range(0, 45, 20)]


CASES = (
    Case("client_ids_sum", "tests/data/client_ids_sum.plan", _ids),
    Case("mean", "tests/data/mean.plan", _number),
    Case("collatz", "tests/data/collatz.plan", _collatz),
    Case("digits_fedavg", "client/muster/demo/digits.plan", _digits),
)


def key(case: str, what: str, path: str) -> str:
    """Returns the name of a tensor in `expected.safetensors`.

    `what` is `update-<client>-<round>`, `state-<round>` or `result-<round>`.
    """
    return f"{case}/{what}/{path}"
