"""Digits: evaluation of every second checkpoint on the clients' test rows, beside training."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from muster.author import build_plan
from muster.client import Contributed, MusterClient, WorkContext
from muster.demo import computation
from muster.demo.data import FEATURES, Digits, batches, load, split
from muster.operator import Operator
from muster.testing import in_process_coordinator
from muster.wire.messages import Evaluation, TaskKind, TaskPolicy, TaskSpec, TaskStatus, TaskView
from muster.wire.tensors import decode
from muster_coordinator.domain.evaluations import share_value

CLIENTS, ROUNDS, EVERY, SHARE = 10, 4, 2, 0.4
TRAIN, EVALUATION, POPULATION = "digits", "digits-evaluation", "wards"
ACCURACY = "client_work/eval/current_round_metrics/accuracy"
SELECTOR = {"split": "test"}


def evaluation_process():
    """Returns TFF's evaluation of the demo's network."""
    batch = OrderedDict(x=tf.TensorSpec([None, FEATURES], tf.float32), y=tf.TensorSpec([None], tf.int32))

    def model():
        return tff.learning.models.from_keras_model(
            computation._network(0),
            loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            input_spec=batch,
            metrics=[tf.keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        )

    return tff.learning.algorithms.build_fed_eval(model)


def halves(digits):
    """Returns a client's training and test rows."""
    rows = np.arange(len(digits))
    return {"train": digits.take(rows[rows % 4 != 0]), "test": digits.take(rows[rows % 4 == 0])}


class Ward:
    """Client that records the contexts of its assignments, and its contributions by task."""

    def __init__(self, coordinator, name, digits):
        self.rows = halves(digits)
        self.contexts: list[WorkContext] = []
        self.rounds: dict[str, list[int]] = {TRAIN: [], EVALUATION: []}
        self.client = MusterClient(coordinator.transport(), POPULATION, self.data, client_id=name)

    def data(self, context):
        self.contexts.append(context)
        part = "test" if context.selector == SELECTOR else "train"
        return batches(self.rows[part], seed=context.round, epochs=1)

    def run_once(self):
        outcome = self.client.run_once()
        if isinstance(outcome, Contributed):
            self.rounds[outcome.task].append(outcome.round)
        return outcome


def keras_accuracy(state, rows):
    """Returns Keras's own accuracy of a checkpoint on rows."""
    model = computation._network(0)
    model.set_weights([state[f"global_model_weights/trainable/{number}"] for number in range(4)])
    logits = model(rows.x)
    metric = tf.keras.metrics.SparseCategoricalAccuracy()
    metric.update_state(rows.y, logits)
    return float(metric.result())


def joined(parts):
    parts = list(parts)
    return Digits(np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]))


@pytest.fixture(scope="module")
def finished():
    """Returns the operator and the wards after training and evaluation are complete."""
    digits = split(load(), clients=CLIENTS, seed=0).clients
    names = [f"ward-{number}" for number in range(CLIENTS)]
    with in_process_coordinator(seed=0) as coordinator:
        operator = Operator(coordinator.transport())
        secret = hashlib.sha256(b"muster simulation 0").digest()
        chosen = [name for name in names if share_value(secret, EVALUATION, name) < SHARE]
        assert 2 <= len(chosen) <= CLIENTS - 2
        policy = TaskPolicy(rounds=ROUNDS, goal=CLIENTS - len(chosen), minimum=2, over_selection=3.0)
        operator.create_task(TRAIN, population=POPULATION, plan=build_plan(computation.fed_avg()), policy=policy)
        evaluation_plan = build_plan(evaluation_process(), name="digits_evaluation")
        operator.put_plan(evaluation_plan)
        coordinator.settle()
        spec = TaskSpec(
            name=EVALUATION,
            population=POPULATION,
            plan=evaluation_plan.sha256,
            policy=TaskPolicy(goal=len(chosen), minimum=2, over_selection=3.0),
            kind=TaskKind.EVALUATE,
            selector=SELECTOR,
            evaluates=Evaluation(task=TRAIN, every=EVERY, share=SHARE),
        )
        coordinator.transport().call("POST", "/v1/tasks", message=spec, answer=TaskView)
        coordinator.settle()
        wards = {name: Ward(coordinator, name, rows) for name, rows in zip(names, digits, strict=True)}
        for _ in range(200):
            for ward in wards.values():
                ward.run_once()
                coordinator.settle()
            coordinator.clock.advance(5.0)
            coordinator.settle()
            if operator.task(EVALUATION).status is TaskStatus.COMPLETED:
                break
        yield operator, wards, chosen


def test_every_second_checkpoint_is_evaluated(finished):
    operator, _, _ = finished
    assert operator.task(TRAIN).status is TaskStatus.COMPLETED
    rounds = [view for view in operator.rounds(EVALUATION) if view.phase.value == "COMMITTED"]
    assert [(view.base.task, view.base.version) for view in rounds] == [(TRAIN, 2), (TRAIN, 4)]


def test_accuracy_equals_keras_on_the_same_rows(finished):
    operator, wards, _ = finished
    rounds = [view for view in operator.rounds(EVALUATION) if view.phase.value == "COMMITTED"]
    for view in rounds:
        state = decode(operator.checkpoint_bytes(TRAIN, view.base.version))
        rows = joined(ward.rows["test"] for ward in wards.values() if view.round in ward.rounds[EVALUATION])
        assert view.metrics[ACCURACY] == pytest.approx(keras_accuracy(state, rows), abs=1e-6)


def test_selector_and_kind_reach_the_clients(finished):
    _, wards, _ = finished
    contexts = [context for ward in wards.values() for context in ward.contexts]
    assert {(context.task, context.kind, str(context.selector)) for context in contexts} == {
        (TRAIN, "train", "None"),
        (EVALUATION, "evaluate", str(SELECTOR)),
    }


def test_only_clients_of_the_share_evaluate(finished):
    _, wards, chosen = finished
    assert {name for name, ward in wards.items() if ward.rounds[EVALUATION]} == set(chosen)
