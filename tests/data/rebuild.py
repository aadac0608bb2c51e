"""Makes the plans of this folder again; needs TFF (`muster-fl[author]`). See README.md."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from muster.author import build_plan
from muster.demo.computation import fed_avg

FOLDER = Path(__file__).parent
SMOKE = FOLDER.parents[1] / "client/muster/smoke/smoke.plan"  # travels in the wheel
TOTALS = OrderedDict(total=np.int64, count=np.int64)


@tff.tensorflow.computation(np.int64)
def one(_):
    return tf.constant(1, tf.int64)


@tff.tensorflow.computation(TOTALS, np.int64, np.int64)
def add(state, total, count):
    return OrderedDict(total=state["total"] + total, count=state["count"] + count)


@tff.federated_computation(tff.FederatedType(TOTALS, tff.SERVER), tff.FederatedType(np.int64, tff.CLIENTS))
def client_ids_sum(state, ids):
    total, count = tff.federated_sum(ids), tff.federated_sum(tff.federated_map(one, ids))
    after = tff.federated_map(add, tff.federated_zip((state, total, count)))
    return after, tff.federated_zip(OrderedDict(total=total, count=count))


@tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
def mean(values):
    return tff.federated_mean(values)


NUMBERS = tff.TensorType(np.int64, [None])
SEEN = OrderedDict(histogram=tff.TensorType(np.int64, [8]), total=np.int64, clients=np.int64)


@tff.tensorflow.computation(NUMBERS)
def look(numbers):
    """What leaves a client: how many of its numbers are 0, 1, …, 7; their sum; itself."""
    histogram = tf.math.unsorted_segment_sum(tf.ones_like(numbers), numbers, 8)
    return OrderedDict(histogram=histogram, total=tf.reduce_sum(numbers), clients=tf.constant(1, tf.int64))


@tff.tensorflow.computation(np.int64, SEEN)
def keep(before, seen):
    return before + tf.reduce_sum(seen["histogram"])


@tff.federated_computation(tff.FederatedType(np.int64, tff.SERVER), tff.FederatedType(NUMBERS, tff.CLIENTS))
def smoke(numbers_before, numbers):
    """Of all clients' numbers from 0 to 7: a histogram, their sum, how many clients. The state counts the numbers."""
    seen = tff.federated_sum(tff.federated_map(look, numbers))
    return tff.federated_map(keep, (numbers_before, seen)), seen


def main() -> None:
    nothing = OrderedDict(total=np.int64(0), count=np.int64(0))
    build_plan(client_ids_sum, name="client_ids_sum", initial_state=nothing).save(FOLDER / "client_ids_sum.plan")
    build_plan(mean, name="mean").save(FOLDER / "mean.plan")
    build_plan(smoke, name="smoke", initial_state=np.int64(0)).save(SMOKE)
    build_plan(fed_avg(), name="digits_fedavg").save(FOLDER / "digits_fedavg.plan")


if __name__ == "__main__":
    main()
