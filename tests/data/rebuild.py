"""Rebuilds the plans of this folder; needs TFF (`muster-fl[author]`). See README.md."""

from __future__ import annotations

import argparse
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Optional

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from muster.author import build_plan
from muster.demo.computation import fed_avg
from muster.wire.plan import Plan
from muster.wire.signatures import SigningKey

FOLDER = Path(__file__).parent
# These are part of the wheel.
SMOKE = FOLDER.parents[1] / "client/muster/smoke/smoke.plan"
DEMO = FOLDER.parents[1] / "client/muster/demo/digits.plan"
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
def summarize(numbers):
    """Computes a client's update: a histogram of its numbers from 0 to 7, their sum, and 1."""
    histogram = tf.math.unsorted_segment_sum(tf.ones_like(numbers), numbers, 8)
    return OrderedDict(histogram=histogram, total=tf.reduce_sum(numbers), clients=tf.constant(1, tf.int64))


@tff.tensorflow.computation(np.int64, SEEN)
def count_numbers(before, seen):
    return before + tf.reduce_sum(seen["histogram"])


@tff.federated_computation(tff.FederatedType(np.int64, tff.SERVER), tff.FederatedType(NUMBERS, tff.CLIENTS))
def smoke(numbers_before, numbers):
    """Aggregates a histogram of all clients' numbers, their sum and the number of clients.

    The state counts the numbers.
    """
    seen = tff.federated_sum(tff.federated_map(summarize, numbers))
    return tff.federated_map(count_numbers, (numbers_before, seen)), seen


@tf.function
def collatz_steps(number):
    """Counts the steps of Collatz's sequence from a number to 1."""
    steps = tf.constant(0, tf.int64)
    while number > 1:
        number = number // 2 if number % 2 == 0 else 3 * number + 1
        steps += 1
    return steps


@tff.tensorflow.computation(tff.SequenceType(np.int64))
def walk(numbers):
    """Runs a loop, a branch and a function in a pass over a data set.

    It also uses text, a table and a sort.
    """
    most = numbers.reduce(tf.constant(0, tf.int64), lambda largest, number: tf.maximum(largest, collatz_steps(number)))
    total = numbers.reduce(tf.constant(0, tf.int64), lambda total, number: total + collatz_steps(number))
    named = tf.strings.to_number(tf.strings.join([tf.strings.as_string(total), "5"], separator="."), tf.float32)
    cosines = tf.sort(
        tf.cos(tf.map_fn(lambda at: tf.cast(at, tf.float32) / 7.0, tf.range(8), fn_output_signature=tf.float32))
    )
    return OrderedDict(total=total, most=most, named=named, cosines=cosines * tf.cast(most, tf.float32))


@tff.tensorflow.computation(np.int64, walk.type_signature.result)
def count_steps(before, seen):
    return tf.cond(seen["total"] > 0, lambda: before + seen["total"], lambda: before)


@tff.federated_computation(
    tff.FederatedType(np.int64, tff.SERVER), tff.FederatedType(tff.SequenceType(np.int64), tff.CLIENTS)
)
def collatz(steps_before, numbers):
    """Runs control flow on clients and server. The state counts the steps."""
    seen = tff.federated_sum(tff.federated_map(walk, numbers))
    return tff.federated_map(count_steps, (steps_before, seen)), seen


@tf.function
def spin(number):
    """Returns a non-negative number. Never returns for a negative one.

    Each step moves a negative number further from 0.
    """
    while number < 0:
        number -= 1
    return number


@tff.tensorflow.computation(tff.SequenceType(np.int64))
def spin_all(numbers):
    return numbers.reduce(tf.constant(0, tf.int64), lambda total, number: total + spin(number))


@tff.federated_computation(tff.FederatedType(tff.SequenceType(np.int64), tff.CLIENTS))
def endless(numbers):
    """Sums the clients' numbers. A negative number keeps the client's graph running forever."""
    return tff.federated_sum(tff.federated_map(spin_all, numbers))


def save_demo(key: Optional[Path]) -> None:
    """Signs and saves the demo's plan. Without a key, only checks the committed plan.

    Exits if the committed plan has another address.
    """
    plan = build_plan(fed_avg(), name="digits_fedavg")
    if key is not None:
        plan.signed(SigningKey.load(key)).save(DEMO)
    elif not DEMO.exists() or Plan.load(DEMO).sha256 != plan.sha256:
        sys.exit(f"The demo's plan has changed to {plan.sha256[:12]}: sign it with --key FILE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--key", type=Path, help="the demo's private key, to sign the demo's plan with")
    key = parser.parse_args().key
    nothing = OrderedDict(total=np.int64(0), count=np.int64(0))
    build_plan(client_ids_sum, name="client_ids_sum", initial_state=nothing).save(FOLDER / "client_ids_sum.plan")
    build_plan(mean, name="mean").save(FOLDER / "mean.plan")
    build_plan(smoke, name="smoke", initial_state=np.int64(0)).save(SMOKE)
    build_plan(collatz, name="collatz", initial_state=np.int64(0)).save(FOLDER / "collatz.plan")
    build_plan(endless, name="endless").save(FOLDER / "endless.plan")
    save_demo(key)


if __name__ == "__main__":
    main()
