"""The demo's data: scikit-learn's digits, a part of them held out for the test, the others dealt to clients that differ.

Every client's part is a file of its own, and a client process reads no other. No TensorFlow here but in `datasets`, and
scikit-learn only in `load`.
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
CLIENTS = 10  # where nobody says
FILE_VARIABLE = "MUSTER_DEMO_CLIENT"  # the environment variable that names a client's file
EPOCHS_VARIABLE = "MUSTER_DEMO_EPOCHS"  # the one that says how often it is gone through in a round
_HELD_OUT = 0.2


@dataclass(frozen=True)
class Digits:
    """Images and labels: `x` float32[n, 64] in 0 to 1, `y` int32[n] in 0 to 9."""

    x: Array
    y: Array

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: Array) -> Digits:
        """The rows of these numbers."""
        return Digits(self.x[rows], self.y[rows])


@dataclass(frozen=True)
class Split:
    """The clients' parts, disjoint and none empty, and the held-out test set, which no client has."""

    clients: tuple[Digits, ...]
    test: Digits


def load() -> Digits:
    """All 1,797 digits (Alpaydin and Kaynak 1998, by way of `sklearn.datasets.load_digits`)."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return Digits((found.data / 16.0).astype(np.float32), found.target.astype(np.int32))


def split(digits: Digits, *, clients: int, seed: int) -> Split:
    """Deals digits by label: each label's rows in shares drawn from a Dirichlet distribution (Hsu et al. 2019, arXiv:1909.06335).

    Args:
      digits: All of them.
      clients: How many clients; at most as many as digits are left for training.
      seed: Draws the test set and the shares.

    Raises:
      ValueError: There are more clients than digits.
    """
    randomness = np.random.default_rng(seed)
    order = randomness.permutation(len(digits))
    held_out = int(len(digits) * _HELD_OUT)
    test, train = order[:held_out], order[held_out:]
    if not 1 <= clients <= len(train):
        raise ValueError(f"{len(train)} digits can't be dealt to {clients} clients so that each gets one")
    parts: list[list[int]] = [[] for _ in range(clients)]
    for label in range(CLASSES):
        rows = train[digits.y[train] == label]
        ends = np.rint(np.cumsum(randomness.dirichlet(np.full(clients, ALPHA))) * len(rows)).astype(int)
        for part, piece in zip(parts, np.split(rows, ends[:-1])):
            part.extend(piece.tolist())
    # Whom chance gave nothing, gets a row of who has most.
    for part in parts:
        if not part:
            part.append(max(parts, key=len).pop())
    return Split(tuple(digits.take(np.array(sorted(part))) for part in parts), digits.take(test))


def save(part: Digits, path: Path) -> None:
    """Writes a client's part."""
    np.savez(path, x=part.x, y=part.y)


def read(path: Path) -> Digits:
    """Reads a client's part."""
    with np.load(path) as found:
        return Digits(found["x"], found["y"])


def epochs_for(clients: int) -> int:
    """How often a client goes through its digits in a round: more often where more clients have fewer each."""
    return EPOCHS * max(1, round(clients / CLIENTS))


def batches(part: Digits, *, seed: int, epochs: int = EPOCHS) -> list[dict[str, Array]]:
    """What a client trains on in one round: a few epochs, each in an order of its own.

    Args:
      part: The client's digits.
      seed: Draws the orders.
      epochs: How many.

    Returns:
      Batches `{x: float32[≤20, 64], y: int32[≤20]}`.
    """
    rows = _rows(part, seed=seed, epochs=epochs)
    cuts = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    return [{"x": part.x[cut], "y": part.y[cut]} for cut in cuts]


def _rows(part: Digits, *, seed: int, epochs: int) -> Array:
    randomness = np.random.default_rng(seed)
    return np.concatenate([randomness.permutation(len(part)) for _ in range(epochs)])


def client_dataset(context: WorkContext) -> list[dict[str, Array]]:
    """The data of the client process that this is: `muster client run --data muster.demo.data:client_dataset`.

    Raises:
      RuntimeError: The environment does not name the client's file.
    """
    path = os.environ.get(FILE_VARIABLE)
    if path is None:
        raise RuntimeError(f"set {FILE_VARIABLE} to a client's file; `muster demo` writes them and starts the clients")
    epochs = int(os.environ.get(EPOCHS_VARIABLE, EPOCHS))
    return batches(read(Path(path)), seed=context.round, epochs=epochs)


def datasets(number: int) -> list[Any]:
    """All clients' data of a round (counted from 1) as `muster demo` deals it by default.

    For `muster simulate` and for `muster plan check`, whose other side, TFF, takes `tf.data.Dataset`s alone. Imports TensorFlow.
    """
    import tensorflow as tf

    found = []
    for part in split(load(), clients=CLIENTS, seed=0).clients:
        rows = _rows(part, seed=number, epochs=EPOCHS)
        found.append(tf.data.Dataset.from_tensor_slices({"x": part.x[rows], "y": part.y[rows]}).batch(BATCH))
    return found


@dataclass(frozen=True)
class Score:
    """How a model does: mean cross-entropy and accuracy."""

    loss: float
    accuracy: float


def score(state: Mapping[str, Array], digits: Digits) -> Score:
    """Judges a checkpoint on digits, in numpy: the same network as `muster.demo.computation` trains.

    Args:
      state: A checkpoint's tensors; the weights are `global_model_weights/trainable/0` to `3`.
      digits: Such that no client has.
    """
    kernel, bias, kernel2, bias2 = (state[f"global_model_weights/trainable/{number}"] for number in range(4))
    logits = np.maximum(digits.x @ kernel + bias, 0.0) @ kernel2 + bias2
    logits = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss = -log_probabilities[np.arange(len(digits)), digits.y].mean()
    return Score(float(loss), float((logits.argmax(axis=1) == digits.y).mean()))
