"""Computation of the demo: federated averaging of a small network, in TFF.

This is all that a data scientist writes; `muster plan build muster.demo.computation:fed_avg`
compiles it. Imports TensorFlow and TFF.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

from muster.demo.data import CLASSES, FEATURES, HIDDEN

_CLIENT_RATE, _SERVER_RATE, _MOMENTUM = 0.1, 1.0, 0.5


def fed_avg(*, seed: int = 0) -> tff.learning.templates.LearningProcess:
    """Returns weighted federated averaging (McMahan et al. 2017, arXiv:1602.05629).

    The server uses momentum, which helps with clients whose data differ (Hsu et al. 2019,
    arXiv:1909.06335).

    Args:
      seed: The seed of the initial weights.

    Returns:
      The process. A client's data is a sequence of batches `{x: float32[?, 64], y: int32[?]}`.
    """
    batch = OrderedDict(x=tf.TensorSpec([None, FEATURES], tf.float32), y=tf.TensorSpec([None], tf.int32))

    def model() -> tff.learning.models.VariableModel:
        return tff.learning.models.from_keras_model(
            _network(seed),
            loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            input_spec=batch,
            metrics=[tf.keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        )

    return tff.learning.algorithms.build_weighted_fed_avg(
        model,
        client_optimizer_fn=tff.learning.optimizers.build_sgdm(_CLIENT_RATE),
        server_optimizer_fn=tff.learning.optimizers.build_sgdm(_SERVER_RATE, _MOMENTUM),
    )


def _network(seed: int) -> Any:
    def dense(units: int, number: int, activation: str | None) -> Any:
        initial = tf.keras.initializers.GlorotUniform(seed=1000 * seed + number)
        return tf.keras.layers.Dense(units, activation=activation, kernel_initializer=initial)

    return tf.keras.Sequential(
        [tf.keras.layers.InputLayer((FEATURES,)), dense(HIDDEN, 1, "relu"), dense(CLASSES, 2, None)]
    )
