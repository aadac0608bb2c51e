"""Checks that draws which `MapReduceForm` would duplicate are refused, and no others."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from muster.author import build_plan
from muster.wire.problems import ProblemError, ProblemType

STATE, DATA = tff.FederatedType(np.float32, tff.SERVER), tff.FederatedType(np.float32, tff.CLIENTS)


@tff.tensorflow.computation(np.float32, np.float32)
def add(a, b):
    return a + b


@tff.tensorflow.computation(np.float32, np.float32)
def subtract(a, b):
    return a - b


@tff.tensorflow.computation
def draw():
    return tf.random.normal([])


def build(computation):
    return build_plan(computation, initial_state=0.0)


def refused(computation):
    with pytest.raises(ProblemError) as caught:
        build(computation)
    assert caught.value.type is ProblemType.PLAN_INVALID
    return caught.value.detail


def drawn_twice(op, places):
    return (
        f"The server draws random numbers ({op}) once and uses them twice: in the broadcast (broadcast: 0) and, "
        "after the "
        f"aggregation, in {places}. A MapReduce round computes the broadcast and the result separately, so each would "
        "draw different numbers and the result would be wrong. Store a seed in the server state instead, draw the "
        "numbers from it with tf.random.stateless_uniform, stateless_normal or a similar function wherever they are "
        "needed, and put another seed into the next state."
    )


def masked(make):
    """Returns `mean(x - r) + r`, where r is `make(state)` at the server."""

    @tff.federated_computation(STATE, DATA)
    def computation(state, data):
        r = make(state)
        return state, tff.federated_map(
            add, (tff.federated_mean(tff.federated_map(subtract, (data, tff.federated_broadcast(r)))), r)
        )

    return computation


def test_server_draw_used_before_and_after_aggregation_is_refused():
    assert refused(masked(lambda _: tff.federated_eval(draw, tff.SERVER))) == drawn_twice(
        "RandomStandardNormal", "result"
    )


def test_random_state_that_is_broadcast_is_refused():
    @tff.tensorflow.computation(np.float32)
    def drift(state):
        return state + tf.random.uniform([])

    @tff.federated_computation(STATE, DATA)
    def computation(state, data):
        moved = tff.federated_map(drift, state)
        return moved, tff.federated_mean(tff.federated_map(add, (data, tff.federated_broadcast(moved))))

    assert refused(computation) == drawn_twice("RandomUniform", "state")


def generated(seed):
    @tff.tensorflow.computation
    def from_a_generator():
        made = (
            tf.random.Generator.from_non_deterministic_state() if seed is None else tf.random.Generator.from_seed(seed)
        )
        return made.normal([])

    return from_a_generator


def test_generator_is_refused_only_without_a_seed():
    assert "(NonDeterministicInts)" in refused(masked(lambda _: tff.federated_eval(generated(None), tff.SERVER)))
    build(masked(lambda _: tff.federated_eval(generated(7), tff.SERVER)))


def test_draw_in_a_function_and_clock_read_are_refused():
    @tf.function
    def inside():
        return tf.random.uniform([])

    assert "(RandomUniform)" in refused(
        masked(lambda _: tff.federated_eval(tff.tensorflow.computation(inside), tff.SERVER))
    )
    clock = tff.tensorflow.computation(lambda: tf.cast(tf.timestamp(), tf.float32))
    assert "(Timestamp)" in refused(masked(lambda _: tff.federated_eval(clock, tff.SERVER)))


def test_draw_from_a_seed_in_the_state_is_allowed():
    @tff.tensorflow.computation(np.float32)
    def from_seed(state):
        return tf.random.stateless_normal([], tf.cast(tf.stack([state, state]), tf.int32))

    build(masked(lambda state: tff.federated_map(from_seed, state)))


def test_two_separate_draws_of_one_kind_are_allowed():
    @tff.federated_computation(STATE, DATA)
    def computation(state, data):
        one, other = (tff.federated_eval(draw, tff.SERVER) for _ in range(2))
        mean = tff.federated_mean(tff.federated_map(add, (data, tff.federated_broadcast(one))))
        return state, tff.federated_map(add, (mean, other))

    build(computation)


def test_draw_without_placement_that_clients_share_is_refused():
    @tff.federated_computation(STATE, DATA)
    def computation(state, data):
        return state, tff.federated_mean(tff.federated_map(add, (data, tff.federated_value(draw(), tff.CLIENTS))))

    assert refused(computation) == (
        "Random numbers (RandomStandardNormal, of the type float32) are drawn outside the server and the clients "
        "and are used by the "
        "clients. In a MapReduce round every client would draw different numbers, but the computation passes the same "
        "ones to all. Draw them with tff.federated_eval(…, tff.CLIENTS) if every client needs separate numbers, or "
        "with tff.federated_eval(…, tff.SERVER) and tff.federated_broadcast if all share them."
    )


def test_draw_at_each_client_is_allowed():
    @tff.federated_computation(STATE, DATA)
    def computation(state, data):
        noise = tff.federated_eval(draw, tff.CLIENTS)
        return state, tff.federated_mean(tff.federated_map(add, (data, noise)))

    build(computation)
