"""Checks the full texts of refusals of computations that do not fit one round."""

import collections
import traceback

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from muster.author import build_plan
from muster.author.refusals import explain_compilation_error
from muster.wire.problems import ProblemError, ProblemType

STATE, DATA = tff.FederatedType(np.float32, tff.SERVER), tff.FederatedType(np.float32, tff.CLIENTS)
ROUND = "A round is (S@SERVER, {D}@CLIENTS) -> (S@SERVER, R@SERVER), or {D}@CLIENTS -> R@SERVER without a state"


@tff.tensorflow.computation(np.float32, np.float32)
def add(a, b):
    return a + b


@tff.tensorflow.computation(np.float32, np.float32)
def subtract(a, b):
    return a - b


@tff.tensorflow.computation(np.float32)
def half(a):
    return a / 2


def refused(computation, **options):
    with pytest.raises(ProblemError) as caught:
        build_plan(computation, **{"initial_state": 0.0, **options})
    assert caught.value.type is ProblemType.PLAN_INVALID
    return caught.value.detail


def round_of(*arguments):
    return tff.federated_computation(*arguments)


def test_no_computation():
    assert refused(lambda state: state) == (
        "The argument is a function, not a TFF computation. Pass a tff.learning process, a "
        "tff.templates.IterativeProcess or a function decorated with @tff.federated_computation."
    )


def test_no_types():
    assert refused(tff.federated_computation(lambda data: tff.federated_mean(data))) == (  # noqa: PLW0108
        "The computation declares no types for its arguments. Pass one type for each argument to the decorator: "
        "@tff.federated_computation(tff.FederatedType(state_type, tff.SERVER), tff.FederatedType(data_type, "
        "tff.CLIENTS)), or only the type of the clients' data if there is no server state."
    )


def test_no_argument():
    @tff.federated_computation
    def constant():
        return tff.federated_value(1.0, tff.SERVER)

    assert refused(constant) == f"The computation takes no argument, so there is nothing for clients to do. {ROUND}."


def test_three_arguments():
    @round_of(STATE, DATA, STATE)
    def three(server_state, data, rate):  # noqa: ARG001
        return server_state, tff.federated_mean(data)

    assert refused(three) == (
        "The computation takes 3 arguments (server_state, data, rate), but a round takes two: the server state, "
        f"then the clients' data. {ROUND}. Put other inputs of the server into its state."
    )


def test_two_client_arguments():
    @round_of(STATE, DATA, DATA)
    def two(state, images, labels):  # noqa: ARG001
        return state, tff.federated_mean(images)

    assert refused(two) == (
        "The computation takes 2 arguments from clients, argument 2 (images) and argument 3 (labels), but a "
        "client contributes one value to a round. Make them one argument: a structure placed at the clients with "
        "a field for each."
    )


def test_arguments_in_the_wrong_order():
    @round_of(DATA, STATE)
    def swapped(data, state):
        return state, tff.federated_mean(data)

    assert refused(swapped) == (
        "Argument 1 (data) is placed at the clients, {float32}@CLIENTS, but a round takes the server state "
        "there. Take the server state first and the clients' data second."
    )


def test_nothing_from_clients():
    @round_of(STATE, STATE)
    def servers(state, rate):
        return state, rate

    assert refused(servers) == (
        "Argument 2 (rate) is placed at the server, float32@SERVER, but a round takes the clients' data there, "
        f"so there is nothing for clients to do. {ROUND}. Put other inputs of the server into its state."
    )


def test_argument_without_placement():
    @round_of(np.float32, DATA)
    def unplaced(state, data):
        return tff.federated_value(state, tff.SERVER), tff.federated_mean(data)

    assert refused(unplaced) == (
        "Argument 1 (state) has no placement: float32. A round takes the server state placed at the server and "
        "the data placed at the clients. Declare the placement with tff.FederatedType."
    )


def test_one_result():
    @round_of(STATE, DATA)
    def one(state, data):
        return tff.federated_map(add, (state, tff.federated_mean(data)))

    assert refused(one) == (
        "The computation returns one value, float32@SERVER, but a round returns two: the next state and a "
        "result. If it is the next state, return it with an empty result, (state, tff.federated_value((), "
        "tff.SERVER)). If it is a result, return the state argument beside it, (state, result)."
    )


def test_two_results_zipped_into_one():
    @round_of(STATE, DATA)
    def zipped(state, data):
        return tff.federated_zip((state, tff.federated_mean(data)))

    assert refused(zipped) == (
        "The computation returns one value with two fields, <float32,float32>@SERVER, but a round returns two "
        "values, the next state and the result, each placed at the server. If one field is the next state, "
        "return them as a pair, without tff.federated_zip. If it is a result, return the state argument beside "
        "it, (state, result)."
    )


def test_three_results():
    @round_of(STATE, DATA)
    def three(state, data):
        return collections.OrderedDict(state=state, mean=tff.federated_mean(data), total=tff.federated_sum(data))

    assert refused(three) == (
        "The computation returns 3 values (state, mean, total), but a round returns two: the next state and a "
        "result. Join the values of the result with tff.federated_zip."
    )


def test_results_without_placement():
    @round_of(STATE, DATA)
    def nested(state, data):
        return state, (tff.federated_mean(data), tff.federated_sum(data))

    assert refused(nested) == (
        "The second result has no placement: <float32@SERVER,float32@SERVER>. Place it at the server with "
        "tff.federated_value or tff.federated_eval, and join several values with tff.federated_zip."
    )


def test_results_at_clients():
    @round_of(STATE, DATA)
    def personal(state, data):
        return collections.OrderedDict(state=state, models=tff.federated_map(half, data))

    text = (
        " is placed at the clients, {float32}@CLIENTS, but a round returns only aggregates, never the value of a "
        "single client. Aggregate it (tff.federated_sum, tff.federated_mean, …)"
    )
    instead = ", or return tff.federated_value((), tff.SERVER) in its place."
    assert refused(personal) == f"The second result (models){text}{instead}"
    only = tff.federated_computation(lambda data: tff.federated_map(half, data), DATA)
    assert refused(only) == f"The result{text}."  # it is the only result

    @round_of(DATA)
    def several(data):
        return collections.OrderedDict(mean=tff.federated_mean(data), halves=tff.federated_map(half, data))

    assert refused(several) == f"Result 2 (halves){text}, or leave it out."


def test_state_of_changing_type():
    before = collections.OrderedDict(
        step=np.int32, weights=collections.OrderedDict(kernel=tff.TensorType(np.float32, [3]), bias=np.float32)
    )

    @tff.tensorflow.computation(before)
    def grow(state):
        state["weights"]["kernel"] = tf.concat([state["weights"]["kernel"], [1.0]], 0)
        return state

    @round_of(tff.FederatedType(before, tff.SERVER), DATA)
    def growing(state, data):
        return tff.federated_map(grow, state), tff.federated_mean(data)

    assert refused(growing) == (
        "The server state changes its type from round to round: weights/kernel is float32[3] in the argument and "
        "float32[4] in the result, so the next round could not take this round's state. Return the state with "
        "the type of the argument. Declare a dimension that changes as None."
    )


def test_federated_select():
    @tff.tensorflow.computation(np.float32)
    def keys(_):
        return tf.constant([0, 1])

    @tff.tensorflow.computation(np.float32, np.int32)
    def pick(state, _):
        return state

    @tff.tensorflow.computation(tff.SequenceType(np.float32))
    def total(slices):
        return slices.reduce(0.0, lambda a, b: a + b)

    @round_of(STATE, DATA)
    def selecting(state, data):
        slices = tff.federated_select(tff.federated_map(keys, data), tff.federated_value(2, tff.SERVER), state, pick)
        return state, tff.federated_mean(tff.federated_map(total, slices))

    assert refused(selecting) == (
        "The computation calls tff.federated_select, which sends each client a different selection of slices, "
        "{float32*}@CLIENTS. A round has one broadcast, the same for all clients. Broadcast the whole value with "
        "tff.federated_broadcast and select the slices on the client."
    )


def test_broadcast_that_depends_on_an_aggregate():
    @round_of(STATE, DATA)
    def two_passes(state, data):
        mean = tff.federated_mean(data)
        offsets = tff.federated_map(subtract, (data, tff.federated_broadcast(mean)))
        return state, tff.federated_sum(offsets)

    assert refused(two_passes) == (
        "The computation takes more than one pass over the clients: tff.federated_broadcast sends them a value "
        "of the type float32 that depends on tff.federated_mean, which needs the values of all of them first, "
        "and tff.federated_sum aggregates their answers again. A round broadcasts once, then aggregates once. "
        "Store the first aggregate in the server state and use it in the next round."
    )


def test_unsupported_operator():
    @tff.federated_computation(tff.SequenceType(np.float32))
    def total(values):
        return tff.sequence_sum(values)

    @round_of(STATE, tff.FederatedType(tff.SequenceType(np.float32), tff.CLIENTS))
    def sums(state, data):
        return state, tff.federated_sum(tff.federated_map(total, data))

    assert refused(sums) == (
        "The computation calls tff.sequence_sum, which MapReduceForm does not support. Write that step in "
        "TensorFlow (@tff.tensorflow.computation) and apply it with tff.federated_map, or use another "
        "aggregation."
    )


def test_local_computation_that_is_not_tensorflow():
    doubled = tff.jax.computation(lambda value: value * 2, np.float32)

    @round_of(STATE, DATA)
    def computation(state, data):
        return state, tff.federated_mean(tff.federated_map(doubled, data))

    assert refused(computation) == (
        "A local computation of the type (float32 -> float32) is compiled to XLA, but a plan consists of "
        "TensorFlow graphs. Write it with @tff.tensorflow.computation."
    )


def test_unknown_reason_quotes_the_first_line_of_tff():
    @round_of(STATE, DATA)
    def fine(state, data):
        return state, tff.federated_mean(data)

    error = explain_compilation_error(ValueError("It does not split.\n(_var1 -> comp#d344cd56)"), fine)
    assert error.type is ProblemType.PLAN_INVALID
    assert error.detail == (
        "TFF can't compile the computation to one MapReduce round. Its reason: ValueError: It does not split."
    )


@pytest.mark.parametrize(
    "text",
    [
        "Expected _var1 to be assignable",
        "We expect to parse down to a `building_blocks.CompiledComputation`, since",
        "Instead we have the computation comp#d344cd56 of type",
        "fc_f_symbol_0 is not defined",
        "(let a=1 in a)",
        'Type mismatch loading graph result tensor Tensor("subcomputation/Identity:0", dtype=int32)',
        "",
    ],
)
def test_tff_text_with_generated_names_is_not_quoted(text):
    @round_of(STATE, DATA)
    def fine(state, data):
        return state, tff.federated_mean(data)

    assert explain_compilation_error(TypeError(text), fine).detail == (
        "TFF can't compile the computation to one MapReduce round (TypeError). A round broadcasts once, runs the "
        "clients' work, aggregates once and then computes at the server. To find the step that does not fit, "
        "build the computation with fewer steps. TFF's own text is the __context__ of this exception."
    )


def test_tff_traceback_is_not_printed():
    @round_of(STATE, DATA)
    def two_passes(state, data):
        offsets = tff.federated_map(subtract, (data, tff.federated_broadcast(tff.federated_mean(data))))
        return state, tff.federated_sum(offsets)

    with pytest.raises(ProblemError) as caught:
        build_plan(two_passes, initial_state=0.0)
    shown = "".join(traceback.format_exception(caught.value))
    assert "tensorflow_federated" not in shown
    assert "more than one pass over the clients" in shown
    assert caught.value.__context__ is not None  # TFF's error remains available


def test_state_as_second_result():
    before = collections.OrderedDict(a=np.float32, b=np.float32)

    @round_of(tff.FederatedType(before, tff.SERVER), DATA)
    def swapped(state, data):
        return tff.federated_mean(data), state

    assert refused(swapped) == (
        "The second result has the state's type, and the first does not. A round returns the next state first: "
        "put it first."
    )


ADVICE = (
    "A plan runs on other people's machines, so its graphs may not touch files, the network, Python or the host. "
    "Pass what the computation needs as client data or server state, or build it into the graph as constants."
)


def test_client_that_reads_a_file():
    @tff.tensorflow.computation(np.float32)
    def read(value):
        return value + tf.strings.to_number(tf.io.read_file("/etc/hostname"))

    @round_of(STATE, DATA)
    def computation(state, data):
        return state, tff.federated_mean(tff.federated_map(read, data))

    assert refused(computation) == (
        "The plan's work can't be used: the operation ReadFile at node subcomputation/ReadFile reads or writes files. "
        + ADVICE
    )
