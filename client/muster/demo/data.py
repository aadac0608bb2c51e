"""Data of the demo: scikit-learn's digits, split into a test set and the clients' data sets.

Each client process reads only its own file. Only `datasets` imports TensorFlow, and only `load`
imports scikit-learn.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from muster.client import WorkContext
from muster.wire.tensors import Array

FEATURES, HIDDEN, CLASSES = 64, 32, 10
ALPHA = 0.5  # of the Dirichlet distribution: the smaller, the more the clients' labels differ
BATCH, EPOCHS = 20, 5
CLIENTS = 10  # the default number
FILE_VARIABLE = "MUSTER_DEMO_CLIENT"  # environment variable with the path of a client's file
EPOCHS_VARIABLE = "MUSTER_DEMO_EPOCHS"  # environment variable with the local epochs of a round
_TEST_FRACTION = 0.2


@dataclass(frozen=True)
class Digits:
    """Images and labels: `x` float32[n, 64] in 0 to 1, `y` int32[n] in 0 to 9."""

    x: Array
    y: Array

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: Array) -> Digits:
        """Returns the given rows."""
        return Digits(self.x[rows], self.y[rows])


@dataclass(frozen=True)
class Split:
    """Disjoint split of the digits: a non-empty data set for each client, and a test set."""

    clients: tuple[Digits, ...]
    test: Digits


def load() -> Digits:
    """Returns all 1,797 digits of `sklearn.datasets.load_digits` (Alpaydin and Kaynak 1998)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return Digits((bunch.data / 16.0).astype(np.float32), bunch.target.astype(np.int32))


def split(digits: Digits, *, clients: int, seed: int) -> Split:
    """Splits the digits among clients whose label distributions differ.

    Each client's share of a label is drawn from a Dirichlet distribution (Hsu et al. 2019,
    arXiv:1909.06335).

    Args:
      digits: The digits.
      clients: The number of clients; at most the number of digits for training.
      seed: The seed of the test set and of the shares.

    Raises:
      ValueError: there are more clients than digits.
    """
    randomness = np.random.default_rng(seed)
    order = randomness.permutation(len(digits))
    test_size = int(len(digits) * _TEST_FRACTION)
    test, train = order[:test_size], order[test_size:]
    if not 1 <= clients <= len(train):
        raise ValueError(f"{len(train)} digits can't be split among {clients} clients so that each gets one")
    client_rows: list[list[int]] = [[] for _ in range(clients)]
    for label in range(CLASSES):
        rows = train[digits.y[train] == label]
        ends = np.rint(np.cumsum(randomness.dirichlet(np.full(clients, ALPHA))) * len(rows)).astype(int)
        for own_rows, share in zip(client_rows, np.split(rows, ends[:-1])):
            own_rows.extend(share.tolist())
    # A client without digits gets one of the client that has most.
    for own_rows in client_rows:
        if not own_rows:
            own_rows.append(max(client_rows, key=len).pop())
    return Split(tuple(digits.take(np.array(sorted(own_rows))) for own_rows in client_rows), digits.take(test))


def save(digits: Digits, path: Path) -> None:
    """Writes a client's digits."""
    np.savez(path, x=digits.x, y=digits.y)


def read(path: Path) -> Digits:
    """Reads a client's digits."""
    with np.load(path) as arrays:
        return Digits(arrays["x"], arrays["y"])


def epochs_for(clients: int) -> int:
    """Returns the local epochs of a round: more for more clients, which have fewer digits each."""
    return EPOCHS * max(1, round(clients / CLIENTS))


def batches(digits: Digits, *, seed: int, epochs: int = EPOCHS) -> list[dict[str, Array]]:
    """Returns a client's batches for one round: a few epochs, each in another random order.

    Args:
      digits: The client's digits.
      seed: The seed of the orders.
      epochs: The number of epochs.

    Returns:
      Batches `{x: float32[≤20, 64], y: int32[≤20]}`.
    """
    rows = _rows(digits, seed=seed, epochs=epochs)
    cuts = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    return [{"x": digits.x[cut], "y": digits.y[cut]} for cut in cuts]


def _rows(digits: Digits, *, seed: int, epochs: int) -> Array:
    randomness = np.random.default_rng(seed)
    return np.concatenate([randomness.permutation(len(digits)) for _ in range(epochs)])


def client_dataset(context: WorkContext) -> list[dict[str, Array]]:
    """Returns this client process's batches: `--data muster.demo.data:client_dataset`.

    Raises:
      RuntimeError: the environment does not name the client's file.
    """
    path = os.environ.get(FILE_VARIABLE)
    if path is None:
        raise RuntimeError(f"{FILE_VARIABLE} is not set: set it to a client's file, which `muster demo` writes")
    epochs = int(os.environ.get(EPOCHS_VARIABLE, EPOCHS))
    return batches(read(Path(path)), seed=context.round, epochs=epochs)


def datasets(number: int) -> list[Any]:
    """Returns all clients' data of a round (from 1), as `muster demo` splits it by default.

    For `muster simulate` and `muster plan check`: TFF accepts only `tf.data.Dataset`s. Imports
    TensorFlow.
    """
    import tensorflow as tf

    result = []
    for digits in split(load(), clients=CLIENTS, seed=0).clients:
        rows = _rows(digits, seed=number, epochs=EPOCHS)
        result.append(tf.data.Dataset.from_tensor_slices({"x": digits.x[rows], "y": digits.y[rows]}).batch(BATCH))
    return result


@dataclass(frozen=True)
class Score:
    """Mean cross-entropy and accuracy of a model."""

    loss: float
    accuracy: float


def score(state: Mapping[str, Array], digits: Digits) -> Score:
    """Evaluates a checkpoint on held-out digits, in numpy.

    Args:
      state: A checkpoint's tensors; the weights are `global_model_weights/trainable/0` to `3`, of
        the network in `muster.demo.computation`.
      digits: The held-out digits.
    """
    kernel, bias, kernel2, bias2 = (state[f"global_model_weights/trainable/{number}"] for number in range(4))
    logits = np.maximum(digits.x @ kernel + bias, 0.0) @ kernel2 + bias2
    logits = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss = -log_probabilities[np.arange(len(digits)), digits.y].mean()
    return Score(float(loss), float((logits.argmax(axis=1) == digits.y).mean()))
