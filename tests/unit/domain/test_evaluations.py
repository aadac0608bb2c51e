"""Evaluations of a training task: what is due, whose clients are reserved, and the request."""

from __future__ import annotations

from dataclasses import replace

import pytest

from muster.wire.messages import Evaluation, TaskKind, TaskSpec, TaskStatus
from muster_coordinator.domain.evaluations import (
    complete,
    due_version,
    follows,
    is_due,
    request,
    requested_version,
    reserves_clients,
    share_value,
)
from muster_coordinator.domain.rounds import BlobRef, Checkpoint
from muster_coordinator.domain.tasks import Task

SECRET = b"a secret of the tests, long enough"


def checkpoint(version, *, line=None):
    return Checkpoint(version, BlobRef(f"checkpoints/train/{version:06d}-x", "0" * 64, 8), 0.0, line)


def training(version=0, *, status=TaskStatus.ACTIVE, name="train"):
    spec = TaskSpec(name=name, population="phones", plan="a" * 64)
    return Task(spec, "plan", False, status, 0.0, number=version + 1, checkpoint=checkpoint(version))


def evaluation(version=0, *, status=TaskStatus.IDLE, **fields):
    """Returns an evaluation task whose newest request is for `version`."""
    spec = TaskSpec(
        name="eval",
        population="phones",
        plan="b" * 64,
        kind=TaskKind.EVALUATE,
        evaluates=Evaluation(**{"task": "train", "every": 2, "share": 0.2, **fields}),
    )
    task = Task(spec, "plan", False, TaskStatus.IDLE, 0.0, checkpoint=checkpoint(0))
    if version:
        task = replace(
            request(task, checkpoint(version), training="train", first=1), number=1, restore=None, running=False
        )
    return replace(task, status=status)


@pytest.mark.parametrize(
    ("newest", "every", "due"), [(0, 1, 0), (1, 1, 1), (1, 2, 0), (2, 2, 2), (3, 2, 2), (7, 3, 6), (5, 10, 0)]
)
def test_newest_multiple_is_due(newest, every, due):
    assert due_version(training(newest), every=every) == due


@pytest.mark.parametrize("status", [TaskStatus.COMPLETED, TaskStatus.CANCELLED])
def test_last_version_of_an_ended_task_is_due(status):
    assert due_version(training(5, status=status), every=2) == 5
    assert due_version(replace(training(status=status), checkpoint=None), every=2) == 0


def test_requested_version_is_due_no_more():
    assert is_due(evaluation(), training(2))
    assert not is_due(evaluation(2), training(3))
    assert is_due(evaluation(2), training(4))
    assert is_due(evaluation(2), training(9))  # evaluations are slow: 4 and 6 are skipped
    assert not is_due(evaluation(4), training(3))  # after a rollback
    assert not is_due(evaluation(), training(2, name="other"))


@pytest.mark.parametrize(
    ("task", "version", "reserves"),
    [
        (evaluation(), 1, False),
        (evaluation(), 2, True),  # due before its round has opened
        (evaluation(2, status=TaskStatus.OPENING), 2, True),
        (evaluation(2, status=TaskStatus.ACTIVE), 3, True),
        (evaluation(2), 3, False),
        (evaluation(2, status=TaskStatus.PAUSED), 4, False),
        (evaluation(2, status=TaskStatus.COMPLETED), 4, False),
        (evaluation(2, status=TaskStatus.CANCELLED), 4, False),
        (evaluation(status=TaskStatus.OPENING), 1, False),  # makes its version 0
        (evaluation(status=TaskStatus.OPENING), 2, True),
        (replace(evaluation(2, status=TaskStatus.OPENING), pause_once_open=True), 2, False),
    ],
)
def test_clients_are_reserved_while_an_evaluation_is_due_or_open(task, version, reserves):
    assert reserves_clients(task, training(version)) is reserves
    assert not reserves_clients(task, training(version, name="other"))


def test_request_asks_for_one_round_of_the_checkpoint():
    before = evaluation()
    after = request(before, checkpoint(4, line=3), training="train", first=1)
    run = after.run
    assert after.status is TaskStatus.OPENING
    assert (run.request, run.first, run.last, run.goal) == ("v4", 1, 1, before.spec.policy.goal)
    assert (run.origin.task, run.origin.version, run.origin.leaves) == ("train", 4, ("global_model_weights/",))
    assert (run.base.version, run.base.rounds_on_line, run.base.blob) == (0, 0, checkpoint(4).blob)
    assert after.restore == run.base
    assert after.checkpoint == before.checkpoint
    assert requested_version(after) == 4


def test_repeated_or_late_request_changes_nothing():
    opening = request(evaluation(), checkpoint(4), training="train", first=1)
    assert request(opening, checkpoint(4), training="train", first=1) == opening
    assert request(opening, checkpoint(6), training="train", first=1) == opening
    done = replace(opening, status=TaskStatus.IDLE, number=1, running=False)
    assert request(done, checkpoint(4), training="train", first=1) == done
    assert request(done, checkpoint(2), training="train", first=1) == done
    assert request(done, checkpoint(6), training="train", first=2).run.first == 2
    for status in (TaskStatus.PAUSED, TaskStatus.CANCELLED, TaskStatus.COMPLETED, TaskStatus.DELETING):
        task = replace(evaluation(), status=status)
        assert request(task, checkpoint(2), training="train", first=1) == task
    assert request(training(2), checkpoint(2), training="train", first=1) == training(2)


def test_only_an_idle_evaluation_completes():
    assert complete(evaluation(2), note="why") == replace(evaluation(2), status=TaskStatus.COMPLETED, note="why")
    for status in (TaskStatus.OPENING, TaskStatus.ACTIVE, TaskStatus.PAUSED, TaskStatus.CANCELLED):
        assert complete(evaluation(2, status=status)) == evaluation(2, status=status)


def test_rollback_between_two_checkpoints_shows_in_their_lines():
    assert follows(checkpoint(2), checkpoint(5))
    assert follows(checkpoint(4, line=4), checkpoint(5, line=5))
    assert not follows(checkpoint(4, line=4), checkpoint(5, line=3))  # 5 was made from 2


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 1.0])
def test_share_of_ten_thousand_clients(share):
    values = [share_value(SECRET, "eval", f"client-{number}") for number in range(10_000)]
    assert all(0 <= value < 1 for value in values)
    assert sum(value < share for value in values) / 10_000 == pytest.approx(share, abs=0.02)


def test_share_depends_on_key_evaluation_and_identity_alone():
    assert share_value(SECRET, "eval", "a") == share_value(SECRET, "eval", "a")
    others = {share_value(key, task, name) for key in (SECRET, SECRET * 2) for task in "ab" for name in "xy"}
    assert len(others) == 8
