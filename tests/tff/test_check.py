"""Checks the verdicts of `check_plan` on random draws, clock reads and row orders."""

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from support.computations import (
    PERSONALIZED,
    SGD,
    integers,
    personal_clients,
    personalization,
    regression,
    reservoir,
    words,
)

from muster.author import Verdict, build_plan, check_plan, restore_result, restore_state
from muster.author.check import compare, run_round
from muster.author.difference import difference, reordered_rows
from muster.author.draws import DrawFlow
from muster.author.fixed_draws import fix_draws
from muster.runtime import Runtime
from muster.runtime.graphs import load_graph
from muster.wire.problems import ProblemError

FLOATS = tff.FederatedType(tff.SequenceType(np.float32), tff.CLIENTS)


def summed(function, data_type=np.float32):
    """Returns a computation that sums a function of each client's data."""
    local = tff.tensorflow.computation(function, tff.SequenceType(data_type))

    @tff.federated_computation(tff.FederatedType(tff.SequenceType(data_type), tff.CLIENTS))
    def total(values):
        return tff.federated_sum(tff.federated_map(local, values))

    return total


def floats(*counts):
    return [[np.float32(value) for value in range(count)] for count in counts]


def keras(*layers):
    spec = collections.OrderedDict(x=tf.TensorSpec([None, 2], tf.float32), y=tf.TensorSpec([None, 1], tf.float32))

    def model_fn():
        model = tf.keras.Sequential([tf.keras.layers.InputLayer((2,)), *(make() for make in layers)])
        return tff.learning.models.from_keras_model(model, loss=tf.keras.losses.MeanSquaredError(), input_spec=spec)

    return tff.learning.algorithms.build_weighted_fed_avg(model_fn, SGD(0.05), SGD(1.0))


def test_computation_without_draws_is_same():
    check = check_plan(
        summed(lambda values: values.reduce(0.0, lambda total, value: total + value)), floats(2, 3), rounds=2
    )
    assert check.verdict is Verdict.SAME
    assert (check.sources, check.fixed, len(check)) == ((), (), 2)


def test_dropout_is_same_but_random_and_named_as_the_source():
    layers = tf.keras.layers
    process = keras(lambda: layers.Dropout(0.5), lambda: layers.Dense(1, kernel_initializer="ones"))
    check = check_plan(process, regression(1, sizes=(8, 8)), rounds=2)
    assert check.verdict is Verdict.SAME_BUT_RANDOM
    (source,) = check.sources
    assert (source.stage, source.operations, source.names) == ("work", ("RandomUniform",), ("dropout",))
    assert "global_model_weights/trainable/0" in source.state
    assert "client_work/learning_rate" not in source.state
    assert max(difference.relative for difference in check.rounds) > 1e-3  # each side drew separate masks
    assert check.worst <= 1e-5  # with equal masks they agree
    assert check.not_compared == ()


def test_random_layers_are_same_but_random():
    layers = tf.keras.layers
    process = keras(
        lambda: layers.GaussianNoise(0.3),
        lambda: layers.Reshape((1, 2, 1)),
        layers.RandomFlip,
        lambda: layers.Reshape((2, 1)),
        lambda: layers.LSTM(2, dropout=0.3, recurrent_dropout=0.2),
        lambda: layers.Dense(1),
    )
    check = check_plan(process, regression(1, sizes=(8, 4)), rounds=1)
    assert check.verdict is Verdict.SAME_BUT_RANDOM
    assert check.not_compared == ()


DRAWS = {
    "uniform": lambda: tf.random.uniform([]),
    "uniform_integers": lambda: tf.cast(tf.random.uniform([], 0, 1000, tf.int32), tf.float32),
    "normal": lambda: tf.random.normal([]),
    "truncated": lambda: tf.random.truncated_normal([]),
    "gamma": lambda: tf.reduce_sum(tf.random.gamma([2], [1.5, 3.0])),
    "poisson": lambda: tf.reduce_sum(tf.random.poisson([3], [2.0])),
    "categorical": lambda: tf.cast(tf.reduce_sum(tf.random.categorical([[0.5, 0.5, 0.1]], 4)), tf.float32),
    "shuffled_tensor": lambda: tf.random.shuffle(tf.range(5.0))[0],
    "clock": lambda: tf.cast(tf.timestamp() % 100, tf.float32),
    "system": lambda: tf.cast(tf.raw_ops.NonDeterministicInts(shape=[1], dtype=tf.int32)[0] % 100, tf.float32),
}


@pytest.mark.parametrize("inside", [True, False], ids=["in a loop", "at the top"])
def test_every_kind_of_draw_is_fixed_on_both_sides(inside):
    def step(totals, value):
        return collections.OrderedDict((name, totals[name] * 0.5 + value + draw()) for name, draw in DRAWS.items())

    def work(values):
        if inside:
            return values.reduce(collections.OrderedDict.fromkeys(DRAWS, 0.0), step)
        total = values.reduce(0.0, lambda total, value: total + value)
        return collections.OrderedDict((name, total + draw()) for name, draw in DRAWS.items())

    check = check_plan(summed(work), floats(3, 2, 1, 4), rounds=1)
    assert check.verdict is Verdict.SAME_BUT_RANDOM
    assert {path for source in check.sources for path in source.result} == set(DRAWS)
    assert check.not_compared == ()
    assert check.worst <= 1e-5


def shuffled(values):
    return values.shuffle(10).reduce(0.0, lambda total, value: total * 0.5 + value)


def shuffled_twice(values):
    return (
        values.shuffle(10, reshuffle_each_iteration=True)
        .repeat(2)
        .reduce(0.0, lambda total, value: total * 0.5 + value)
    )


@pytest.mark.parametrize("work", [shuffled, shuffled_twice])
def test_shuffled_data_is_same_but_random(work):
    check = check_plan(summed(work), floats(9, 8), rounds=1)
    assert check.verdict is Verdict.SAME_BUT_RANDOM
    assert check.not_compared == ()


def test_server_noise_is_attributed_to_the_update_stage(noisy_plan, noisy_process):
    check = compare(noisy_plan, noisy_process, regression(1), rounds=1)
    assert check.verdict is Verdict.SAME_BUT_RANDOM
    assert [(source.stage, source.operations) for source in check.sources] == [("update", ("RandomStandardNormal",))]


def test_row_order_and_clock_reads_are_not_differences(heavy_hitters_plan, heavy_hitters_process):
    check = compare(heavy_hitters_plan, heavy_hitters_process, words, rounds=1)
    assert check.verdict is Verdict.SAME_BUT_RANDOM
    (source,) = check.sources
    assert (source.stage, source.reads_clock) == ("update", True)
    assert {"round_timestamp", "heavy_hitters"} <= set(source.result)


def test_draws_of_the_fold_are_compared_over_a_single_partial():
    clients = [np.array([at, -at], np.float32) for at in range(7)]
    check = check_plan(reservoir(size=3), clients, rounds=2)
    assert check.verdict is Verdict.SAME_BUT_RANDOM
    assert [source.stage for source in check.sources] == ["accumulate"]
    assert check.not_compared == ()


def test_personalization_evaluates_a_sample_of_clients():
    process = personalization()
    plan = build_plan(process, initial_state=PERSONALIZED)
    check = compare(plan, process, personal_clients, rounds=1)
    assert check.verdict is Verdict.SAME_BUT_RANDOM
    assert check.not_compared == ()
    assert isinstance(restore_state(process, plan.initial_state()), tff.learning.models.ModelWeights)
    runtime = Runtime(plan)
    result = restore_result(process, run_round(runtime, plan.initial_state(), personal_clients(1)).result)
    assert sorted(result["plain"]["batches"].tolist()) == [2, 4, 5, 7, 9]  # each client's examples
    assert set(result["plain"]["weights"].tolist()) == {4.0}


def test_only_tensors_of_unfixable_draws_are_not_compared():
    @tff.tensorflow.computation(tff.SequenceType(np.int32))
    def work(values):
        total = values.reduce(0, lambda total, value: total + value)
        sampled = tf.random.uniform_candidate_sampler([[tf.cast(total, tf.int64)]], 1, 4, unique=True, range_max=100)
        return collections.OrderedDict(total=total, sampled=tf.cast(tf.reduce_sum(sampled[0]), tf.int32))

    @tff.federated_computation(tff.FederatedType(tff.SequenceType(np.int32), tff.CLIENTS))
    def computation(values):
        return tff.federated_sum(tff.federated_map(work, values))

    check = check_plan(computation, integers, rounds=1)
    assert check.verdict is Verdict.SAME_BUT_RANDOM
    assert check.not_compared == ("sampled",)
    assert [source.operations for source in check.sources] == [("UniformCandidateSampler",)]


@pytest.mark.parametrize("where", ["what is drawn", "the rest"])
def test_wrong_plan_is_different_even_if_it_draws(where):

    def of(scale, shift):
        @tff.tensorflow.computation(tff.SequenceType(np.float32))
        def work(values):
            total = values.reduce(0.0, lambda total, value: total + value)
            return collections.OrderedDict(noisy=total * scale + tf.random.uniform([]), exact=total + shift)

        @tff.federated_computation(FLOATS)
        def computation(values):
            return tff.federated_sum(tff.federated_map(work, values))

        return computation

    wrong = build_plan(of(1.5, 0.0) if where == "what is drawn" else of(1.0, 1.0))
    check = compare(wrong, of(1.0, 0.0), floats(3, 4), rounds=1)
    assert check.verdict is Verdict.DIFFERENT
    assert check.worst > 1e-2


def test_unused_draw_is_not_a_source():
    def work(values):
        unused = tf.random.uniform([])
        with tf.control_dependencies([unused]):
            return values.reduce(0.0, lambda total, value: total + value)

    computation = summed(work)
    plan = build_plan(computation)
    assert DrawFlow(plan).rounds(1)[0].result == {}
    assert compare(plan, computation, floats(2), rounds=1).verdict is Verdict.SAME


def test_draw_affects_results_only_from_the_next_round(noisy_plan):
    first, second = DrawFlow(noisy_plan).rounds(2)
    assert "client_work/train/loss" not in first.result
    assert "client_work/train/loss" in second.result


def test_fixing_does_not_change_a_graph_without_draws(fed_avg_plan):
    graph = load_graph(fed_avg_plan.part(fed_avg_plan.manifest.stages.work.graph))
    before = graph.SerializeToString(deterministic=True)
    assert fix_draws(graph) == frozenset()
    assert graph.SerializeToString(deterministic=True) == before


def test_check_accepts_every_form_of_clients_data():
    computation = summed(lambda values: values.reduce(0.0, lambda total, value: total + value))
    plan = build_plan(computation)
    lists = floats(2, 3)
    forms = [
        lists,
        {"ann": lists[0], "bob": lists[1]},
        lambda: lists,
        lambda number: lists[: number + 1],
        [iter(source) for source in lists],
        [tf.data.Dataset.from_tensor_slices(np.array(source, np.float32)) for source in lists],
    ]
    for form in forms:
        assert compare(plan, computation, form, rounds=2).verdict is Verdict.SAME


def test_shuffling_data_sets_are_read_once_for_both_sides(fed_avg_plan, fed_avg_process):
    def client(number):
        rows = {key: np.concatenate([batch[key] for batch in regression(number, sizes=(7,))[0]]) for key in ("x", "y")}
        dataset = tf.data.Dataset.from_tensor_slices(collections.OrderedDict(x=rows["x"], y=rows["y"]))
        return dataset.shuffle(100, reshuffle_each_iteration=True).batch(2)  # the last batch has one example

    check = compare(fed_avg_plan, fed_avg_process, [client(1), client(2)], rounds=2)
    assert check.verdict is Verdict.SAME


def test_data_of_a_single_client_gets_a_hint(fed_avg_plan, fed_avg_process):
    data = [{"x": np.ones((2, 2), np.float32), "y": np.ones((2, 1), np.float32)}]
    with pytest.raises(ProblemError, match=r"that of one client, where a list of clients' data is needed: .*\[data\]"):
        compare(fed_avg_plan, fed_avg_process, data, rounds=1)


def test_rows_of_a_table_are_compared_as_a_whole():
    words_ = np.array([b"a", b"b", b"c"], object)
    one = {"word": words_, "count": np.array([1, 2, 3]), "other/count": np.array([1, 2, 3])}
    moved = {"word": words_[::-1], "count": np.array([3, 2, 1]), "other/count": np.array([1, 2, 3])}
    assert reordered_rows(one, moved, paths=one) == {"word", "count"}
    wrong = {**moved, "count": np.array([1, 2, 3])}  # the same words and counts, but not the same pairs
    assert reordered_rows(one, wrong, paths=one) == frozenset()
    assert difference(one, moved, without={"word", "count"}).relative == 0
