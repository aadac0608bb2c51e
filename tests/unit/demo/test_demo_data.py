"""Data split, batches and score of the demo."""

from __future__ import annotations

import math

import numpy as np
import pytest

from muster.demo import data
from muster.demo.data import Digits


@pytest.fixture(scope="module")
def digits():
    """Digits with a distinct first pixel in each row."""
    x = np.zeros((500, data.FEATURES), np.float32)
    x[:, 0] = np.arange(500)
    return Digits(x, (np.arange(500) % data.CLASSES).astype(np.int32))


@pytest.mark.parametrize("clients", [1, 2, 10, 400])
def test_split_is_disjoint_and_complete(digits, clients):
    result = data.split(digits, clients=clients, seed=3)
    rows = [int(row) for part in (*result.clients, result.test) for row in part.x[:, 0]]
    assert sorted(rows) == list(range(500))
    assert len(result.clients) == clients
    assert len(result.test) == 100
    assert min(len(part) for part in result.clients) >= 1


def test_split_differs_by_label_and_repeats_by_seed(digits):
    one, again, other = (data.split(digits, clients=5, seed=seed) for seed in (1, 1, 2))
    shares = [np.bincount(part.y, minlength=data.CLASSES) / len(part) for part in one.clients]
    assert max(np.abs(left - right).max() for left in shares for right in shares) > 0.1
    assert all(np.array_equal(left.x, right.x) for left, right in zip(one.clients, again.clients, strict=True))
    assert not np.array_equal(one.test.x, other.test.x)


def test_split_refuses_more_clients_than_digits(digits):
    with pytest.raises(ValueError, match="400 digits can't be split among 401 clients"):
        data.split(digits, clients=401, seed=0)


def test_batches_cover_each_epoch_once(digits):
    part = digits.take(np.arange(45))
    result = data.batches(part, seed=1)
    assert [len(batch["y"]) for batch in result] == [20] * 11 + [5]
    rows = np.concatenate([batch["x"][:, 0] for batch in result])
    assert sorted(rows.tolist()) == sorted(list(range(45)) * data.EPOCHS)


def test_saved_client_file_is_read_by_client_dataset(digits, tmp_path, monkeypatch):
    part = digits.take(np.arange(7))
    data.save(part, tmp_path / "one.npz")
    monkeypatch.setenv(data.FILE_VARIABLE, str(tmp_path / "one.npz"))

    class Context:
        round = 4

    expected = data.batches(part, seed=4)
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(data.client_dataset(Context()), expected, strict=True))


def test_zero_model_scores_like_random_guesses(digits):
    shapes = [(data.FEATURES, data.HIDDEN), (data.HIDDEN,), (data.HIDDEN, data.CLASSES), (data.CLASSES,)]
    state = {f"global_model_weights/trainable/{at}": np.zeros(shape, np.float32) for at, shape in enumerate(shapes)}
    result = data.score(state, digits)
    assert result.loss == pytest.approx(math.log(10))
    assert result.accuracy == pytest.approx(0.1)
