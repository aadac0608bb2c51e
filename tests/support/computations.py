"""Federated computations that tests share, with data for their clients.

The models are tiny and all draws are seeded.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

SGD = tff.learning.optimizers.build_sgdm
BATCH = collections.OrderedDict(x=tf.TensorSpec([None, 2], tf.float32), y=tf.TensorSpec([None, 1], tf.float32))
SERVER, CLIENTS = tff.SERVER, tff.CLIENTS


@dataclass(frozen=True)
class Case:
    """Computation with its clients' data. `options` are passed to `build_plan`."""

    name: str
    build: Callable[[], Any]
    clients: Callable[[int], list[Any]]  # takes the round's number, from 1
    options: Mapping[str, Any] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()  # tensors of the result that read the clock
    with_tensorflow: bool = False  # whether the fold needs the plan's own graphs
    rows: frozenset[str] = frozenset()  # tensors of the result whose rows are in random order, together


def model_fn(width: int = 2) -> Any:
    spec = collections.OrderedDict(BATCH, x=tf.TensorSpec([None, width], tf.float32))
    model = tf.keras.Sequential([tf.keras.layers.Dense(1, kernel_initializer="zeros", input_shape=(width,))])
    metrics = [tf.keras.metrics.MeanAbsoluteError()]
    loss = tf.keras.losses.MeanSquaredError()
    return tff.learning.models.from_keras_model(model, loss=loss, input_spec=spec, metrics=metrics)


def regression(number: int, *, width: int = 2, sizes: tuple[int, ...] = (7, 4, 9, 2, 5)) -> list[Any]:
    rng = np.random.default_rng(number)
    clients = []
    for size in sizes:
        x = rng.normal(size=(size, width)).astype(np.float32)
        y = (x[:, :2] @ np.array([[1.0], [-2.0]], np.float32) + rng.normal(size=(size, 1)) * 0.1).astype(np.float32)
        clients.append([collections.OrderedDict(x=x[at : at + 4], y=y[at : at + 4]) for at in range(0, size, 4)])
    return clients


def wide_regression(number: int) -> list[Any]:
    return regression(number, width=20_001, sizes=(4, 4, 2, 3))


def fed_avg(aggregator: Any = None, *, width: int = 2, weighted: bool = True, **options: Any) -> Any:
    algorithms = tff.learning.algorithms
    build = algorithms.build_weighted_fed_avg if weighted else algorithms.build_unweighted_fed_avg
    options.setdefault("client_optimizer_fn", SGD(0.05))
    options.setdefault("server_optimizer_fn", SGD(1.0))
    return build(lambda: model_fn(width), model_aggregator=aggregator, **options)


def scheduled_fed_avg() -> Any:
    return tff.learning.algorithms.build_weighted_fed_avg_with_optimizer_schedule(
        model_fn,
        client_learning_rate_fn=lambda number: 0.1 / tf.cast(number + 1, tf.float32),
        client_optimizer_fn=SGD,
        server_optimizer_fn=SGD(1.0, momentum=0.9),
    )


def hadamard() -> Any:
    rotated = tff.aggregators.HadamardTransformFactory(tff.aggregators.SumFactory())
    return fed_avg(tff.aggregators.UnweightedMeanFactory(value_sum_factory=rotated), weighted=False)


def quantised_sum() -> Any:
    factory = tff.aggregators.EncodedSumFactory.quantize_above_threshold(8, threshold=0, stochastic=False)
    return fed_avg(tff.aggregators.UnweightedMeanFactory(value_sum_factory=factory), weighted=False)


def adaptive_clipping() -> Any:
    norm = tff.aggregators.PrivateQuantileEstimationProcess.no_noise(0.5, 0.5, 0.2)
    return fed_avg(tff.aggregators.clipping_factory(norm, tff.aggregators.MeanFactory()))


def reconstruction_model() -> Any:
    inputs = tf.keras.layers.Input(shape=(2,))
    shared = tf.keras.layers.Dense(1, kernel_initializer="zeros", use_bias=False)
    own = tf.keras.layers.Dense(1, kernel_initializer="zeros")
    model = tf.keras.Model(inputs, tf.keras.layers.Add()([shared(inputs), own(inputs)]))
    return tff.learning.models.ReconstructionModel.from_keras_model_and_layers(
        keras_model=model, global_layers=[shared], local_layers=[own], input_spec=BATCH
    )


def fed_recon() -> Any:
    """Returns federated reconstruction with TFF's default split of a client's data.

    The split numbers the elements (`Dataset.enumerate`).
    """
    return tff.learning.algorithms.build_fed_recon(
        reconstruction_model,
        loss_fn=tf.keras.losses.MeanSquaredError,
        metrics_fn=lambda: [tf.keras.metrics.MeanAbsoluteError()],
        server_optimizer_fn=SGD(1.0),
        client_optimizer_fn=SGD(0.05),
        reconstruction_optimizer_fn=SGD(0.05),
    )


def fed_recon_evaluation() -> Any:
    return tff.learning.algorithms.build_fed_recon_eval(
        reconstruction_model,
        loss_fn=tf.keras.losses.MeanSquaredError,
        reconstruction_optimizer_fn=SGD(0.05),
    )


def personalization() -> Any:
    """Returns an evaluation of personalization strategies.

    It takes the model at the server and data at the clients, and returns metrics of a sample of
    clients.
    """

    def strategy() -> Any:
        @tf.function
        def train(model: Any, train_data: Any, test_data: Any, context: Any = None) -> Any:
            del test_data, context
            weights = tf.reduce_sum(model.trainable_variables[0])
            return collections.OrderedDict(weights=weights, batches=train_data.reduce(0, lambda count, _: count + 1))

        return train

    return tff.learning.algorithms.build_personalization_eval_computation(
        model_fn,
        collections.OrderedDict(plain=strategy),
        baseline_evaluate_fn=lambda _, data: collections.OrderedDict(
            batches=data.reduce(0, lambda count, _: count + 1)
        ),
    )


def personal_clients(number: int) -> list[Any]:
    clients = []
    for batches in regression(number):
        examples = [{"x": x, "y": y} for batch in batches for x, y in zip(batch["x"], batch["y"], strict=True)]
        clients.append(collections.OrderedDict(train_data=examples, test_data=examples[:1]))
    return clients


PERSONALIZED = {"trainable/0": np.full((2, 1), 2.0, np.float32), "trainable/1": np.zeros(1, np.float32)}


def points(number: int) -> list[Any]:
    rng = np.random.default_rng(number)
    centres = np.array([[0, 0], [5, 5]], np.float32)
    return [
        list((centres[rng.integers(2, size=count)] + rng.normal(size=(count, 2))).astype(np.float32))
        for count in (6, 3, 8)
    ]


def temperature() -> Any:
    """Returns TFF's example: the ratio of clients with a reading above 32 degrees."""
    state_type = tff.StructWithPythonType([("num_rounds", np.int32)], collections.OrderedDict)

    @tff.tensorflow.computation(state_type)
    def threshold_of(_state):
        return tf.constant(32.0)

    @tff.tensorflow.computation(tff.SequenceType(np.float32), np.float32)
    def is_over(readings, threshold):
        return tf.cast(readings.reduce(-1e9, tf.maximum) > threshold, tf.float32)

    @tff.tensorflow.computation(state_type)
    def one_round_more(state):
        return collections.OrderedDict(num_rounds=state["num_rounds"] + 1)

    @tff.federated_computation(
        tff.FederatedType(state_type, SERVER), tff.FederatedType(tff.SequenceType(np.float32), CLIENTS)
    )
    def next_fn(state, readings):
        threshold = tff.federated_broadcast(tff.federated_map(threshold_of, state))
        ratio = tff.federated_mean(tff.federated_map(is_over, (readings, threshold)))
        return tff.federated_map(one_round_more, state), ratio

    return next_fn


def readings(_: int) -> list[Any]:
    return [[np.float32(28)], [np.float32(30), np.float32(33), np.float32(29)]]


def maximum() -> Any:
    @tff.federated_computation(tff.FederatedType(tff.TensorType(np.float32, [3]), CLIENTS))
    def largest(value):
        return tff.federated_max(value)

    return largest


def histogram() -> Any:
    @tff.tensorflow.computation(tff.SequenceType(np.int32))
    def count(values):
        return values.reduce(tf.zeros([4], tf.int32), lambda held, value: held + tf.one_hot(value, 4, dtype=tf.int32))

    @tff.federated_computation(tff.FederatedType(tff.SequenceType(np.int32), CLIENTS))
    def counts(values):
        return tff.federated_sum(tff.federated_map(count, values))

    return counts


def integers(number: int) -> list[Any]:
    rng = np.random.default_rng(number)
    return [list(rng.integers(4, size=count).astype(np.int32)) for count in (5, 0, 3, 9)]


def heavy_hitters() -> Any:
    return tff.analytics.heavy_hitters.iblt.build_iblt_computation(capacity=20, string_max_bytes=6)


def words(_: int) -> list[Any]:
    # IBLT takes batches of one word (`batch_size`).
    return [
        [np.array([word], object) for word in client] for client in ((b"sun", b"moon"), (b"sun",), (b"star", b"sun"))
    ]


def reservoir(size: int = 3) -> Any:
    process = tff.aggregators.UnweightedReservoirSamplingFactory(sample_size=size).create(
        tff.TensorType(np.float32, [2])
    )

    @tff.federated_computation(
        process.initialize.type_signature.result, tff.FederatedType(tff.TensorType(np.float32, [2]), CLIENTS)
    )
    def next_fn(state, value):
        output = process.next(state, value)
        return output.state, output.result

    return tff.templates.IterativeProcess(process.initialize, next_fn)


def unsorted_keys() -> Any:
    """Returns a computation on structures with unsorted keys.

    They are nested, partly empty, and hold several data sets.
    """
    element = collections.OrderedDict(zeta=np.int32, alpha=tff.TensorType(np.float32, [2]))
    data_type = tff.to_type(
        collections.OrderedDict(
            second=tff.SequenceType(tff.to_type(element)),
            nothing=(),
            first=collections.OrderedDict(b=tff.SequenceType(np.int64), a=np.float32),
        )
    )
    state_type = tff.to_type(
        collections.OrderedDict(weight=np.float32, empty=collections.OrderedDict(), bias=(np.float32, (), (np.int64,)))
    )

    @tff.tensorflow.computation(data_type, state_type)
    def work(data, state):
        zetas = data["second"].reduce(0, lambda held, item: held + item["zeta"])
        alphas = data["second"].reduce(tf.zeros([2]), lambda held, item: held + item["alpha"])
        total = data["first"]["b"].reduce(tf.constant(0, tf.int64), lambda held, item: held + item)
        return collections.OrderedDict(
            y=alphas * state["weight"],
            x=(tf.cast(zetas, tf.float32) + data["first"]["a"], ()),
            w=total + state["bias"][2][0],
        )

    @tff.tensorflow.computation(state_type, work.type_signature.result)
    def step(state, total):
        return collections.OrderedDict(
            weight=state["weight"] + total["x"][0],
            empty=collections.OrderedDict(),
            bias=(tf.reduce_sum(total["y"]), (), (state["bias"][2][0] + total["w"],)),
        )

    @tff.federated_computation(tff.FederatedType(state_type, SERVER), tff.FederatedType(data_type, CLIENTS))
    def next_fn(state, data):
        total = tff.federated_sum(tff.federated_map(work, (data, tff.federated_broadcast(state))))
        return tff.federated_map(step, (state, total)), total

    return next_fn


UNSORTED_STATE = collections.OrderedDict(weight=1.5, empty=collections.OrderedDict(), bias=(0.25, (), (7,)))


def unsorted_clients(number: int) -> list[Any]:
    rng = np.random.default_rng(number)
    clients = []
    for count in (2, 0, 3):
        items = [
            collections.OrderedDict(zeta=np.int32(rng.integers(9)), alpha=rng.normal(size=2).astype(np.float32))
            for _ in range(count)
        ]
        first = collections.OrderedDict(b=[np.int64(value) for value in range(count)], a=np.float32(rng.normal()))
        clients.append(collections.OrderedDict(second=items, nothing=(), first=first))
    return clients


NUMBERS = (
    np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64,
    np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.complex64, np.complex128,
)  # fmt: skip
_EVERY = collections.OrderedDict(
    [(np.dtype(kind).name, tff.TensorType(kind, [2])) for kind in NUMBERS]
    + [("flag", tff.TensorType(np.bool_, [2])), ("text", tff.TensorType(np.str_, [2]))]
)


def every_dtype() -> Any:
    every = tff.to_type(_EVERY)

    @tff.tensorflow.computation(every, every)
    def work(data, state):
        sums = [(name, data[name] + state[name]) for name in _EVERY if name not in {"flag", "text"}]
        flags = tf.cast(tf.math.logical_xor(data["flag"], state["flag"]), tf.int32)
        same = tf.cast(tf.equal(data["text"], state["text"]), tf.int32)
        return collections.OrderedDict(sums, flags=flags, same=same)

    @tff.tensorflow.computation(every, work.type_signature.result)
    def step(state, total):
        named = [(name, total[name]) for name in _EVERY if name not in {"flag", "text"}]
        text = tf.strings.join([state["text"], tf.constant(["-\0", "é"])])
        return collections.OrderedDict(named, flag=tf.math.logical_not(state["flag"]), text=text)

    @tff.federated_computation(tff.FederatedType(every, SERVER), tff.FederatedType(every, CLIENTS))
    def next_fn(state, data):
        total = tff.federated_sum(tff.federated_map(work, (data, tff.federated_broadcast(state))))
        return tff.federated_map(step, (state, total)), total

    return next_fn


def every_value(seed: int) -> Any:
    small = np.random.default_rng(seed).integers(4, size=2)
    numbers = [(np.dtype(kind).name, small.astype(kind)) for kind in NUMBERS]
    text = np.array([b"a", b"\xff\x00b"], object) if seed % 2 else np.array([b"", b"long text"], object)
    return collections.OrderedDict([*numbers, ("flag", small > 1), ("text", text)])


def every_client(number: int) -> list[Any]:
    return [every_value(10 * number + at) for at in range(4)]


_DP = tff.learning.dp_aggregator
CASES = (
    Case("fed_avg_weighted_sgd", fed_avg, regression),
    Case("fed_avg_unweighted", lambda: fed_avg(weighted=False), regression),
    Case(
        "fed_avg_adam",
        lambda: fed_avg(
            client_optimizer_fn=tff.learning.optimizers.build_adam(0.05),
            server_optimizer_fn=tff.learning.optimizers.build_adam(0.1),
        ),
        regression,
    ),
    Case("fed_avg_schedule", scheduled_fed_avg, regression),
    Case("fed_sgd", lambda: tff.learning.algorithms.build_fed_sgd(model_fn, server_optimizer_fn=SGD(0.1)), regression),
    Case(
        "fed_prox",
        lambda: tff.learning.algorithms.build_weighted_fed_prox(
            model_fn, proximal_strength=0.5, client_optimizer_fn=SGD(0.05), server_optimizer_fn=SGD(1.0)
        ),
        regression,
    ),
    Case(
        "mime_lite",
        lambda: tff.learning.algorithms.build_weighted_mime_lite(model_fn, base_optimizer=SGD(0.05, momentum=0.9)),
        regression,
    ),
    Case("k_means", lambda: tff.learning.algorithms.build_fed_kmeans(2, (2,), random_seed=(1, 2)), points),
    Case("federated_evaluation", lambda: tff.learning.algorithms.build_fed_eval(model_fn), regression),
    Case("fed_recon", fed_recon, regression),
    Case("fed_recon_evaluation", fed_recon_evaluation, regression),
    Case("robust", lambda: fed_avg(tff.learning.robust_aggregator()), regression),
    Case(
        "compression",
        lambda: fed_avg(tff.learning.compression_aggregator(stochastic=False), width=20_001),
        wide_regression,
        with_tensorflow=True,
    ),
    Case("secure", lambda: fed_avg(tff.learning.secure_aggregator()), regression, {"allow_clear_secure_sums": True}),
    Case("dp_without_noise", lambda: fed_avg(_DP(0.0, 5), weighted=False), regression),
    Case("adaptive_clipping", adaptive_clipping, regression),
    Case("hadamard_rotation", hadamard, regression),
    Case("quantised_sum", quantised_sum, regression, with_tensorflow=True),
    Case("temperature", temperature, readings, {"initial_state": collections.OrderedDict(num_rounds=0)}),
    Case(
        "federated_max",
        maximum,
        lambda number: list(np.random.default_rng(number).normal(size=(4, 3)).astype(np.float32)),
    ),
    Case("histogram", histogram, integers),
    Case(
        "heavy_hitters",
        heavy_hitters,
        words,
        ignored=frozenset({"round_timestamp"}),
        rows=frozenset({"heavy_hitters", "heavy_hitters_unique_counts", "heavy_hitters_counts"}),
    ),
    Case("unsorted_keys", unsorted_keys, unsorted_clients, {"initial_state": UNSORTED_STATE}),
    Case("every_dtype", every_dtype, every_client, {"initial_state": every_value(7)}),
)
