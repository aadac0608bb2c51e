"""Checks that simulated draws are independent between clients and rounds, and repeatable."""

import collections
import hashlib
import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from support.computations import SGD, fed_avg, regression, words

import muster.simulation
from muster.author import build_plan

WIDTH = 64  # units of a mask; two of 48 independent masks are equal with a probability of about 2 ** -50


@pytest.fixture(scope="module")
def masks_plan():
    """Compiles a plan whose result holds every client's last dropout mask.

    Client number n uploads its mask in row n.
    """

    @tff.tensorflow.computation(tff.SequenceType(np.int32))
    def work(numbers):
        def step(held, number):
            mask = tf.nn.dropout(tf.ones([WIDTH]), 0.5)
            return held + tf.one_hot(number, 16)[:, tf.newaxis] * mask

        return numbers.reduce(tf.zeros([16, WIDTH]), step)

    @tff.federated_computation(tff.FederatedType(tff.SequenceType(np.int32), tff.CLIENTS))
    def masks(numbers):
        return tff.federated_sum(tff.federated_map(work, numbers))

    return build_plan(masks)


def noise_plan():
    """Compiles a sum of normal draws, one per client, drawn in the loop over its data."""

    @tff.tensorflow.computation(tff.SequenceType(np.float32))
    def work(values):
        return values.reduce(0.0, lambda held, value: held + value + tf.random.normal([]))

    @tff.federated_computation(tff.FederatedType(tff.SequenceType(np.float32), tff.CLIENTS))
    def total(values):
        return tff.federated_sum(tff.federated_map(work, values))

    return build_plan(total)


def dropout_process():
    spec = collections.OrderedDict(x=tf.TensorSpec([None, 4], tf.float32), y=tf.TensorSpec([None, 1], tf.float32))

    def model_fn():
        layers = [tf.keras.layers.InputLayer((4,)), tf.keras.layers.Dropout(0.2), tf.keras.layers.Dense(1)]
        loss = tf.keras.losses.MeanSquaredError()
        return tff.learning.models.from_keras_model(tf.keras.Sequential(layers), loss=loss, input_spec=spec)

    return tff.learning.algorithms.build_weighted_fed_avg(model_fn, SGD(0.1), SGD(1.0))


def dropout_client(number):
    rng = np.random.default_rng(number)
    return [
        {"x": rng.normal(size=(size, 4)).astype(np.float32), "y": rng.normal(size=(size, 1)).astype(np.float32)}
        for size in (4, 3)
    ]


def bytes_below(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_masks_of_16_clients_in_3_rounds_all_differ(masks_plan):
    simulated = muster.simulation.run(masks_plan, [[np.int32(number)] for number in range(16)], rounds=3)
    masks = [mask.tobytes() for result in simulated.results for mask in result["result"]]
    assert len(masks) == 48
    assert len(set(masks)) == 48


@pytest.fixture(scope="module")
def dropout_plan():
    return build_plan(dropout_process())


def test_clients_with_equal_data_draw_different_dropout_masks(dropout_plan):
    data, name = dropout_client(0), "global_model_weights/trainable/0"
    one = muster.simulation.run(dropout_plan, [data], rounds=3)
    four = muster.simulation.run(dropout_plan, [data] * 4, rounds=3)
    for number in range(1, 4):
        assert not np.array_equal(one.checkpoints[number][name], four.checkpoints[number][name])


def test_seed_determines_all_files_of_a_run(dropout_plan, tmp_path):
    clients = [dropout_client(0)] * 4
    for name, seed in (("one", 3), ("again", 3), ("other", 4)):
        simulated = muster.simulation.run(dropout_plan, clients, rounds=2, seed=seed, out=tmp_path / name)
        assert simulated.unseeded == {}
    one, again, other = (bytes_below(tmp_path / name) for name in ("one", "again", "other"))
    assert one == again
    assert one["checkpoints/2.safetensors"] != other["checkpoints/2.safetensors"]


def test_summed_client_noise_grows_with_the_root_of_clients():
    clients, rounds = 64, 4
    simulated = muster.simulation.run(noise_plan(), [[np.float32(0)]] * clients, rounds=rounds, seed=1)
    sums = [float(result["result"]) for result in simulated.results]
    assert len(set(sums)) == rounds
    # Equal draws would add up to 64 times one draw. Independent ones stay below 4 standard
    # deviations.
    assert all(abs(total) < 4 * math.sqrt(clients) for total in sums)
    assert np.std(sums) > 1


def test_server_noise_differs_by_round_and_repeats_with_the_seed():
    aggregator = tff.learning.dp_aggregator(0.5, 100)
    plan = build_plan(fed_avg(aggregator, weighted=False, client_optimizer_fn=SGD(0.0)))
    name = "global_model_weights/trainable/0"

    def steps(seed):
        states = muster.simulation.run(plan, regression(1), rounds=3, seed=seed).checkpoints
        return [(after[name] - before[name]).tobytes() for before, after in itertools.pairwise(states)]

    # A learning rate of zero: only the noise changes the model.
    first = steps(0)
    assert len(set(first)) == 3
    assert steps(0) == first
    assert steps(1) != first


def test_draws_depend_only_on_the_clients_name(masks_plan):
    """The order of the clients and the other participants do not matter."""
    plan = masks_plan
    data = {name: [np.int32(number)] for number, name in enumerate(("ann", "bob", "eve"))}
    together = muster.simulation.run(plan, data, rounds=1).results[0]["result"]
    turned = muster.simulation.run(plan, dict(reversed(data.items())), rounds=1).results[0]["result"]
    np.testing.assert_array_equal(together, turned)
    alone = muster.simulation.run(plan, {"bob": data["bob"]}, rounds=1).results[0]["result"]
    np.testing.assert_array_equal(alone[1], together[1])


def test_unseedable_operations_are_named(heavy_hitters_plan):
    simulated = muster.simulation.run(heavy_hitters_plan, words(1), rounds=1)
    assert simulated.unseeded == {"update": ("Timestamp",)}
