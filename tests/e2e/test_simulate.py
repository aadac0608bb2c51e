"""`muster.simulation`: the whole protocol in one process, with exact results."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest

from muster.demo import data
from muster.demo.data import Digits
from muster.simulation import SimulationError, run
from muster.wire.manifest import TensorSpec
from muster.wire.messages import TaskPolicy
from muster.wire.plan import Plan
from muster.wire.tensors import decode, read_header

PLANS = Path(__file__).parents[1] / "data"
SUM, MEAN = (PLANS / f"{name}.plan" for name in ("client_ids_sum", "mean"))
DIGITS = PLANS.parents[1] / "client/muster/demo/digits.plan"
IDS = {"ann": 3, "bob": 1 << 40, "eve": 11}


def bytes_below(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def some_digits():
    randomness = np.random.default_rng(5)
    x = randomness.random((40, data.FEATURES)).astype(np.float32)
    digits = Digits(x, randomness.integers(0, data.CLASSES, 40).astype(np.int32))
    return [data.batches(digits.take(np.arange(at, 40, 4)), seed=at) for at in range(4)]


def test_counts_every_client_once_in_every_round(tmp_path):
    seen = []
    result = run(SUM, IDS, rounds=3, out=tmp_path, progress=lambda view: seen.append(view.round))
    total = sum(IDS.values())
    assert [(int(each["total"]), int(each["count"])) for each in result.results] == [(total, 3)] * 3
    assert [int(each["total"]) for each in result.checkpoints] == [0, total, 2 * total, 3 * total]
    assert [(row["round"], row["epoch"], row["folded"], row["dropped"]) for row in result.metrics] == [
        (number, 0, 3, 0) for number in (1, 2, 3)
    ]
    assert seen == [1, 2, 3]


def test_files_have_the_returned_values(tmp_path):
    result = run(SUM, IDS, rounds=2, out=tmp_path)
    assert set(bytes_below(tmp_path)) == {
        *(f"checkpoints/{number}.safetensors" for number in (0, 1, 2)),
        *(f"results/{number}.safetensors" for number in (1, 2)),
        "metrics.csv",
    }
    last = (tmp_path / "checkpoints/2.safetensors").read_bytes()
    assert decode(last) == result.checkpoints[2]
    state: tuple[TensorSpec, ...] = Plan.load(SUM).manifest.state
    assert read_header(last).order == tuple(spec.path for spec in state)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:6] == ["round", "epoch", "folded", "dropped", "update_bytes", "broadcast_bytes"]
    assert [{name: float(value) for name, value in row.items()} for row in rows] == list(result.metrics)


def test_seed_decides_bytes_and_sampled_clients(tmp_path):
    clients = some_digits()
    for name, seed in (("one", 7), ("again", 7), ("other", 8)):
        run(DIGITS, clients, rounds=2, seed=seed, goal=2, out=tmp_path / name)
    one, again, other = (bytes_below(tmp_path / name) for name in ("one", "again", "other"))
    assert one == again
    assert one["checkpoints/0.safetensors"] == other["checkpoints/0.safetensors"]
    assert one["checkpoints/2.safetensors"] != other["checkpoints/2.safetensors"]


def test_data_may_differ_by_round():
    result = run(MEAN, lambda number: [1.0, 2.0, 3.0 * number][: 4 - number], rounds=2)
    # The second round has fewer clients than the first, and closes at its deadline.
    assert [float(each["result"]) for each in result.results] == [2.0, 1.5]
    assert [row["folded"] for row in result.metrics] == [3, 2]


def test_more_clients_than_slots_is_an_error():
    with pytest.raises(SimulationError, match=r"Round 2 has 3 clients and room for 2.*give goal=3"):
        run(MEAN, lambda number: [1.0] * (number + 1), rounds=2)


def test_client_that_fails_is_named():
    with pytest.raises(SimulationError, match=r"Client 1 failed in round 1 \(data\).*float32"):
        run(MEAN, [1.0, "text"], rounds=1)


def test_round_below_its_minimum_is_an_error():
    with pytest.raises(SimulationError, match=r"Round 1 was abandoned.*minimum is 4"):
        run(SUM, IDS, rounds=1, policy=TaskPolicy(goal=5, minimum=4))


def test_waits_take_no_real_time():
    policy = TaskPolicy(goal=2, interval_seconds=86_400, separation_seconds=80_000)
    result = run(SUM, IDS, rounds=3, policy=policy)
    assert [row["folded"] for row in result.metrics] == [2, 2, 2]
