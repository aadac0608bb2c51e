"""A computation that is traced again, here or in another process, has the same address; and renaming changes no result."""

import collections
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from computations import SGD, fed_avg

from muster.author import Verdict, build_plan, check_plan
from muster.author.canonical import canonicalize
from muster.author.map_reduce_form import tensorflow_proto
from muster.runtime.graphs import load_graph

HERE = Path(__file__).parent


def summed(local, data_type):
    @tff.federated_computation(tff.FederatedType(data_type, tff.CLIENTS))
    def total(values):
        return tff.federated_sum(tff.federated_map(local, values))

    return total


def table():
    """A table that is used within the loop over the data and after it. TensorFlow names it at random."""

    @tff.tensorflow.computation(tff.SequenceType(np.str_))
    def count(words):
        numbers = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a", "b"], [1, 2]), 0)
        inside = words.reduce(np.int32(0), lambda held, word: held + numbers.lookup(word))
        return tf.ensure_shape(
            inside + numbers.lookup(tf.constant("b")), []
        )  # import_graph_def forgets a lookup's shape

    return summed(count, tff.SequenceType(np.str_))


def mutable_table():
    @tff.tensorflow.computation(tff.SequenceType(np.int64))
    def distinct(values):
        seen = tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, default_value=0)

        def step(held, value):
            with tf.control_dependencies([seen.insert(value, value)]):
                return held + 1

        with tf.control_dependencies([values.reduce(np.int64(0), step)]):
            return seen.size()

    return summed(distinct, tff.SequenceType(np.int64))


def keras():
    """Layers whose names Keras counts, loops whose arguments are named by a counter, and weights from a fixed seed."""
    spec = collections.OrderedDict(x=tf.TensorSpec([None, 4], tf.float32), y=tf.TensorSpec([None, 1], tf.float32))

    def model_fn():
        tf.keras.utils.set_random_seed(3)
        layers = tf.keras.layers
        stack = [
            layers.InputLayer((4,)),
            layers.Reshape((4, 1)),
            layers.LSTM(2, dropout=0.1),
            layers.BatchNormalization(),
        ]
        model = tf.keras.Sequential([*stack, layers.Dense(1)])
        return tff.learning.models.from_keras_model(model, loss=tf.keras.losses.MeanSquaredError(), input_spec=spec)

    return tff.learning.algorithms.build_weighted_fed_avg(model_fn, SGD(0.1), SGD(1.0))


def arguments():
    """Functions within functions, with variables and arguments that are named in the order of tracing."""

    @tf.function
    def inner(x, y):
        return tf.while_loop(lambda at, _: at < 3, lambda at, held: (at + 1, held * y), (0, x))[1]

    @tff.tensorflow.computation(np.float32)
    def work(value):
        doubled = tf.Variable(2.0)
        return tf.cond(value > 0, lambda: inner(value, doubled.read_value()), lambda: inner(inner(value, value), 1.0))

    return summed(work, np.float32)


def drawing():
    @tff.tensorflow.computation
    def draw():
        return tf.random.normal([3])

    @tff.federated_computation(
        tff.FederatedType(tff.TensorType(np.float32, [3]), tff.SERVER), tff.FederatedType(np.float32, tff.CLIENTS)
    )
    def next_fn(state, data):
        return state, tff.federated_mean(data)

    initialize = tff.federated_computation(lambda: tff.federated_eval(draw, tff.SERVER))
    return tff.templates.IterativeProcess(initialize, next_fn)


TRACED = {
    "table": table,
    "mutable_table": mutable_table,
    "keras": keras,
    "arguments": arguments,
    "drawing": drawing,
}


def addresses():
    return {name: build_plan(build(), seed=5).sha256 for name, build in TRACED.items()}


@pytest.fixture(scope="module")
def here():
    return addresses()


def test_the_same_computation_traced_again_has_the_same_address(here):
    assert addresses() == here


def test_another_process_gives_the_same_address(here):
    # It traces other things first, and its sets have another order.
    code = (
        f"import sys; sys.path.insert(0, {str(HERE)!r}); import test_addresses as t; t.build_plan(t.arguments()); "
        "[print(name, address) for name, address in t.addresses().items()]"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(  # noqa: S603  our own code
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=250, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert dict(line.split() for line in done.stdout.splitlines()) == here


@pytest.mark.parametrize("name", ["table", "mutable_table", "arguments"])
def test_a_renamed_graph_computes_what_tff_does(name):
    data = {
        "table": [[b"a", b"b", b"x"], [b"b"]],
        "mutable_table": [[np.int64(1), np.int64(1), np.int64(5)], [np.int64(3)]],
        "arguments": [np.float32(2), np.float32(-3)],
    }
    assert check_plan(TRACED[name](), data[name], rounds=1).verdict is Verdict.SAME


@pytest.mark.parametrize("build", [table, mutable_table, arguments], ids=["table", "mutable_table", "arguments"])
def test_no_name_of_the_author_or_of_a_counter_is_left(build):
    plan = build_plan(build())
    graph = load_graph(plan.part(plan.manifest.stages.work.graph))
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        for node in nodes:
            assert node.name.rpartition("_")[0] == node.op
            assert not node.attr["shared_name"].s or node.attr["shared_name"].s.startswith(b"resource_")
    for function in graph.library.function:
        assert all(item.name == f"arg_{at}" for at, item in enumerate(function.signature.input_arg))


def test_resources_that_were_apart_stay_apart_and_shared_ones_shared():
    """Names of nodes that TensorFlow takes for a resource's: equal ones in two functions mean one resource."""
    graph = tf.compat.v1.GraphDef()
    for name, shared in (("queue", ""), ("queue_1", ""), ("named", "queue"), ("other", "x")):
        node = graph.node.add(name=name, op="FIFOQueueV2")
        node.attr["shared_name"].s = shared.encode()
        node.attr["component_types"].list.type.append(tf.float32.as_datatype_enum)
    found = canonicalize(graph)
    names = [node.attr["shared_name"].s for node in found.graph.node]
    assert names[0] == names[2]
    assert len({*names}) == 3
    assert found.tensor("named:0") == "FIFOQueueV2_2:0"


def test_renaming_twice_changes_nothing():
    form = tff.backends.mapreduce.get_map_reduce_form_for_computation(fed_avg().next)
    once = canonicalize(load_graph(tensorflow_proto(form.work).graph_def.value)).graph
    assert canonicalize(once).graph == once
