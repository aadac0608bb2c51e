"""Follows the advice of each refusal and checks that the computation then builds."""

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from muster.author import Verdict, build_plan, check_plan
from muster.wire.problems import ProblemError

FLOAT_STATE, FLOATS = tff.FederatedType(np.float32, tff.SERVER), tff.FederatedType(np.float32, tff.CLIENTS)
MODEL = collections.OrderedDict(weight=tff.TensorType(np.float32, [2]), bias=np.float32)
MODEL_STATE = tff.FederatedType(MODEL, tff.SERVER)
DATA = [np.float32(1), np.float32(2), np.float32(6)]


@tff.tensorflow.computation(np.float32, np.float32)
def add(a, b):
    return a + b


@tff.tensorflow.computation(np.float32)
def half(a):
    return a / 2


@tff.tensorflow.computation(np.float32, MODEL)
def score(value, model):
    return collections.OrderedDict(loss=value * model["bias"], hits=tf.cast(value > model["weight"][0], tf.int32))


def computation(*types):
    return tff.federated_computation(*types)


def empty():
    return tff.federated_value((), tff.SERVER)


def scores(model, data):
    return tff.federated_map(score, (data, tff.federated_broadcast(model)))


@computation(FLOAT_STATE, FLOATS)
def state_alone(state, data):
    return tff.federated_map(add, (state, tff.federated_mean(data)))


@computation(FLOAT_STATE, FLOATS)
def state_with_empty_result(state, data):
    return tff.federated_map(add, (state, tff.federated_mean(data))), empty()


@computation(FLOAT_STATE, FLOATS)
def result_beside_state(state, data):
    return state, tff.federated_map(add, (state, tff.federated_mean(data)))


@computation(FLOAT_STATE, FLOATS)
def zipped(state, data):
    return tff.federated_zip((state, tff.federated_mean(data)))


@computation(FLOAT_STATE, FLOATS)
def zipped_beside_state(state, data):
    return state, tff.federated_zip((state, tff.federated_mean(data)))


@computation(FLOAT_STATE, FLOATS)
def pair(state, data):
    return state, tff.federated_mean(data)


@computation(FLOAT_STATE, FLOATS)
def three_zipped(state, data):
    return tff.federated_zip((tff.federated_mean(data), state, tff.federated_sum(data)))


@computation(FLOAT_STATE, FLOATS)
def three_results(state, data):
    return state, tff.federated_mean(data), tff.federated_sum(data)


@computation(FLOAT_STATE, FLOATS)
def joined(state, data):
    return state, tff.federated_zip((tff.federated_mean(data), tff.federated_sum(data)))


@computation(MODEL_STATE, FLOATS)
def swapped(model, data):
    return tff.federated_mean(data), model


@computation(MODEL_STATE, FLOATS)
def put_first(model, data):
    return model, tff.federated_mean(data)


@computation(FLOAT_STATE, FLOATS)
def at_clients(state, data):
    return state, tff.federated_map(half, data)


@computation(FLOAT_STATE, FLOATS)
def aggregated(state, data):
    return state, tff.federated_mean(tff.federated_map(half, data))


@computation(FLOAT_STATE, FLOATS)
def empty_in_its_place(state, data):
    del data
    return state, empty()


@computation(FLOATS)
def only_result_at_clients(data):
    return tff.federated_map(half, data)


@computation(FLOATS)
def only_result_aggregated(data):
    return tff.federated_mean(tff.federated_map(half, data))


@computation(FLOAT_STATE, FLOATS)
def nothing(state, data):
    del state, data
    return ()


@computation(FLOAT_STATE, FLOATS, FLOATS)
def two_from_clients(state, one, other):
    del other
    return state, tff.federated_mean(one)


@computation(FLOAT_STATE, tff.FederatedType((np.float32, np.float32), tff.CLIENTS))
def one_structure(state, both):
    return state, tff.federated_mean(both[0])


ADVICE = [
    ("return it with an empty result", state_alone, state_with_empty_result),
    ("return the state argument beside it", state_alone, result_beside_state),
    ("return them as a pair, without tff.federated_zip", zipped, pair),
    ("return the state argument beside it", zipped, zipped_beside_state),
    ("return that field first and join the others with tff.federated_zip", three_zipped, joined),
    ("Join the values of the result with tff.federated_zip", three_results, joined),
    ("put it first", swapped, put_first),
    ("Aggregate it", at_clients, aggregated),
    (r"return tff.federated_value\(\(\), tff.SERVER\) in its place", at_clients, empty_in_its_place),
    ("Aggregate it", only_result_at_clients, only_result_aggregated),
    (r"return tff.federated_value\(\(\), tff.SERVER\) in its place", nothing, empty_in_its_place),
    ("Make them one argument", two_from_clients, one_structure),
]


@pytest.mark.parametrize(("advice", "refused", "followed"), ADVICE, ids=[f"{at}" for at in range(len(ADVICE))])
def test_following_the_advice_makes_the_computation_build(advice, refused, followed):
    state = 0.5 if refused is not swapped else collections.OrderedDict(weight=[1.0, 2.0], bias=0.5)
    with pytest.raises(ProblemError, match=advice):
        build_plan(refused, initial_state=state)
    has_state = isinstance(followed.type_signature.parameter, tff.StructType)
    build_plan(followed, initial_state=state if has_state else None)


def test_declaring_argument_types_makes_the_computation_build():
    with pytest.raises(ProblemError, match="Pass one type for each argument to the decorator"):
        build_plan(tff.federated_computation(lambda data: tff.federated_mean(data)))  # noqa: PLW0108
    build_plan(tff.federated_computation(tff.federated_sum, tff.FederatedType(np.float32, tff.CLIENTS)))


EVALUATIONS = {
    "a structure": lambda model, data: tff.federated_sum(scores(model, data)),
    "one number": lambda model, data: tff.federated_mean(
        tff.federated_map(add_bias, (data, tff.federated_broadcast(model)))
    ),
    "several values": lambda model, data: collections.OrderedDict(
        scores=tff.federated_sum(scores(model, data)), mean=tff.federated_mean(data)
    ),
    "three values": lambda model, data: (
        tff.federated_sum(scores(model, data)),
        tff.federated_mean(data),
        tff.federated_sum(data),
    ),
}


@tff.tensorflow.computation(np.float32, MODEL)
def add_bias(value, model):
    return tf.cast(value + model["bias"], tf.float64)


@pytest.mark.parametrize("evaluate", EVALUATIONS.values(), ids=EVALUATIONS)
def test_evaluation_leaves_the_model_unchanged(evaluate):
    evaluation = tff.federated_computation(evaluate, MODEL_STATE, FLOATS)
    with pytest.raises(
        ProblemError, match=r"Pass initial_state \(.*\): an evaluation takes the model that it evaluates"
    ):
        build_plan(evaluation)
    model = collections.OrderedDict(weight=[1.0, 2.0], bias=0.5)
    check = check_plan(evaluation, DATA, rounds=2, initial_state=model)
    assert check.verdict is Verdict.SAME
    assert [spec.path for spec in build_plan(evaluation, initial_state=model).manifest.state] == ["weight", "bias"]


def test_state_of_changing_type_is_not_an_evaluation():
    @tff.tensorflow.computation(MODEL)
    def grow(model):
        return collections.OrderedDict(weight=tf.concat([model["weight"], [1.0]], 0), bias=model["bias"])

    @tff.federated_computation(MODEL_STATE, FLOATS)
    def growing(model, data):
        return tff.federated_map(grow, model), tff.federated_mean(data)

    with pytest.raises(ProblemError, match="weight is float32\\[2\\] in the argument and float32\\[3\\] in the result"):
        build_plan(growing)
