"""Trains a linear regression on the data of five hospitals, which never leave them."""

import os
from collections import OrderedDict

import numpy as np


def process():
    """Returns the computation, in ordinary TFF. Clients never call this function."""
    import tensorflow as tf
    import tensorflow_federated as tff

    batch = OrderedDict(x=tf.TensorSpec([None, 3], tf.float32), y=tf.TensorSpec([None, 1], tf.float32))

    def model():
        layers = [tf.keras.layers.InputLayer((3,)), tf.keras.layers.Dense(1, kernel_initializer="zeros")]
        loss = tf.keras.losses.MeanSquaredError()
        return tff.learning.models.from_keras_model(tf.keras.Sequential(layers), loss=loss, input_spec=batch)

    sgd = tff.learning.optimizers.build_sgdm
    return tff.learning.algorithms.build_weighted_fed_avg(model, sgd(0.1), sgd(1.0))


def hospital(number):
    """Returns the data of one client. Yours would read a file or a database."""
    randomness = np.random.default_rng(number)
    x = randomness.normal(size=(64, 3)).astype(np.float32)
    y = (x @ [[1.0], [-2.0], [0.5]] + 0.1 * randomness.normal(size=(64, 1))).astype(np.float32)
    return [{"x": x[at : at + 16], "y": y[at : at + 16]} for at in range(0, 64, 16)]


def this_hospital():
    """Returns the data of this client, for `muster client run`."""
    return hospital(int(os.environ["HOSPITAL"]))


def hospitals():
    """Returns the data of all clients, for `muster plan check` and `muster simulate`."""
    return [hospital(number) for number in range(5)]
