"""Computations whose graphs hold names that TensorFlow, Keras and TFF draw from counters or at
random.

Tracing one of them again, in this process or in another, must yield the same plan address.
"""

from __future__ import annotations

import collections

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from muster.author import build_plan
from support.computations import SGD


def summed(local, data_type):
    """Returns the sum over clients of a local computation of their data."""

    @tff.federated_computation(tff.FederatedType(data_type, tff.CLIENTS))
    def total(values):
        return tff.federated_sum(tff.federated_map(local, values))

    return total


def table():
    """Looks words up in a table, inside the loop over the data and after it.

    TensorFlow names the table at random.
    """

    @tff.tensorflow.computation(tff.SequenceType(np.str_))
    def count(words):
        numbers = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a", "b"], [1, 2]), 0)
        inside = words.reduce(np.int32(0), lambda total, word: total + numbers.lookup(word))
        # `import_graph_def` loses the shape of a look-up.
        return tf.ensure_shape(inside + numbers.lookup(tf.constant("b")), [])

    return summed(count, tff.SequenceType(np.str_))


def mutable_table():
    """Counts distinct values with a table that the graph writes to."""

    @tff.tensorflow.computation(tff.SequenceType(np.int64))
    def distinct(values):
        seen = tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, default_value=0)

        def step(total, value):
            with tf.control_dependencies([seen.insert(value, value)]):
                return total + 1

        with tf.control_dependencies([values.reduce(np.int64(0), step)]):
            return seen.size()

    return summed(distinct, tff.SequenceType(np.int64))


def keras():
    """Trains layers whose names Keras counts.

    Their loops have arguments that are named by a counter; the weights come from a fixed seed.
    """
    spec = collections.OrderedDict(x=tf.TensorSpec([None, 4], tf.float32), y=tf.TensorSpec([None, 1], tf.float32))

    def model_fn():
        tf.keras.utils.set_random_seed(3)
        layers = tf.keras.layers
        stack = [
            layers.InputLayer((4,)),
            layers.Reshape((4, 1)),
            layers.LSTM(2, dropout=0.1),
            layers.BatchNormalization(),
        ]
        model = tf.keras.Sequential([*stack, layers.Dense(1)])
        return tff.learning.models.from_keras_model(model, loss=tf.keras.losses.MeanSquaredError(), input_spec=spec)

    return tff.learning.algorithms.build_weighted_fed_avg(model_fn, SGD(0.1), SGD(1.0))


def arguments():
    """Calls nested functions whose variables and arguments are named in the order of tracing."""

    @tf.function
    def inner(x, y):
        return tf.while_loop(lambda at, _: at < 3, lambda at, total: (at + 1, total * y), (0, x))[1]

    @tff.tensorflow.computation(np.float32)
    def work(value):
        doubled = tf.Variable(2.0)
        return tf.cond(value > 0, lambda: inner(value, doubled.read_value()), lambda: inner(inner(value, value), 1.0))

    return summed(work, np.float32)


def drawing():
    """Starts from a state that is drawn at random."""

    @tff.tensorflow.computation
    def draw():
        return tf.random.normal([3])

    @tff.federated_computation(
        tff.FederatedType(tff.TensorType(np.float32, [3]), tff.SERVER), tff.FederatedType(np.float32, tff.CLIENTS)
    )
    def next_fn(state, data):
        return state, tff.federated_mean(data)

    initialize = tff.federated_computation(lambda: tff.federated_eval(draw, tff.SERVER))
    return tff.templates.IterativeProcess(initialize, next_fn)


TRACED = {
    "table": table,
    "mutable_table": mutable_table,
    "keras": keras,
    "arguments": arguments,
    "drawing": drawing,
}


def build_plans():
    """Traces every computation anew and returns the plans by name."""
    return {name: build_plan(build(), seed=5) for name, build in TRACED.items()}
