"""Checks that calls of a stage are independent, end at limits and signals, and draw as seeded."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from tensorflow.python.data.ops import dataset_ops

from muster.author import build_plan
from muster.runtime import CancelledError, Runtime
from muster.runtime.calls import run_in_thread
from muster.runtime.graphs import StageGraph, holds_state
from muster.wire.dtypes import DType
from muster.wire.manifest import SequenceBinding, Stage, TensorBinding, TensorType
from muster.wire.plan import part_of
from muster.wire.problems import ProblemError, ProblemType, TimeLimitError
from muster.wire.tensors import encode

LONG = 100.0  # seconds; no test takes so long


def stage_graph(build, *, name="work", dtype=DType.INT32, initialize=None, inputs=None):
    """Builds the graph whose output is the tensor that `build` returns."""
    with tf.Graph().as_default() as graph:
        tf.identity(build(), name="out")
    output = TensorBinding(path="x", dtype=dtype, shape=None, tensor="out:0")
    stage = Stage(graph=part_of(b""), inputs=inputs or {}, outputs={"update": (output,)}, initialize=initialize)
    return StageGraph(graph.as_graph_def(), stage=stage, name=name)


def run(graph, **more):
    return graph.run({}, **more)["update"]["x"]


# State that a session holds.


def variable():
    handle = tf.raw_ops.VarHandleOp(dtype=tf.int32, shape=[], shared_name="held")
    before = tf.raw_ops.VarIsInitializedOp(resource=handle)
    with tf.control_dependencies([before]):
        put = tf.raw_ops.AssignVariableOp(resource=handle, value=tf.constant(7))
    with tf.control_dependencies([put]):
        return tf.cast(before, tf.int32)


def table():
    made = tf.raw_ops.MutableHashTableV2(key_dtype=tf.int64, value_dtype=tf.int32, shared_name="held")
    before = tf.raw_ops.LookupTableSizeV2(table_handle=made)
    with tf.control_dependencies([before]):
        put = tf.raw_ops.LookupTableInsertV2(
            table_handle=made, keys=tf.constant(1, tf.int64), values=tf.constant(1, tf.int32)
        )
    with tf.control_dependencies([put]):
        return tf.cast(before, tf.int32)


def static_table():
    made = tf.raw_ops.HashTableV2(key_dtype=tf.int64, value_dtype=tf.int32, shared_name="held")
    before = tf.raw_ops.LookupTableSizeV2(table_handle=made)
    with tf.control_dependencies([before]):
        put = tf.raw_ops.InitializeTableV2(table_handle=made, keys=tf.constant([1], tf.int64), values=tf.constant([1]))
    with tf.control_dependencies([put]):
        return tf.cast(before, tf.int32)


def iterator():
    data = tf.data.Dataset.range(100)
    made = tf.raw_ops.IteratorV2(shared_name="held", container="", output_types=[tf.int64], output_shapes=[[]])
    initialized = tf.raw_ops.VarIsInitializedOp(
        resource=tf.raw_ops.VarHandleOp(dtype=tf.int32, shape=[], shared_name="i")
    )

    def start():
        variable = tf.raw_ops.VarHandleOp(dtype=tf.int32, shape=[], shared_name="i")
        make = tf.raw_ops.MakeIterator(dataset=data._variant_tensor, iterator=made)
        with tf.control_dependencies([make, tf.raw_ops.AssignVariableOp(resource=variable, value=tf.constant(1))]):
            return tf.constant(0)

    with tf.control_dependencies([tf.cond(initialized, lambda: tf.constant(0), start)]):
        got = tf.raw_ops.IteratorGetNext(iterator=made, output_types=[tf.int64], output_shapes=[[]])
    return tf.cast(got[0], tf.int32)


def one_shot_iterator():
    return tf.cast(tf.compat.v1.data.make_one_shot_iterator(tf.data.Dataset.range(100)).get_next(), tf.int32)


def queue():
    made = tf.queue.FIFOQueue(9, [tf.int32], [[]], shared_name="held")
    before = made.size()
    with tf.control_dependencies([before]), tf.control_dependencies([made.enqueue(1)]):
        return tf.identity(before)


def staged():
    before = tf.raw_ops.StageSize(dtypes=[tf.int32], shared_name="held")
    with tf.control_dependencies([before]), tf.control_dependencies([tf.raw_ops.Stage(values=[1], shared_name="held")]):
        return tf.identity(before)


def stored_map():
    before = tf.raw_ops.MapSize(dtypes=[tf.int32], shared_name="held")
    with tf.control_dependencies([before]):
        put = tf.raw_ops.MapStage(
            key=tf.constant(1, tf.int64), indices=[0], values=[1], dtypes=[tf.int32], shared_name="held"
        )
    with tf.control_dependencies([put]):
        return tf.identity(before)


def accumulator():
    made = tf.compat.v1.ConditionalAccumulator(tf.float32, shape=[], shared_name="held")
    before = made.num_accumulated()
    with tf.control_dependencies([before]), tf.control_dependencies([made.apply_grad(1.0)]):
        return tf.identity(before)


def old_variable():
    made = tf.raw_ops.VariableV2(shape=[], dtype=tf.int32, shared_name="held")
    before = tf.raw_ops.IsVariableInitialized(ref=made)
    with tf.control_dependencies([before]):
        put = tf.raw_ops.Assign(ref=made, value=tf.constant(7))
    with tf.control_dependencies([put]):
        return tf.cast(before, tf.int32)


def generator():
    """Returns the first number of a generator, whose state is a variable."""
    handle = tf.raw_ops.VarHandleOp(dtype=tf.int64, shape=[3], shared_name="held")
    before = tf.raw_ops.VarIsInitializedOp(resource=handle)

    def start():
        state = tf.raw_ops.AssignVariableOp(resource=handle, value=tf.constant([1, 2, 3], tf.int64))
        with tf.control_dependencies([state]):
            return tf.constant(0)

    with tf.control_dependencies([tf.cond(before, lambda: tf.constant(0), start)]):
        return tf.raw_ops.StatefulUniformFullInt(
            resource=handle, algorithm=tf.constant(1, tf.int64), shape=[1], dtype=tf.int32
        )[0]


def cache():
    """Returns the sum of elements that a counter numbers, read through an in-memory cache."""
    counter = variable()
    data = tf.data.Dataset.range(1).map(lambda _: counter).cache()
    return data.reduce(0, lambda total, value: total + value)


HOLDERS = [
    variable,
    table,
    static_table,
    iterator,
    one_shot_iterator,
    queue,
    staged,
    stored_map,
    accumulator,
    old_variable,
    generator,
    cache,
]


@pytest.mark.parametrize("stage", ["work", "update"])
@pytest.mark.parametrize("holder", HOLDERS)
def test_graph_state_does_not_reach_the_next_call(holder, stage):
    graph = stage_graph(holder, name=stage)
    first = run(graph)
    assert [run(graph) for _ in range(2)] == [first] * 2


@pytest.mark.parametrize("holder", HOLDERS)
def test_holds_state_recognizes_stateful_graphs(holder):
    with tf.Graph().as_default() as graph:
        holder()
    assert holds_state(graph.as_graph_def())
    with tf.Graph().as_default() as outer:
        tf.function(holder)()
    assert holds_state(outer.as_graph_def())


def test_session_is_reused_if_the_graph_holds_no_state():
    graph = stage_graph(lambda: tf.constant(3) + 4, name="accumulate")
    assert run(graph) == 7
    (session,) = graph._idle
    assert run(graph) == 7
    assert graph._idle == [session]


# Time limits, cancellation and signals.


def endless_loop():
    return tf.while_loop(lambda i: i >= 0, lambda i: ((i + 1) % 7,), [tf.constant(0)])[0]


def endless_data():
    return tf.data.Dataset.range(10).repeat().reduce(tf.constant(0), lambda total, _: (total + 1) % 7)


def waiting():
    return tf.queue.FIFOQueue(1, [tf.int32], [[]]).dequeue()


def one_kernel():
    values = tf.linalg.svd(tf.random.normal([2000, 2000]), compute_uv=False)
    return tf.cast(tf.reduce_sum(values), tf.int32)


ENDLESS = [endless_loop, endless_data, waiting, one_kernel]


@pytest.mark.parametrize("build", ENDLESS)
def test_time_limit_stops_an_endless_graph(build):
    graph = stage_graph(build, name="update")
    with pytest.raises(TimeLimitError, match=r"The plan's update took longer than it may \(0.2 s\)") as caught:
        run(graph, seconds=0.2)
    assert caught.value.type is ProblemType.COMPUTATION_FAILED


@pytest.mark.parametrize("build", ENDLESS)
def test_caller_can_stop_an_endless_graph(build):
    graph, stop = stage_graph(build), threading.Event()
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(CancelledError, match="The plan's work was stopped"):
        run(graph, stop=stop, seconds=LONG)


@pytest.mark.parametrize("build", ENDLESS)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signal_interrupts_the_wait_for_an_endless_graph(build, signum):
    graph = stage_graph(build)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signum, interrupt)
    threading.Timer(0.1, os.kill, (os.getpid(), signum)).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run(graph, seconds=LONG)
    finally:
        signal.signal(signum, before)


def test_initialization_counts_towards_the_limit():
    def build():
        waiting().op._set_attr("_start", tf.compat.v1.AttrValue(b=True))
        return tf.constant(1)

    with tf.Graph().as_default() as graph:
        build()
        name = next(op.name for op in graph.get_operations() if op.type == "QueueDequeueV2")
    graph = stage_graph(build, initialize=name)
    with pytest.raises(TimeLimitError, match="The plan's work took longer"):
        run(graph, seconds=0.2)


# TensorFlow can't end a loop within a function. It runs in its thread until the process ends, and
# so needs a separate process.
STUCK = """
import os, signal, threading
import tensorflow as tf
from muster.runtime import CancelledError, abandoned_calls
from muster.runtime.graphs import StageGraph
from muster.wire.dtypes import DType
from muster.wire.manifest import Stage, TensorBinding
from muster.wire.plan import part_of
from muster.wire.problems import TimeLimitError

def endless():
    return tf.while_loop(lambda i: i >= 0, lambda i: ((i + 1) % 7,), [tf.constant(0)])[0]

def graph_of(build):
    with tf.Graph().as_default() as graph:
        tf.identity(build(), name="out")
    output = TensorBinding(path="x", dtype=DType.INT32, shape=(), tensor="out:0")
    stage = Stage(graph=part_of(b""), outputs={"update": (output,)})
    return StageGraph(graph.as_graph_def(), stage=stage, name="work")

stuck, stop, ends = graph_of(tf.function(endless)), threading.Event(), []
ways = [
    (lambda: stuck.run({}, seconds=0.2), TimeLimitError),
    (lambda: (threading.Timer(0.2, stop.set).start(), stuck.run({}, stop=stop)), CancelledError),
    (lambda: (threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start(), stuck.run({})), KeyboardInterrupt),
]
for way, expected in ways:
    try:
        way()
    except expected:
        ends.append(expected.__name__)
print(*ends, abandoned_calls(), graph_of(lambda: tf.constant(5)).run({}, seconds=60)["update"]["x"], flush=True)
os._exit(0)
"""


def test_uninterruptible_loop_does_not_block_other_calls():
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, check=False, timeout=120)  # noqa: S603  our own
    assert done.stdout.split() == ["TimeLimitError", "CancelledError", "KeyboardInterrupt", "3", "5"], done.stderr


def summing():
    data = tf.compat.v1.placeholder(tf.variant, [], name="data")
    values = dataset_ops._VariantDataset(data, tf.TensorSpec([], tf.int32))
    return values.reduce(tf.constant(0), lambda total, value: total + value)


def summing_graph():
    element = TensorType(dtype=DType.INT32, shape=())
    return stage_graph(summing, inputs={"data": (SequenceBinding(path="d", element=element, tensor="data:0"),)})


def test_time_limit_ends_endless_data_and_closes_its_source():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield (np.int32(1),)
        finally:
            closed.set()

    # Long enough to open the source on a busy machine: a source that is not opened is not closed.
    with pytest.raises(TimeLimitError):
        run(summing_graph(), sequences={"d": endless}, seconds=2.0)
    assert closed.wait(LONG)


def test_blocked_data_source_does_not_block_other_calls():
    release, stop = threading.Event(), threading.Event()

    def silent():
        stop.set()  # the caller stops once the first element is requested
        release.wait(LONG)
        yield (np.int32(1),)

    graph = summing_graph()
    with pytest.raises(CancelledError):
        run(graph, sequences={"d": silent}, stop=stop)
    assert run(graph, sequences={"d": lambda: iter([(np.int32(2),), (np.int32(3),)])}) == 5
    release.set()


def test_call_stopped_in_advance_does_not_run():
    stop = threading.Event()
    stop.set()
    with pytest.raises(CancelledError):
        run_in_thread(lambda _: pytest.fail("it ran"), name="work", stop=stop)


def test_graph_error_is_not_reported_as_a_time_limit():
    with pytest.raises(ProblemError, match="The plan's work failed") as caught:
        run(stage_graph(lambda: tf.constant(1) // tf.constant(0)), seconds=LONG)
    assert not isinstance(caught.value, TimeLimitError)


@pytest.fixture(scope="module")
def counting():
    @tff.tensorflow.computation(tff.SequenceType(np.int32))
    def count(values):
        return values.reduce(tf.constant(0, tf.int64), lambda total, _: total + 1)

    @tff.federated_computation(tff.FederatedType(tff.SequenceType(np.int32), tff.CLIENTS))
    def total(values):
        return tff.federated_sum(tff.federated_map(count, values))

    return build_plan(total)


def test_every_stage_takes_a_limit_and_work_can_be_stopped(counting):
    runtime = Runtime(counting)
    zero = runtime.zero(seconds=LONG)
    update = runtime.work([np.int32(1)], runtime.prepare({}, seconds=LONG), seconds=LONG, stop=threading.Event())
    folded = runtime.merge(zero, runtime.accumulate(zero, update, seconds=LONG), seconds=LONG)
    aggregate = runtime.report(folded, seconds=LONG)
    assert runtime.update({}, aggregate, seconds=LONG).result == {"result": 1}

    def endless():
        while True:
            yield np.int32(1)

    with pytest.raises(TimeLimitError):
        runtime.work(endless(), {}, seconds=0.1)
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(CancelledError):
        runtime.work(endless(), {}, stop=stop)
    assert runtime.work([np.int32(1)] * 3, {}, seconds=LONG)["0"] == 3


def test_call_that_waits_for_the_stage_lock_can_be_stopped(counting):
    runtime, stop, first, second = Runtime(counting), threading.Event(), threading.Event(), threading.Event()

    def silent():
        first.set()
        second.wait(LONG)
        yield np.int32(1)

    other = threading.Thread(target=runtime.work, args=(silent(), {}))
    other.start()
    assert first.wait(LONG)
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(CancelledError):
        runtime.work([], {}, stop=stop)
    second.set()
    other.join()


def test_cost_of_the_thread_of_a_call_is_reported(measured):
    """Asserts nothing about time: the figure is printed at the end of the run."""
    graph = stage_graph(lambda: tf.constant(1), name="report")
    run(graph)
    ways = {"in a thread": lambda: run(graph), "bare": lambda: call_in_place(graph)}
    taken = {name: min(timed(way) for _ in range(50)) for name, way in ways.items()}
    fresh = stage_graph(lambda: tf.constant(1))
    taken["in a separate session"] = min(timed(lambda: run(fresh)) for _ in range(50))
    measured("one call of a stage: " + ", ".join(f"{name} {seconds * 1e3:.2f} ms" for name, seconds in taken.items()))


def timed(way):
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def call_in_place(graph):
    from muster.runtime.calls import Cancellation

    return graph.execute({}, cancellation=Cancellation())


# Seeds.


@pytest.fixture(scope="module")
def drawing():
    """Compiles draws at the top level, in a reduction over the data (as in dropout) and in a
    map.
    """

    @tff.tensorflow.computation(tff.SequenceType(np.int32))
    def draw(values):
        mask = tf.zeros([8])
        in_a_loop = values.reduce(mask, lambda total, _: total + tf.nn.dropout(tf.ones([8]), 0.5))
        in_a_map = values.map(lambda _: tf.random.uniform([])).reduce(0.0, lambda total, value: total + value)
        order = values.shuffle(50).take(3).reduce(0, lambda total, value: total * 50 + value)
        return in_a_loop, in_a_map, order, tf.random.normal([4])

    @tff.federated_computation(tff.FederatedType(tff.SequenceType(np.int32), tff.CLIENTS))
    def total(values):
        return tff.federated_sum(tff.federated_map(draw, values))

    return build_plan(total)


DATA = list(np.arange(50, dtype=np.int32))


def drawn(plan, seed, draws):
    runtime = Runtime(plan, seed=seed)
    return [runtime.work(DATA, {}, draw=draw) for draw in draws]


def test_different_draws_are_independent_everywhere_in_a_graph(drawing):
    updates = drawn(drawing, 1, [f"round {number}/client {client}" for number in range(3) for client in range(4)])
    for name in updates[0]:
        assert len({encode({"x": update[name]}) for update in updates}) == len(updates), name


def test_equal_draws_yield_equal_bytes(drawing):
    draws = ["a", "b", "a"]
    first, second = ([encode(update) for update in drawn(drawing, 1, order)] for order in (draws, draws[::-1]))
    assert first[0] == first[2]
    assert first == second[::-1]
    assert first != [encode(update) for update in drawn(drawing, 2, draws)]


def test_calls_without_a_draw_differ_and_repeat_in_order(drawing):
    first, second = ([encode(update) for update in drawn(drawing, 1, ["", "", ""])] for _ in range(2))
    assert len(set(first)) == 3
    assert first == second


def test_unseeded_runtime_does_not_repeat_draws(drawing):
    updates = drawn(drawing, None, ["a", "a", "a"])
    assert len({encode(update) for update in updates}) == 3


def test_graph_without_random_operations_is_loaded_once(counting):
    runtime = Runtime(counting, seed=1)
    assert [int(runtime.work(DATA, {}, draw=draw)["0"]) for draw in "ab"] == [50, 50]
    loaded = runtime._loaded("work")
    assert loaded.graph("a") is loaded.graph("b")
