"""Evaluation beside training: refusals, requests after commits, and clients that are withheld."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from support.crashing import CrashingHarness
from support.faults import Fault, When
from support.harness import POPULATION, SECRET, TASK, Harness
from support.plans import make_plan, sum_update

from muster.wire.messages import (
    Assignment,
    CheckinRequest,
    TaskPolicy,
    TaskSpec,
    TaskStatus,
    TaskView,
    Wait,
    WaitReason,
)
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.domain.evaluations import share_value
from muster_coordinator.domain.keys import KeyRing
from muster_coordinator.domain.names import share_key_path
from muster_coordinator.domain.rounds import Collecting
from muster_coordinator.state import evaluations

EVAL = "eval"
SHARE = 0.3
# Numbers of clients, by whether they evaluate.
IN = [number for number in range(40) if share_value(SECRET, EVAL, str(number)) < SHARE]
OUT = [number for number in range(40) if number not in IN]


def evaluation_spec(h, *, name=EVAL, plan=None, population=POPULATION, evaluates=None, **policy):
    return TaskSpec.from_dict(
        {
            "name": name,
            "population": population,
            "plan": plan or h.plan.sha256,
            "policy": {"goal": 2, "minimum": 1, "over_selection": 5.0, **policy},
            "kind": "evaluate",
            "selector": {"split": "test"},
            "evaluates": {"task": TASK, "every": 2, "leaves": [], "share": SHARE, **(evaluates or {})},
        }
    )


def create(h, spec):
    return TaskView.decode(h.ask("POST", "/v1/tasks", body=spec.encode()))


def record(h, name=EVAL):
    return h.inner.task(name).value


def begun(harness, *, rounds=9, **evaluates):
    """Returns a harness with a training task in its first round, and an idle evaluation of it."""
    h = harness if isinstance(harness, Harness) else Harness(harness)
    h.begin(goal=2, over_selection=5.0, rounds=rounds)
    create(h, evaluation_spec(h, evaluates=evaluates))
    h.deliver_all()
    assert record(h).status is TaskStatus.IDLE
    return h


def train(h, clients, *, deliver=True):
    """Commits a training round of two clients."""
    for client in clients:
        assigned = h.assigned(client)
        assert assigned.task == TASK
        h.upload(assigned.token, sum_update(client))
    if deliver:
        h.deliver_all()


def evaluate(h, clients):
    """Commits the evaluation's open round with two clients of the share."""
    for client in clients:
        assigned = h.assigned(client)
        assert assigned.task == EVAL
        h.upload(assigned.token, sum_update(client))
    h.deliver_all()


def open_rounds(h):
    """Returns the evaluation's open rounds."""
    rounds = [item.value for item in h.inner.rounds.list(f"tasks/{EVAL}/rounds")]
    return [round_ for round_ in rounds if isinstance(round_, Collecting)]


def offers(h, clients):
    """Returns the task, or the reason of the wait, of each client's check-in."""
    answers = [h.checkin(client) for client in clients]
    return [answer.task if isinstance(answer, Assignment) else answer.reason for answer in answers]


# Creation


@pytest.mark.parametrize(
    ("evaluates", "reason"),
    [
        ({"task": "missing"}, "there is no task 'missing'"),
        ({"task": "other-eval"}, "is an evaluation itself"),
        ({"task": "measure"}, "is of kind evaluate"),
        ({"task": "elsewhere"}, "is of population 'elsewhere'"),
    ],
)
def test_evaluation_of_another_than_a_training_task_is_refused(tmp_path, evaluates, reason):
    h = begun(tmp_path)
    create(h, evaluation_spec(h, name="other-eval"))
    create(h, evaluation_spec(h, name="measure").model_copy(update={"evaluates": None}))
    h.ask(
        "POST",
        "/v1/tasks",
        body=TaskSpec(
            name="elsewhere", population="elsewhere", plan=h.plan.sha256, policy=TaskPolicy(goal=1, minimum=1)
        ).encode(),
    )
    with pytest.raises(ProblemError) as refused:
        create(h, evaluation_spec(h, name="new", evaluates=evaluates))
    assert refused.value.type is ProblemType.INVALID_REQUEST
    assert reason in refused.value.detail
    assert [field.path for field in refused.value.fields] == ["evaluates.task"]
    assert h.call("GET", "/v1/tasks/new").status_code == 404


def test_evaluation_that_takes_missing_or_other_tensors_is_refused(tmp_path):
    h = begun(tmp_path)
    other = make_plan(
        "other",
        state={"total": np.float32(0), "own": np.int64(0)},
        update=h.plan.manifest.update,
        zero={spec.path: np.zeros(spec.shape, spec.dtype.numpy) for spec in h.plan.manifest.update},
    )
    h.ask("PUT", f"/v1/plans/{other.sha256}", body=other.encode())
    for leaves, reason in (
        (["absent/"], "'absent/' is the prefix of no tensor"),
        (["total"], "has dtype int64; the plan says float32"),
        (["own"], "is missing"),
    ):
        with pytest.raises(ProblemError) as refused:
            create(h, evaluation_spec(h, name="new", plan=other.sha256, evaluates={"leaves": leaves}))
        assert refused.value.type is ProblemType.INVALID_REQUEST
        assert reason in refused.value.detail


def test_repeated_creation_is_accepted_after_the_training_task_is_gone(tmp_path):
    h = begun(tmp_path)
    h.inner.documents.delete(f"tasks/{TASK}")
    assert create(h, evaluation_spec(h)).spec.evaluates.task == TASK


# Requests


def test_commit_of_every_second_round_requests_an_evaluation(tmp_path):
    h = begun(tmp_path)
    train(h, OUT[:2])
    assert record(h).status is TaskStatus.IDLE
    train(h, OUT[2:4])
    evaluation, training = record(h), record(h, TASK)
    assert evaluation.status is TaskStatus.ACTIVE
    assert (evaluation.run.request, evaluation.run.goal, evaluation.run.rounds) == ("v2", 2, 1)
    assert evaluation.run.origin.task == TASK
    assert evaluation.run.origin.version == training.checkpoint.version == 2
    assert evaluation.run.base.blob == training.checkpoint.blob
    base = h.round(evaluation.current).terms.base.blob
    assert h.inner.blobs.read(base.name) == h.inner.blobs.read(training.checkpoint.blob.name)


def test_slow_evaluation_skips_to_the_newest_due_version(tmp_path):
    h = begun(tmp_path)
    for number in range(5):
        train(h, OUT[2 * number : 2 * number + 2])
    assert record(h).run.request == "v2"
    evaluate(h, IN[:2])
    assert record(h).run.request == "v4"
    assert len(open_rounds(h)) == 1


def test_lost_request_is_made_by_the_tick(tmp_path):
    h = begun(tmp_path)
    train(h, OUT[:2])
    evaluation = record(h)
    train(h, OUT[2:4])
    h.inner.change_task(EVAL, lambda _: evaluation)
    h.queue.held.clear()
    h.settle(minutes=1)
    assert record(h).run.request == "v2"
    assert record(h).status is TaskStatus.ACTIVE


def test_last_version_is_evaluated_and_then_the_evaluation_completes(tmp_path):
    h = begun(tmp_path, rounds=3)
    for number in range(2):
        train(h, OUT[2 * number : 2 * number + 2])
    evaluate(h, IN[:2])
    assert record(h).status is TaskStatus.IDLE
    train(h, OUT[4:6])
    assert record(h, TASK).status is TaskStatus.COMPLETED
    assert record(h).run.request == "v3"
    evaluate(h, IN[2:4])
    assert record(h).status is TaskStatus.COMPLETED
    assert h.checkin(OUT[0]).reason is WaitReason.NO_TASK


def test_evaluation_of_a_deleted_task_completes_with_a_note(tmp_path):
    h = begun(tmp_path)
    h.inner.documents.delete(f"tasks/{TASK}")
    h.tick()
    assert record(h).status is TaskStatus.COMPLETED
    assert record(h).note == "its training task was deleted"


def test_missing_checkpoint_is_replaced_by_the_newest(tmp_path):
    h = begun(tmp_path)
    for number in range(5):
        train(h, OUT[2 * number : 2 * number + 2])
    (due,) = (round_.checkpoint for round_ in h.committed() if round_.key.number == 4)
    h.inner.blobs.delete([due.blob.name])
    evaluate(h, IN[:2])
    assert record(h).run.request == "v5"
    assert record(h).run.base.blob == record(h, TASK).checkpoint.blob


def test_eight_requests_at_once_make_one_run(tmp_path):
    h = begun(Harness(tmp_path, durable=True))
    train(h, OUT[:2])
    evaluation = record(h)
    train(h, OUT[2:4])
    h.inner.change_task(EVAL, lambda _: evaluation)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: evaluations.advance(h.inner, EVAL), range(8)))
    h.deliver_all()
    assert record(h).run.request == "v2"
    assert len(open_rounds(h)) == 1


@pytest.mark.parametrize("when", When)
def test_crash_at_any_write_makes_one_run_of_the_same_state(tmp_path, when):
    for write in itertools.count(1):
        h = begun(CrashingHarness(tmp_path / str(write), lose_work=True))
        train(h, OUT[:2])
        train(h, OUT[2:4], deliver=False)
        h.schedule.arm(Fault(len(h.schedule.writes) + write, when))
        h.retry(h.deliver_all)
        if not h.crashes:
            break
        h.settle()
        (round_,) = open_rounds(h)
        training = record(h, TASK)
        assert record(h).run.request == "v2", write
        assert training.number == 3, write
        assert h.inner.blobs.read(round_.terms.base.blob.name) == h.inner.blobs.read(training.checkpoint.blob.name)
        assert set(offers(h, IN[:2])) == {EVAL}, write
    assert write > 8


# Clients


def test_only_clients_of_the_share_evaluate_and_they_do_not_train(tmp_path):
    h = begun(tmp_path)
    train(h, OUT[:2])
    assert set(offers(h, [IN[0], OUT[2]])) == {TASK}  # nothing is due
    train(h, OUT[3:5])
    assert set(offers(h, IN[1:4])) == {EVAL}
    assert set(offers(h, OUT[5:9])) == {TASK}
    assigned = h.assigned(IN[4])
    assert (assigned.kind, assigned.selector) == ("evaluate", {"split": "test"})


def test_clients_are_reserved_before_the_evaluation_has_opened(tmp_path):
    h = begun(tmp_path)
    train(h, OUT[:2])
    evaluation = record(h)
    train(h, OUT[2:4])
    h.inner.change_task(EVAL, lambda _: evaluation)  # its request and its opening are late
    assert set(offers(h, IN[1:4])) <= {WaitReason.BETWEEN_ROUNDS, WaitReason.RESERVED}
    assert set(offers(h, OUT[4:6])) == {TASK}


def test_reserved_client_is_given_the_reason(tmp_path):
    h = begun(tmp_path)
    train(h, OUT[:2])
    train(h, OUT[2:4])
    h.operate("pause")
    assert offers(h, OUT[4:5]) == [WaitReason.RESERVED]  # not for this evaluation
    assert offers(h, IN[:1]) == [EVAL]


@pytest.mark.parametrize("status", [TaskStatus.PAUSED, TaskStatus.CANCELLED])
def test_paused_or_ended_evaluation_reserves_no_client(tmp_path, status):
    h = begun(tmp_path)
    train(h, OUT[:2])
    train(h, OUT[2:4])
    h.inner.change_task(EVAL, lambda now: replace(now, status=status))
    assert set(offers(h, [*IN[1:4], *OUT[4:6]])) == {TASK}


def test_finished_evaluation_frees_its_clients_until_the_next(tmp_path):
    h = begun(tmp_path)
    train(h, OUT[:2])
    train(h, OUT[2:4])
    evaluate(h, IN[:2])
    assert set(offers(h, [*IN[1:4], *OUT[4:6]])) == {TASK}


def test_with_a_share_of_one_training_waits_for_evaluations(tmp_path):
    h = begun(tmp_path, share=1.0)
    train(h, range(2))
    train(h, range(2, 4))
    assert set(offers(h, range(4, 12))) == {EVAL}
    evaluate(h, range(4, 6))
    assert set(offers(h, range(12, 16))) == {TASK}


def test_share_survives_a_rotation_of_keys(tmp_path):
    h = begun(tmp_path)
    train(h, OUT[:2])
    train(h, OUT[2:4])
    assert set(offers(h, IN[1:3])) == {EVAL}
    old, new = SECRET.hex(), "1b" * 32
    h.secret = KeyRing.parse(f"{new},{old}")
    h.restart()
    assert set(offers(h, IN[3:6])) == {EVAL}
    assert set(offers(h, OUT[5:9])) == {TASK}
    h.secret = KeyRing.parse(new)
    h.restart()
    assert EVAL not in offers(h, [*IN[6:9], *OUT[9:12]])


def test_no_identity_is_in_both_over_ten_thousand_checkins(tmp_path):
    h = Harness(tmp_path, cache_seconds=3600.0)
    h.begin(goal=2, over_selection=5.0, rounds=9)
    create(h, evaluation_spec(h, goal=10_000, chunk=10_000))
    h.deliver_all()
    h.restart()
    train(h, OUT[:2])
    h.restart()
    h.inner.change_task(
        TASK,
        lambda task: replace(
            task, spec=task.spec.model_copy(update={"policy": task.spec.policy.model_copy(update={"goal": 10_000})})
        ),
    )
    train(h, OUT[2:4])
    h.restart()
    issuer, tasks = h.app.assignment_issuer, {}
    for number in range(10_000):
        answer = issuer.check_in(POPULATION, CheckinRequest(), identity=f"client-{number}").answer
        assert not isinstance(answer, Wait), answer
        tasks[number] = answer.task
    shared = sum(task == EVAL for task in tasks.values())
    assert shared / 10_000 == pytest.approx(SHARE, abs=0.02)
    for number in range(0, 10_000, 50):  # a repeat, in any order of the tasks, is the same task
        again = issuer.check_in(POPULATION, CheckinRequest(), identity=f"client-{number}").answer
        assert again.task == tasks[number]


def test_key_of_the_share_is_fixed_once(tmp_path):
    h = begun(tmp_path)
    offers(h, OUT[:3])
    document = h.inner.documents.get(share_key_path(EVAL))
    assert document.data == {"key": KeyRing.of(SECRET).newest.fingerprint}
