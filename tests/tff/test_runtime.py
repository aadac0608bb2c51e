"""Checks the runtime's stages: the accepted data, and that calls are independent."""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from support.computations import every_client, every_dtype, every_value, integers, regression

from muster.author import build_plan
from muster.runtime import Runtime
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import encode


class Batch(NamedTuple):
    y: np.ndarray
    x: np.ndarray


@pytest.fixture(scope="module")
def learning(fed_avg_plan):
    runtime = Runtime(fed_avg_plan)
    return runtime, runtime.prepare(runtime.plan.initial_state())


@pytest.fixture(scope="module")
def counting():
    """Returns the runtime of a plan that counts integers per client, without a broadcast."""

    @tff.tensorflow.computation(tff.SequenceType(np.int32))
    def count(values):
        return values.reduce(tf.constant(0, tf.int64), lambda held, _: held + 1)

    @tff.federated_computation(tff.FederatedType(tff.SequenceType(np.int32), tff.CLIENTS))
    def total(values):
        return tff.federated_sum(tff.federated_map(count, values))

    return Runtime(build_plan(total))


def test_work_accepts_data_in_any_form(learning):
    runtime, broadcast = learning
    batches = regression(1)[0]
    rows = {key: np.concatenate([batch[key] for batch in batches]) for key in ("y", "x")}
    expected = encode(runtime.work(batches, broadcast))
    forms = [
        tf.data.Dataset.from_tensor_slices(rows).batch(4),
        (batch for batch in batches),
        [{"y": batch["y"], "x": batch["x"]} for batch in batches],
        tuple(Batch(x=batch["x"], y=batch["y"]) for batch in batches),
        [{key: tf.constant(value) for key, value in batch.items()} for batch in batches],
        [{key: value.tolist() for key, value in batch.items()} for batch in batches],
    ]
    assert [encode(runtime.work(form, broadcast)) for form in forms] == [expected] * len(forms)


def test_device_copy_of_a_plan_runs_only_work(learning):
    runtime, broadcast = learning
    device = Runtime(runtime.plan.for_client())
    assert device.work([], broadcast)["0/num_examples/0"] == 0  # of an empty data set
    with pytest.raises(ProblemError, match="lacks part"):
        device.zero()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            {"x": [[1.0, 2.0]], "y": [[1.0]]},
            r"data: expected .*iterable.*, got a dict \(a single batch goes into a list: \[batch\]\)",
        ),
        (3, r"data: expected a tf.data.Dataset or an iterable of elements, got a int"),
        ([{"x": [[1.0, 2.0]]}], r"data\[0\]: expected a structure of x, y, got a mapping of x"),
        ([{"x": [[1.0]], "y": [[1.0]]}], r"data\[0\]/x: expected float32\[\?,2\], got float32\[1,1\]"),
        (
            [{"x": np.ones((1, 2)), "y": [[1.0]]}],
            r"data\[0\]/x: expected float32\[\?,2\], got float64\[1,2\]; convert it with .astype\('float32'\)",
        ),
        ([{"x": "no", "y": [[1.0]]}], r"data\[0\]/x: expected float32\[\?,2\], got string"),
    ],
)
def test_mismatching_data_is_refused_with_its_path(learning, data, text):
    runtime, broadcast = learning
    with pytest.raises(ProblemError, match=text) as caught:
        runtime.work(data, broadcast)
    assert caught.value.type is ProblemType.INVALID_REQUEST


def test_error_of_reading_the_data_is_raised_unchanged(learning):
    runtime, broadcast = learning

    def failing():
        yield regression(1)[0][0]
        raise FileNotFoundError("the disk is gone")

    with pytest.raises(FileNotFoundError, match="the disk is gone"):
        runtime.work(failing(), broadcast)
    runtime.work(regression(1)[0], broadcast)  # the next call still works


def test_mismatching_tensors_are_refused_by_name(learning):
    runtime, _ = learning
    state = runtime.plan.initial_state()
    state["global_model_weights/trainable/1"] = np.zeros(2, np.float32)
    del state["client_work/learning_rate"]
    with pytest.raises(ProblemError) as caught:
        runtime.prepare(state)
    assert caught.value.detail == (
        "The state does not match the plan: global_model_weights/trainable/1: expected float32[1], got float32[2]; "
        "client_work/learning_rate: is missing; expected float32"
    )


def test_calls_and_threads_are_independent(learning):
    runtime, broadcast = learning
    clients = regression(2) * 4
    expected = [encode(runtime.work(client, broadcast)) for client in clients]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda client: encode(runtime.work(client, broadcast)), clients)) == expected


def test_strings_keep_their_nul_bytes():
    runtime = Runtime(build_plan(every_dtype(), initial_state=every_value(7)))
    state = runtime.plan.initial_state()
    assert state["text"].tolist() == [b"a", b"\xff\x00b"]
    update = runtime.work(every_client(1)[1], runtime.prepare(state))
    after = runtime.update(state, runtime.report(runtime.accumulate(runtime.zero(), update))).state
    assert after["text"].tolist() == [b"a-\x00", b"\xff\x00b\xc3\xa9"]


def test_generator_can_be_read_twice_as_a_data_set():
    @tff.tensorflow.computation(tff.SequenceType(np.int32))
    def twice(values):
        return values.repeat(2).reduce(0, lambda held, value: held + value) + values.reduce(0, lambda held, _: held + 1)

    @tff.federated_computation(tff.FederatedType(tff.SequenceType(np.int32), tff.CLIENTS))
    def total(values):
        return tff.federated_sum(tff.federated_map(twice, values))

    runtime = Runtime(build_plan(total))
    assert runtime.work((np.int32(value) for value in (1, 2, 3)), {})["0"] == 15


def test_tables_and_variables_are_new_in_every_call():
    @tff.tensorflow.computation(np.int64)
    def remember(value):
        table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, default_value=0)
        counter = tf.Variable(0, dtype=tf.int64)
        with tf.control_dependencies([table.insert(value, value), counter.assign_add(1)]):
            return table.size() + counter.read_value()

    @tff.federated_computation(tff.FederatedType(np.int64, tff.CLIENTS))
    def total(values):
        return tff.federated_sum(tff.federated_map(remember, values))

    runtime = Runtime(build_plan(total))
    assert [int(runtime.work(np.int64(value), {})["0"]) for value in (4, 5, 6)] == [2, 2, 2]


def test_seed_makes_random_stages_repeatable():
    @tff.tensorflow.computation(tff.SequenceType(np.int32))
    def draw(values):
        first = values.shuffle(100).take(1).reduce(0, lambda held, value: held + value)
        return tf.cast(first, tf.float32), tf.random.uniform([4])

    @tff.federated_computation(tff.FederatedType(tff.SequenceType(np.int32), tff.CLIENTS))
    def total(values):
        return tff.federated_sum(tff.federated_map(draw, values))

    plan = build_plan(total)
    data = list(np.arange(100, dtype=np.int32))

    def draws(seed):
        runtime = Runtime(plan, seed=seed)
        return [encode(runtime.work(data, {})) for _ in range(3)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)
    assert len(set(draws(1))) == 3  # the draws of the calls differ
    assert draws(None) != draws(None)


def test_failing_graph_is_a_computation_failure():
    @tff.tensorflow.computation(np.float32)
    def check(value):
        with tf.control_dependencies([tf.debugging.assert_positive(value, message="must be positive")]):
            return tf.identity(value)

    @tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
    def total(values):
        return tff.federated_sum(tff.federated_map(check, values))

    with pytest.raises(ProblemError, match=r"The plan's work failed: assertion failed: .must be positive") as caught:
        Runtime(build_plan(total)).work(np.float32(-1), {})
    assert caught.value.type is ProblemType.COMPUTATION_FAILED


def test_integers_are_counted_over_elements(counting):
    assert [int(counting.work(client, {})["0"]) for client in integers(1)] == [5, 0, 3, 9]
