"""Checks the sources of a plan's initial state.

These are a process, a value, a computation, or a checkpoint of another run.
"""

import collections
import functools
import warnings

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from support.computations import SGD, fed_avg, model_fn, regression, temperature, unsorted_clients, unsorted_keys

from muster.author import Hyperparameter, HyperparameterWarning, Verdict, build_plan, check_plan, restore_state
from muster.wire.problems import ProblemError
from muster.wire.tensors import encode

OPTIMIZERS = tff.learning.optimizers


@functools.cache
def process(rate):
    return fed_avg(client_optimizer_fn=SGD(rate))


def trained(rate=0.1):
    """Returns the state of another run, as `Operator.download_checkpoint` does."""
    state = build_plan(process(rate)).initial_state()
    name = "global_model_weights/trainable/0"
    return {**state, name: state[name] + np.float32(3)}


@pytest.fixture(scope="module")
def checkpoint():
    return trained()


def test_state_with_another_learning_rate_warns_and_is_used(checkpoint):
    with pytest.warns(HyperparameterWarning) as caught:
        plan = build_plan(process(0.001), initial_state=checkpoint)
    assert plan.initial_state()["client_work/learning_rate"] == np.float32(0.1)
    (warning,) = [record for record in caught if record.category is HyperparameterWarning]
    assert warning.message.differing == (
        Hyperparameter("client_work/learning_rate", given=np.float32(0.1), own=np.float32(0.001)),
    )
    assert str(warning.message) == (
        "client_work/learning_rate is 0.1 in the given state, but this process starts with 0.001. The rounds use the "
        "given state. To use the process's own values and take only the weights from the state, pass as initial_state "
        "(on the command line, as --initial-state module:function) process.set_model_weights(process.initialize(), "
        "process.get_model_weights(restore_state(process, checkpoint)))"
    )
    assert warning.filename == __file__


def test_initialize_of_another_process_warns_too():
    with pytest.warns(HyperparameterWarning, match="client_work/learning_rate is 0.1"):
        build_plan(process(0.001), initial_state=process(0.1).initialize)


def test_advice_combines_new_rate_with_old_weights(checkpoint):
    second = process(0.001)
    state = second.set_model_weights(second.initialize(), second.get_model_weights(restore_state(second, checkpoint)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", HyperparameterWarning)
        state_of_plan = build_plan(second, initial_state=state).initial_state()
    assert state_of_plan["client_work/learning_rate"] == np.float32(0.001)
    np.testing.assert_array_equal(
        state_of_plan["global_model_weights/trainable/0"], checkpoint["global_model_weights/trainable/0"]
    )


MOMENTUM = {
    "server_optimizer_fn": OPTIMIZERS.build_adam(0.1, beta_1=0.8),
    "client_optimizer_fn": SGD(0.05, momentum=0.9),
}


@pytest.fixture(scope="module")
def momentum_state():
    return build_plan(fed_avg(**MOMENTUM)).initial_state()


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"server_optimizer_fn": OPTIMIZERS.build_adam(0.1, beta_1=0.5)}, "finalizer/beta_1"),
        ({"server_optimizer_fn": OPTIMIZERS.build_adam(0.1, epsilon=0.5)}, "finalizer/epsilon"),
        ({"client_optimizer_fn": SGD(0.05, momentum=0.5)}, "client_work/momentum"),
    ],
)
def test_only_constant_hyperparameters_cause_warnings(momentum_state, options, path):
    state = dict(momentum_state)
    state["finalizer/step"] = np.asarray(state["finalizer/step"] + 7, np.int32)  # the other run is some rounds old
    with pytest.warns(HyperparameterWarning) as caught:
        build_plan(fed_avg(**MOMENTUM | options), initial_state=state)
    (warning,) = [record.message for record in caught if record.category is HyperparameterWarning]
    assert path in {item.path for item in warning.differing}
    assert "finalizer/step" not in {item.path for item in warning.differing}


def test_equal_hyperparameters_cause_no_warning_in_any_form(checkpoint, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    earlier = build_plan(process(0.3)).initial_state()
    for number in (0, 2, 10):
        state = checkpoint if number == 10 else earlier
        (run / f"checkpoints/{number}.safetensors").write_bytes(encode(state))
    np.savez(tmp_path / "state.npz", **checkpoint)
    same = process(0.1)
    forms = [
        checkpoint,
        restore_state(same, checkpoint),
        run / "checkpoints/10.safetensors",
        run,
        run / "checkpoints",
        tmp_path / "state.npz",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error", HyperparameterWarning)
        addresses = {build_plan(same, initial_state=form).sha256 for form in forms}
    assert len(addresses) == 1


def test_state_of_another_process_is_refused_but_its_weights_fit(checkpoint):
    other = fed_avg(client_optimizer_fn=OPTIMIZERS.build_adam(0.05))
    with pytest.raises(
        ProblemError, match=r"client_work/beta_1: is missing.*To start from its weights, pass initial_state=process"
    ):
        build_plan(other, initial_state=checkpoint)
    old = process(0.1)
    weights = old.get_model_weights(restore_state(old, checkpoint))
    plan = build_plan(other, initial_state=other.set_model_weights(other.initialize(), weights))
    name = "global_model_weights/trainable/0"
    np.testing.assert_array_equal(plan.initial_state()[name], checkpoint[name])


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("x.safetensors", b"no", "The initial state can't be read from .*x.safetensors"),
        ("x.npz", b"no", "it is not an .npz file of plain arrays"),
    ],
)
def test_invalid_state_file_is_refused(tmp_path, name, content, text):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ProblemError, match=text):
        build_plan(process(0.1), initial_state=tmp_path / name)


def test_folder_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(ProblemError, match="the folder holds no checkpoints"):
        build_plan(process(0.1), initial_state=tmp_path)


def test_plain_computation_names_both_ways_to_start_and_both_work():
    option = r"Pass initial_state \(on the command line --initial-state\)"
    text = option + ": a value, a checkpoint or a computation .*IterativeProcess"
    with pytest.raises(ProblemError, match=text):
        build_plan(temperature())
    first = collections.OrderedDict(num_rounds=0)

    @tff.tensorflow.computation
    def zero():
        return collections.OrderedDict(num_rounds=tf.constant(0))

    @tff.federated_computation
    def initialize():
        return tff.federated_eval(zero, tff.SERVER)

    whole = tff.templates.IterativeProcess(initialize, temperature())
    plans = [
        build_plan(temperature(), initial_state=first),
        build_plan(temperature(), initial_state=initialize),
        build_plan(temperature(), initial_state={"num_rounds": np.zeros((), np.int32)}),
        build_plan(whole),
    ]
    assert len({plan.sha256 for plan in plans}) == 1


def test_initial_computation_of_another_type_is_refused():
    wrong = tff.federated_computation(lambda: tff.federated_value(1.0, tff.SERVER))
    with pytest.raises(ProblemError):
        build_plan(temperature(), initial_state=wrong)


def test_nested_state_is_accepted_by_tensor_name():
    state = {"weight": np.float32(1.5), "bias/0": np.float32(0.25), "bias/2/0": np.int64(7)}
    check = check_plan(unsorted_keys(), unsorted_clients, rounds=1, initial_state=state)
    assert check.verdict is Verdict.SAME


def test_evaluation_takes_the_model_from_a_training_checkpoint(checkpoint):
    weights = tff.learning.models.weights_type_from_model(model_fn)

    @tff.tensorflow.computation(weights, tff.SequenceType(BATCH_TYPE))
    def count(model, batches):
        del batches
        return tf.reduce_sum(model.trainable[0])

    @tff.federated_computation(
        tff.FederatedType(weights, tff.SERVER), tff.FederatedType(tff.SequenceType(BATCH_TYPE), tff.CLIENTS)
    )
    def evaluation(model, data):
        return tff.federated_mean(tff.federated_map(count, (tff.federated_broadcast(model), data)))

    plan = build_plan(evaluation, initial_state=checkpoint)
    np.testing.assert_array_equal(plan.initial_state()["trainable/0"], checkpoint["global_model_weights/trainable/0"])
    assert check_plan(evaluation, regression(1), rounds=1, initial_state=checkpoint).verdict is Verdict.SAME


BATCH_TYPE = tff.to_type(
    collections.OrderedDict(x=tff.TensorType(np.float32, [None, 2]), y=tff.TensorType(np.float32, [None, 1]))
)


def test_seed_makes_a_random_initial_state_repeatable():
    @tff.tensorflow.computation
    def draw():
        return tf.random.normal([3])

    @tff.federated_computation
    def initialize():
        return tff.federated_eval(draw, tff.SERVER)

    @tff.federated_computation(
        tff.FederatedType(tff.TensorType(np.float32, [3]), tff.SERVER), tff.FederatedType(np.float32, tff.CLIENTS)
    )
    def next_fn(state, data):
        return state, tff.federated_mean(data)

    drawing = tff.templates.IterativeProcess(initialize, next_fn)
    addresses = [build_plan(drawing, seed=seed).sha256 for seed in (1, 1, 2, None)]
    assert addresses[0] == addresses[1]
    assert len(set(addresses)) == 3
