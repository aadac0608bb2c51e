"""Counts all devices' numbers in ten equal bins from 0 to 100: a federated histogram.

The clients in this folder run this computation. It is compiled to `histogram.plan`:

    muster plan build examples/clients/histogram.py:histogram -o examples/clients/histogram.plan
"""

from collections import OrderedDict

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

BINS, WIDTH = 10, 10.0
NUMBERS = tff.TensorType(np.float32, [None])


@tff.tensorflow.computation(NUMBERS)
def count(numbers):
    """Returns one device's counts, int64[10].

    A number below 0 counts in the first bin, one of 100 or more in the last.
    """
    bins = tf.clip_by_value(tf.cast(tf.floor(numbers / WIDTH), tf.int64), 0, BINS - 1)
    one_hot = tf.equal(tf.expand_dims(bins, 1), tf.range(BINS, dtype=tf.int64))
    return OrderedDict(counts=tf.reduce_sum(tf.cast(one_hot, tf.int64), axis=0))


@tff.federated_computation(tff.FederatedType(NUMBERS, tff.CLIENTS))
def histogram(numbers):
    """Returns the sum of all devices' counts."""
    return tff.federated_sum(tff.federated_map(count, numbers))
