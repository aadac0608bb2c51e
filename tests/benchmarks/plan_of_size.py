"""Writes a plan whose model and update are N float32: `plan_of_size.py --floats N FILE`.

It is a script, as it imports TFF. The plan averages updates by a sum and a count, so that its fold
is a proven sum; with TFF's own mean each client would upload a second tensor of the model's size.
"""

from __future__ import annotations

import argparse

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from muster.author import build_plan


def main() -> None:
    """Builds the plan."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--floats", type=int, required=True, help="float32 elements of the model")
    parser.add_argument("file", help="where the plan goes")
    arguments = parser.parse_args()
    model = tff.TensorType(np.float32, [arguments.floats])

    @tff.tensorflow.computation(model, np.float32)
    def work(weights: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
        return weights + offset

    @tff.tensorflow.computation(model, np.float32)
    def mean(total: tf.Tensor, clients: tf.Tensor) -> tf.Tensor:
        return total / clients

    @tff.federated_computation(tff.FederatedType(model, tff.SERVER), tff.FederatedType(np.float32, tff.CLIENTS))
    def step(state: tff.Value, data: tff.Value) -> tff.Value:
        update = tff.federated_map(work, (tff.federated_broadcast(state), data))
        clients = tff.federated_sum(tff.federated_value(1.0, tff.CLIENTS))
        return tff.federated_map(mean, (tff.federated_sum(update), clients)), tff.federated_sum(data)

    plan = build_plan(step, name="bytes", initial_state=np.zeros(arguments.floats, np.float32))
    plan.save(arguments.file)


if __name__ == "__main__":
    main()
