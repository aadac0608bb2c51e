"""Checks which folds are proven from the wiring.

A fold that only resembles a sum is computed by TensorFlow and equals TFF's value.
"""

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from support.sized import sized_plan, sized_update, with_tensorflow

from muster.author import build_plan
from muster.author.folds import prove_folds
from muster.runtime import Runtime
from muster.runtime.fold import Fold
from muster.wire.dtypes import DType
from muster.wire.manifest import FoldKind, Part, Stage, TensorBinding

SUM, MAXIMUM, MINIMUM, TENSORFLOW = FoldKind.SUM, FoldKind.MAXIMUM, FoldKind.MINIMUM, FoldKind.TENSORFLOW
FLOATS = tf.TensorSpec([2], tf.float32)


def stage_of(function, values, specs):
    """Builds the graph and the stage of a function that computes the accumulator from lists."""

    def bind(path, tensor):
        dtype, shape = DType(tensor.dtype.name), tensor.shape
        return TensorBinding(
            path=path, dtype=dtype, shape=None if shape.rank is None else tuple(shape), tensor=tensor.name
        )

    with tf.Graph().as_default() as graph:
        inputs = {value: [tf.compat.v1.placeholder(s.dtype, s.shape) for s in specs[value]] for value in values}
        outputs = [tf.convert_to_tensor(item) for item in function(*inputs.values())]
    bound = {value: tuple(bind(str(at), item) for at, item in enumerate(items)) for value, items in inputs.items()}
    accumulator = tuple(bind(str(at), item) for at, item in enumerate(outputs))
    return graph.as_graph_def(), Stage(
        graph=Part(sha256="", size=0), inputs=bound, outputs={"accumulator": accumulator}
    )


def pairs(left, right):
    return zip(left, right, strict=True)


def plus(left, right):
    return [a + b for a, b in pairs(left, right)]


def prove(accumulate, merge=plus, *, zero=None, accumulator=(FLOATS, FLOATS), update=None):
    specs = {"accumulator": accumulator, "update": update or accumulator, "left": accumulator, "right": accumulator}
    adding, adding_stage = stage_of(accumulate, ("accumulator", "update"), specs)
    merging, merging_stage = stage_of(merge, ("left", "right"), specs)
    zeros = zero or [np.zeros([size or 0 for size in s.shape or ()], s.dtype.as_numpy_dtype) for s in accumulator]
    rules = prove_folds(
        adding,
        merging,
        accumulate_stage=adding_stage,
        merge_stage=merging_stage,
        zero={str(at): value for at, value in enumerate(zeros)},
    )
    assert [rule.path for rule in rules] == [str(at) for at in range(len(accumulator))]
    return [rule.kind for rule in rules], [rule.update for rule in rules]


@tf.function(autograph=False)
def called(a, x):
    return inner(a, x), x


@tf.function(autograph=False)
def inner(a, x):
    return tf.identity(a) + x


@tf.function(autograph=False)
def asserting(a, x):
    tf.debugging.assert_less(x, 5.0)
    return a + x


def after(control, value):
    with tf.control_dependencies([control]):
        return tf.identity(value)


PROVEN = {
    "plain": plus,
    "the other way round": lambda a, x: plus(x, a),
    "through identities": lambda a, x: [
        tf.identity(tf.identity_n([v, w])[0] + tf.stop_gradient(w)) for v, w in pairs(a, x)
    ],
    "AddN": lambda a, x: [tf.add_n([v, w]) for v, w in pairs(a, x)],
    "AddN with zeros": lambda a, x: [tf.add_n([v, tf.zeros([2]), w]) for v, w in pairs(a, x)],
    "with a scalar zero": lambda a, x: [v + (w + 0.0) for v, w in pairs(a, x)],
    "in a function of a function": lambda a, x: [called(v, w)[0] for v, w in pairs(a, x)],
    "after a no-op": lambda a, x: [after(tf.no_op(), v + w) for v, w in pairs(a, x)],
}


@pytest.mark.parametrize("accumulate", PROVEN.values(), ids=PROVEN)
def test_proves_a_sum(accumulate):
    assert prove(accumulate) == ([SUM, SUM], ["0", "1"])


def test_rule_names_the_tensor_of_the_update():
    assert prove(lambda a, x: [a[0] + x[1], a[1] + x[0]]) == ([SUM, SUM], ["1", "0"])
    assert prove(lambda a, x: [a[0] + x[1], a[1] + x[1]]) == ([SUM, SUM], ["1", "1"])


def test_proves_maxima_and_minima_with_any_zero():
    def fold(a, x):
        return [tf.maximum(a[0], x[0]), tf.minimum(x[1], a[1])]

    zero = [np.full([2], -np.inf, np.float32), np.full([2], np.inf, np.float32)]
    assert prove(fold, fold, zero=zero) == ([MAXIMUM, MINIMUM], ["0", "1"])


UNPROVEN = {
    "crosses two accumulators": lambda a, x: [a[1] + x[0], a[0] + x[1]],
    "adds the update twice": lambda a, x: [tf.add_n([v, w, w]) for v, w in pairs(a, x)],
    "adds the accumulator twice": lambda a, x: [v + (v + w) for v, w in pairs(a, x)],
    "adds two updates": lambda a, x: [v + x[0] + x[1] for v in a],
    "adds a constant": lambda a, x: [v + w + 1.0 for v, w in pairs(a, x)],
    "scales the update": lambda a, x: [v + 0.5 * w for v, w in pairs(a, x)],
    "scales the accumulator": lambda a, x: [0.5 * v + w for v, w in pairs(a, x)],
    "subtracts": lambda a, x: [v - w for v, w in pairs(a, x)],
    "drops the update": lambda a, _: [v + 0.0 for v in a],
    "drops the accumulator": lambda _, x: [tf.identity(w) for w in x],
    "multiplies": lambda a, x: [v * w for v, w in pairs(a, x)],
    "a maximum in a sum": lambda a, x: [v + tf.maximum(v, w) for v, w in pairs(a, x)],
    "a maximum with zeros": lambda a, x: [tf.maximum(v, w + 0.0) for v, w in pairs(a, x)],
    "a random term": lambda a, x: [v + w + tf.random.normal([2]) for v, w in pairs(a, x)],
    "casts on the way": lambda a, x: [v + tf.cast(tf.cast(w, tf.int32), tf.float32) for v, w in pairs(a, x)],
    "reverses": lambda a, x: [v + tf.reverse(w, [0]) for v, w in pairs(a, x)],
    "depends on a condition": lambda a, x: [tf.where(w > 0.0, v + w, v) for v, w in pairs(a, x)],
    "checks the update": lambda a, x: [after(tf.debugging.assert_less(w, 5.0), v + w) for v, w in pairs(a, x)],
    "checks it in a function": lambda a, x: [asserting(v, w) for v, w in pairs(a, x)],
    "zeros that broadcast": lambda a, x: [(v + w + tf.zeros([1, 2]))[0] for v, w in pairs(a, x)],
}


@pytest.mark.parametrize("accumulate", UNPROVEN.values(), ids=UNPROVEN)
def test_proves_nothing_if_accumulate_is_not_a_plain_fold(accumulate):
    assert prove(accumulate) == ([TENSORFLOW, TENSORFLOW], [None, None])


def test_each_tensor_is_proven_separately():
    assert prove(lambda a, x: [a[0] + x[0], a[1] * x[1]]) == ([SUM, TENSORFLOW], ["0", None])


@pytest.mark.parametrize(
    "merge",
    [
        lambda left, _: [tf.identity(item) for item in left],
        lambda left, right: [left[1] + right[0], left[0] + right[1]],
        lambda left, right: [left[0] + right[1], left[1] + right[0]],
        lambda left, _: [a + a for a in left],
        lambda left, right: [tf.maximum(a, b) for a, b in pairs(left, right)],
    ],
    ids=["takes the left", "crosses the left", "crosses the right", "doubles the left", "takes the maximum"],
)
def test_proves_nothing_if_merge_differs_from_accumulate(merge):
    assert prove(plus, merge)[0] == [TENSORFLOW, TENSORFLOW]


def test_proves_no_sum_if_zero_is_not_all_zeros():
    assert prove(plus, zero=[np.array([0, 1], np.float32), np.zeros(2, np.float32)])[0] == [TENSORFLOW, SUM]


@pytest.mark.parametrize(
    ("accumulator", "update"),
    [
        (FLOATS, tf.TensorSpec([], tf.float32)),
        (FLOATS, tf.TensorSpec([1], tf.float32)),
        (FLOATS, tf.TensorSpec([None], tf.float32)),
        (tf.TensorSpec([None], tf.float32), tf.TensorSpec([None], tf.float32)),
        (tf.TensorSpec(None, tf.float32), FLOATS),
        (tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.string)),
    ],
    ids=["scalar", "broadcast", "unknown update", "both unknown", "unknown rank", "string"],
)
def test_proves_nothing_if_numpy_might_differ_from_tensorflow(accumulator, update):
    assert prove(plus, accumulator=(accumulator,), update=(update,))[0] == [TENSORFLOW]


@pytest.mark.parametrize(
    "dtype", [tf.int8, tf.uint64, tf.bfloat16, tf.float16, tf.complex128], ids=lambda item: item.name
)
def test_proves_sums_of_every_numeric_dtype(dtype):
    assert prove(plus, accumulator=(tf.TensorSpec([3], dtype),))[0] == [SUM]


VECTOR = tff.TensorType(np.float32, [4])
WIDE = tff.to_type(collections.OrderedDict(a=tff.TensorType(np.float32, [30_000]), b=VECTOR))


def process_of(factory, value=VECTOR):
    """Returns a process that runs one unweighted aggregator."""
    aggregation = factory.create(tff.to_type(value))

    @tff.federated_computation(aggregation.initialize.type_signature.result, tff.FederatedType(value, tff.CLIENTS))
    def next_fn(state, data):
        output = aggregation.next(state, data)
        return output.state, tff.federated_zip((output.result, output.measurements))

    return tff.templates.IterativeProcess(aggregation.initialize, next_fn)


def aggregators():
    sums, private = tff.aggregators.SumFactory(), tff.aggregators.DifferentiallyPrivateFactory
    quantile = tff.aggregators.PrivateQuantileEstimationProcess.no_noise(1.0, 0.5, 0.2)
    return {
        "sum": process_of(sums, tff.TensorType(np.int32, [4])),
        "mean": process_of(tff.aggregators.UnweightedMeanFactory()),
        "clipping": process_of(tff.aggregators.clipping_factory(quantile, sums)),
        "zeroing": process_of(tff.aggregators.zeroing_factory(1.0, sums)),
        "hadamard": process_of(tff.aggregators.HadamardTransformFactory(sums)),
        "fourier": process_of(tff.aggregators.DiscreteFourierTransformFactory(sums)),
        "concatenation": process_of(tff.aggregators.concat_factory(sums), WIDE),
        "dp": process_of(private.gaussian_fixed(0.1, 10.0, 1.0)),
        "adaptive dp": process_of(private.gaussian_adaptive(0.1, 10.0)),
        "tree dp": process_of(private.tree_aggregation(0.1, 10.0, 1.0, [VECTOR]), tff.to_type([VECTOR])),
        "secure": process_of(tff.aggregators.SecureSumFactory(10, -10), tff.TensorType(np.int32, [4])),
    }


def test_proves_summing_aggregators():
    for name, process in aggregators().items():
        folds = build_plan(process, allow_clear_secure_sums=True).manifest.folds
        assert {rule.kind for rule in folds} <= {SUM}, (name, folds)
        assert folds or name == "secure"


def test_decoding_and_sampling_aggregators_need_tensorflow():
    encoded = tff.aggregators.EncodedSumFactory.quantize_above_threshold(quantization_bits=8, threshold=20_000)
    quantised = build_plan(process_of(encoded, WIDE)).manifest
    reservoir = build_plan(process_of(tff.aggregators.UnweightedReservoirSamplingFactory(3))).manifest
    assert quantised.folds_with_tensorflow
    assert reservoir.folds_with_tensorflow


def sums(left, right):
    return left[0] + right[0], left[1] + right[1]


def aggregation(accumulate, merge=sums, *, zero=(0.0, 0.0)):
    """Returns a computation with one `federated_aggregate`.

    Its type is `{<float32,float32>}@CLIENTS -> <A,A>@SERVER`, where A has the shape of `zero`.
    """
    pair = tff.to_type((np.float32, np.float32))
    total = tff.to_type(tuple(tff.TensorType(np.float32, np.shape(item)) for item in zero))

    @tff.tensorflow.computation
    def start():
        return tuple(tf.constant(item, tf.float32) for item in zero)

    @tff.tensorflow.computation(total, pair)
    def add(a, x):
        return accumulate(a, x)

    @tff.tensorflow.computation(total, total)
    def join(left, right):
        return merge(left, right)

    @tff.tensorflow.computation(total)
    def report(a):
        return a

    @tff.federated_computation(tff.FederatedType(pair, tff.CLIENTS))
    def computation(data):
        return tff.federated_aggregate(data, start(), add, join, report)

    return computation


LOOKALIKES = {
    "crosses two tensors": aggregation(lambda a, x: (a[1] + x[0], a[0] + x[1])),
    "adds one twice": aggregation(lambda a, x: (a[0] + x[0] + x[0], tf.add_n([a[1], x[1], x[1]]))),
    "adds a constant": aggregation(lambda a, x: (a[0] + x[0] + 1.0, a[1] + x[1] + 2.0)),
    "scales": aggregation(lambda a, x: (0.5 * a[0] + x[0], a[1] + 3.0 * x[1])),
    "merges to the left": aggregation(sums, lambda left, _: (left[0], left[1])),
    "broadcasts": aggregation(sums, zero=([0.0, 0.0], [[0.0], [0.0]])),
    "starts elsewhere": aggregation(sums, zero=(5.0, 7.0)),
}


@pytest.mark.parametrize("computation", LOOKALIKES.values(), ids=LOOKALIKES)
def test_fold_that_resembles_a_sum_equals_tff(computation):
    clients = [(np.float32(1 + at), np.float32(10 * at)) for at in range(4)]
    plan = build_plan(computation)
    assert {rule.kind for rule in plan.manifest.folds} == {TENSORFLOW}
    for actual, expected in zip(folded(plan, clients), computation(clients), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)
        assert actual.shape == expected.shape


def test_proven_sum_equals_tff():
    clients = [(np.float32(1 + at), np.float32(10 * at)) for at in range(4)]
    computation = aggregation(lambda a, x: (a[0] + x[1], x[0] + a[1]))
    plan = build_plan(computation)
    assert [(rule.kind, rule.update) for rule in plan.manifest.folds] == [(SUM, "0/1"), (SUM, "0/0")]
    assert folded(plan, clients) == tuple(computation(clients)) == (60.0, 10.0)


def folded(plan, clients):
    """Returns the result of one round with all clients in one partial."""
    runtime = Runtime(plan)
    state = plan.initial_state()
    broadcast = runtime.prepare(state)
    fold = Fold(plan.manifest, zero=plan.zero(), tensorflow=lambda: runtime)
    total = fold.start()
    for client in clients:
        total.add(runtime.work(client, broadcast))
    last = fold.split(total.tensors())
    return tuple(runtime.update(state, runtime.report(last.accumulator), last.clear_sums).result.values())


def test_pass_through_tensor_holds_the_previous_value():
    clients = [(np.float32(1 + at), np.float32(10 * at)) for at in range(4)]
    computation = aggregation(lambda a, x: (tf.identity(a[1]), a[1] + x[1]))
    plan = build_plan(computation)
    assert [rule.kind for rule in plan.manifest.folds] == [TENSORFLOW, SUM]
    assert folded(plan, clients) == tuple(computation(clients)) == (30.0, 60.0)


def test_only_unproven_tensors_are_computed_with_tensorflow():
    asked = []

    class Watched(Runtime):
        def accumulate(self, accumulator, update, *, only=None):
            computed = super().accumulate(accumulator, update, only=only)
            asked.append(sorted(computed))
            return computed

    plan = with_tensorflow(sized_plan(4_000, tensors=2), proven=1)
    fold = Fold(plan.manifest, zero=plan.zero(), tensorflow=lambda: Watched(plan))
    updates = [sized_update(4_000, tensors=2, seed=seed) for seed in range(4)]
    left, right = fold.start(), fold.start()
    for at, update in enumerate(updates):
        (left if at % 2 else right).add(update)
    left.merge(right.tensors())
    assert asked == [["layer/1"]] * 4
    for name, value in left.tensors().items():
        np.testing.assert_array_equal(
            value, (updates[1][name] + updates[3][name]) + (updates[0][name] + updates[2][name])
        )
