"""Starts of tasks, the parents of checkpoints, and the budget of a line."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from support.bases import start_from
from support.double import Worker
from support.harness import POPULATION, TASK, Harness
from support.plans import make_plan, sum_plan, sum_update
from support.served import served
from werkzeug.wrappers import Request

from muster.client import Contributed, MusterClient
from muster.wire.dtypes import DType
from muster.wire.manifest import Release, TensorSpec
from muster.wire.messages import CheckpointList, RoundList, StateRef, TaskSpec, TaskStatus, TaskView
from muster.wire.plan import Plan
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import decode, encode
from muster_coordinator.domain import names
from muster_coordinator.domain.rounds import Committed
from muster_coordinator.http import router

POLICY = {"goal": 2, "minimum": 2, "rounds": 3}


@pytest.fixture
def h(tmp_path):
    return Harness(tmp_path)


def play(h, *clients):
    """Runs a round of the given clients."""
    for client in clients:
        h.upload(h.assigned(client).token, sum_update(client))
    h.deliver_all()


def put_state(h, **values):
    """Stores a state of the plan and returns its address."""
    data = bytes(encode({name: np.int64(value) for name, value in values.items()}))
    sha256 = hashlib.sha256(data).hexdigest()
    h.ask("PUT", f"/v1/states/{sha256}?plan={h.plan.sha256}", body=data)
    return sha256


def put_other_plan(h, name="other", **state):
    """Stores a plan whose state has other tensors, and returns it."""
    update = (TensorSpec(path="count", dtype=DType.INT64, shape=()),)
    plan = make_plan(name, state=state, update=update, zero={"count": np.int64(0)})
    h.ask("PUT", f"/v1/plans/{plan.sha256}", body=plan.encode())
    return plan


def checkpoints(h, task=TASK):
    return CheckpointList.decode(h.ask("GET", f"/v1/tasks/{task}/checkpoints")).checkpoints


def state(h, version, task=TASK):
    return {name: int(value) for name, value in decode(h.ask("GET", f"/v1/tasks/{task}/checkpoints/{version}")).items()}


def refused(h, name="next", **options):
    """Returns the problem of a refused creation, and asserts that it created no task."""
    with pytest.raises(ProblemError) as error:
        h.create_task(name, **options)
    with pytest.raises(ProblemError):
        h.ask("GET", f"/v1/tasks/{name}")
    return error.value


def chain(h, version, task=TASK):
    """Returns the versions along the chain of parents, down to version 0."""
    parents = {view.version: view.parent for view in checkpoints(h, task)}
    versions = [version]
    while version:
        assert parents[version].task == task
        version = parents[version].version
        versions.append(version)
    return versions


# Starts.


def test_task_starts_from_the_checkpoint_of_another_task(h):
    h.begin(**POLICY)
    play(h, 0, 1)
    h.create_task("next", start=StateRef(task=TASK, version=1), rounds=1, goal=1)
    h.deliver_all()
    assert h.ask("GET", "/v1/tasks/next/checkpoints/0") == h.checkpoint(1)
    [first] = checkpoints(h, "next")
    assert (first.version, first.line, first.sha256) == (0, 0, checkpoints(h)[1].sha256)
    assert (first.parent.task, first.parent.version, first.parent.state) == (TASK, 1, None)
    round_ = TaskView.decode(h.ask("GET", "/v1/tasks/next")).current
    assert (round_.base.task, round_.base.version) == ("next", 0)
    broadcast = h.inner.rounds.list(names.rounds_path("next"))[0].value.terms.broadcast
    assert int(decode(h.inner.blobs.read(broadcast.name))["total"]) == 0b11


def test_task_starts_from_a_stored_state(h):
    h.put_plan()
    sha256 = put_state(h, total=64, rounds=9)
    h.create_task(start=StateRef(state=sha256), rounds=1, goal=2)
    h.deliver_all()
    play(h, 0, 1)
    assert h.task().status is TaskStatus.COMPLETED
    assert (state(h, 0), state(h, 1)) == ({"total": 64, "rounds": 9}, {"total": 67, "rounds": 10})
    first, second = checkpoints(h)
    assert (first.parent.state, first.parent.task) == (sha256, None)
    assert (second.parent.task, second.parent.version, second.line) == (TASK, 0, 1)


def test_only_the_named_leaves_are_taken(h):
    h.put_plan()
    sha256 = put_state(h, total=64, rounds=9)
    h.create_task(start=StateRef(state=sha256, leaves=("tot",)), rounds=1, goal=2)
    h.deliver_all()
    assert state(h, 0) == {"total": 64, "rounds": 0}
    assert checkpoints(h)[0].parent.leaves == ("tot",)


def test_leaves_come_from_the_state_of_another_plan(h):
    h.begin(**POLICY)
    play(h, 0, 1)
    plan = put_other_plan(h, total=np.int64(5), momentum=np.float32(0.5))
    start = StateRef(task=TASK, version=1, leaves=("total",))
    spec = TaskSpec(name="next", population=POPULATION, plan=plan.sha256, start=start)
    h.ask("POST", "/v1/tasks", body=spec.encode())
    h.deliver_all()
    tensors = decode(h.ask("GET", "/v1/tasks/next/checkpoints/0"))
    assert list(tensors) == ["total", "momentum"]
    assert (int(tensors["total"]), float(tensors["momentum"])) == (0b11, 0.5)


def test_deletion_of_the_source_breaks_no_task_that_started(h):
    h.begin(**POLICY)
    play(h, 0, 1)
    expected = h.checkpoint(1)
    h.create_task("next", start=StateRef(task=TASK, version=1), rounds=1, goal=2)
    h.deliver_all()
    h.inner.blobs.delete(h.blobs(f"checkpoints/{TASK}/"))
    spec = TaskView.decode(h.ask("GET", "/v1/tasks/next")).spec
    assert TaskView.decode(h.ask("POST", "/v1/tasks", body=spec.encode())).spec == spec
    assert h.ask("GET", "/v1/tasks/next/checkpoints/0") == expected


def test_source_that_disappears_before_the_opening_pauses_the_task(h):
    h.begin(**POLICY)
    play(h, 0, 1)
    h.create_task("next", start=StateRef(task=TASK, version=1))
    h.inner.blobs.delete(h.blobs(f"checkpoints/{TASK}/"))
    h.deliver_all()
    view = TaskView.decode(h.ask("GET", "/v1/tasks/next"))
    assert view.status is TaskStatus.PAUSED
    assert "was deleted; choose another one" in view.note


@pytest.mark.parametrize(
    ("start", "text"),
    [
        (StateRef(task="nothing", version=0), "There is no task 'nothing'"),
        (StateRef(task=TASK, version=2), "Round 2 of task sum is not committed"),
        (StateRef(task="next", version=0), "There is no task 'next'"),
        (StateRef(state="f" * 64), "There is no state ffffffffffff… here; upload it first"),
    ],
)
def test_missing_start_is_refused_at_the_creation(h, start, text):
    h.begin(**POLICY)
    problem = refused(h, start=start)
    assert problem.type is ProblemType.NOT_FOUND
    assert text in problem.detail


def test_prefix_that_matches_no_tensor_is_refused_by_name(h):
    h.begin(**POLICY)
    problem = refused(h, start=StateRef(task=TASK, version=0, leaves=("total", "weights/")))
    assert problem.type is ProblemType.INVALID_REQUEST
    assert [field.reason for field in problem.fields] == ["'weights/' is the prefix of no tensor of the state"]
    assert "which has total, rounds" in problem.detail


@pytest.mark.parametrize(
    ("other", "path", "reason"),
    [
        ({"total": np.int64(0)}, "rounds", "is missing"),
        ({"total": np.float32(0), "rounds": np.int64(0)}, "total", "has dtype float32; the plan says int64"),
        ({"total": np.int64(0), "rounds": np.zeros(3, np.int64)}, "rounds", "has shape [3]; the plan says []"),
        ({"total": np.int64(0), "rounds": np.int64(0), "more": np.int64(0)}, "more", "is not in the plan's state"),
    ],
)
def test_checkpoint_of_another_plan_that_does_not_fit_is_refused(h, other, path, reason):
    h.put_plan()
    plan = put_other_plan(h, **other)
    spec = TaskSpec(name=TASK, population=POPULATION, plan=plan.sha256)
    h.ask("POST", "/v1/tasks", body=spec.encode())
    h.deliver_all()
    problem = refused(h, start=StateRef(task=TASK, version=0))
    assert problem.type is ProblemType.INVALID_REQUEST
    assert [(field.path, field.reason) for field in problem.fields] == [(path, reason)]
    assert problem.detail.startswith("Checkpoint 0 of task sum does not fit the plan")


def test_stored_state_of_another_plan_is_refused(h):
    h.put_plan()
    plan = put_other_plan(h, w=np.float32(0))
    data = bytes(encode({"w": np.float32(1)}))
    sha256 = hashlib.sha256(data).hexdigest()
    h.ask("PUT", f"/v1/states/{sha256}?plan={plan.sha256}", body=data)
    assert refused(h, start=StateRef(state=sha256)).type is ProblemType.INVALID_REQUEST


def test_repeat_of_a_creation_with_another_start_is_a_conflict(h):
    h.put_plan()
    sha256 = put_state(h, total=1, rounds=1)
    for _ in range(2):
        h.create_task(start=StateRef(state=sha256))
    with pytest.raises(ProblemError) as error:
        h.create_task()
    assert error.value.type is ProblemType.CONFLICT


def test_clients_fetch_no_plan_for_a_task_from_another_checkpoint(tmp_path):
    h = Harness(tmp_path, durable=True)
    h.begin(rounds=1, goal=2, minimum=2)
    fetched = []
    application = router(h.app)

    def count(request):
        if request.method == "GET" and request.path.startswith("/v1/plans/"):
            fetched.append(request.path)
        return application(request)

    def contribute(task):
        for client in clients:
            outcome = client.run_once()
            assert isinstance(outcome, Contributed), outcome
            assert outcome.task == task
        h.deliver_all()

    with served(Request.application(count)) as url, ExitStack() as stack:
        # One client caches plans in memory, the other one in a folder.
        clients = [
            stack.enter_context(
                MusterClient(url, POPULATION, lambda: {"id": 0}, runtime_factory=lambda _: Worker(), cache=cache)
            )
            for cache in (None, tmp_path / "cache")
        ]
        contribute(TASK)
        before = len(fetched)
        h.create_task("next", start=StateRef(task=TASK, version=1), rounds=1, goal=2)
        h.deliver_all()
        contribute("next")
    assert before == 2
    assert len(fetched) - before == 0
    assert h.ask("GET", "/v1/tasks/next/checkpoints/0") == h.checkpoint(1)
    assert TaskView.decode(h.ask("GET", "/v1/tasks/next")).status is TaskStatus.COMPLETED


# Bases from outside the task.


def run_round(h, *clients):
    """Runs one round of the driven task."""
    h.run(f"round of {clients[0]}".replace(" ", "-"))
    h.deliver_all()
    play(h, *clients)


def test_round_from_a_stored_state_shows_its_base_and_deletes_its_copy(h):
    h.begin(driven=True, goal=1)
    run_round(h, 0)
    sha256 = put_state(h, total=32, rounds=4)
    start_from(h, StateRef(state=sha256))
    [blob] = h.blobs(f"bases/{TASK}/")
    assert blob.startswith(f"bases/{TASK}/000002-")
    view = h.task()
    assert (view.current.base.state, view.current.base.version, view.current.request) == (sha256, None, "a-request")
    # The newest checkpoint stays until the round is committed.
    assert (view.checkpoint, view.line) == (1, 1)
    h.inner.blobs.delete([names.state_name(sha256)])
    play(h, 1)
    h.deliver_all()
    assert state(h, 2) == {"total": 34, "rounds": 5}
    newest = checkpoints(h)[-1]
    assert (newest.version, newest.parent.state, newest.line, newest.request) == (2, sha256, 1, "a-request")
    assert h.blobs("bases/") == []


def test_attempt_after_an_abandoned_one_has_the_same_base(h):
    h.begin(driven=True, goal=2, minimum=2)
    run_round(h, 0, 1)
    sha256 = put_state(h, total=32, rounds=4)
    start_from(h, StateRef(state=sha256, leaves=("total",)))
    h.upload(h.assigned(1).token, sum_update(1))
    h.clock.advance(601)
    h.settle()
    reasons = [round_.reason for round_ in h.abandoned()]
    assert reasons == ["1 updates arrived by the deadline; the minimum is 2"]
    view = h.task()
    assert (view.checkpoint, view.current.epoch, view.current.base.state) == (1, 1, sha256)
    assert view.current.base.leaves == ("total",)
    play(h, 2, 3)
    assert state(h, 2) == {"total": 32 + 0b1100, "rounds": 1}


def test_state_by_value_continues_the_line_of_an_own_checkpoint(h):
    h.begin(driven=True, goal=1)
    run_round(h, 0)
    run_round(h, 1)
    start_from(h, StateRef(state=checkpoints(h)[1].sha256))
    view = h.task().current
    assert (view.base.task, view.base.version) == (TASK, 1)
    assert h.blobs("bases/") == []
    play(h, 2)
    assert chain(h, 3) == [3, 1, 0]
    assert checkpoints(h)[-1].line == 2


def test_cancellation_deletes_the_base_of_an_open_round(h):
    h.begin(driven=True, goal=1)
    run_round(h, 0)
    start_from(h, StateRef(state=put_state(h, total=32, rounds=4)))
    assert h.blobs("bases/")
    h.operate("cancel")
    h.settle()
    assert h.blobs("bases/") == []
    assert h.leftovers() == []


# Lines.


def test_file_that_is_missing_is_refused_by_name(h):
    h.begin(goal=1, rounds=3)
    play(h, 0)
    play(h, 1)
    h.inner.blobs.delete([*h.blobs(f"checkpoints/{TASK}/000001-"), *h.blobs(f"results/{TASK}/000001-")])
    for call in (lambda: h.checkpoint(1), lambda: h.result(1)):
        with pytest.raises(ProblemError, match="is no longer stored") as error:
            call()
        assert error.value.type is ProblemType.NOT_FOUND
    assert h.task().status is TaskStatus.ACTIVE
    assert chain(h, 2) == [2, 1, 0]


def test_parents_reach_version_0(h):
    h.begin(goal=1, rounds=3)
    for client in range(3):
        play(h, client)
    assert h.task().status is TaskStatus.COMPLETED
    assert chain(h, 3) == [3, 2, 1, 0]
    views = checkpoints(h)
    assert [view.line for view in views] == [0, 1, 2, 3]
    assert views[0].parent is None
    assert all(view.stored for view in views)
    rounds = RoundList.decode(h.ask("GET", f"/v1/tasks/{TASK}/rounds")).rounds
    assert [(view.base.task, view.base.version) for view in rounds] == [(TASK, 0), (TASK, 1), (TASK, 2)]
    assert h.task().line == 3


@pytest.mark.parametrize("version", [0, 1, 2])
def test_rollback_in_the_last_round_restores_the_budget_of_its_line(h, version):
    h.begin(goal=1, rounds=3)
    for client in range(2):
        play(h, client)
    assert h.task().current.round == 3
    h.operate("rollback", version=version)
    h.deliver_all()
    assert (h.task().checkpoint, h.task().line) == (version, version)
    for client in range(3 - version):
        assert h.task().status is TaskStatus.ACTIVE
        play(h, 10 + client)
    view = h.task()
    assert (view.status, view.line, view.checkpoint) == (TaskStatus.COMPLETED, 3, 5 - version)
    assert chain(h, view.checkpoint) == [*range(view.checkpoint, 2, -1), *range(version, -1, -1)]
    # The versions of the old branch are still listed, and numbers are not used again.
    assert [view.version for view in checkpoints(h)] == list(range(6 - version))
    assert state(h, view.checkpoint)["rounds"] == 3
    h.settle()
    assert h.leftovers() == []


def test_last_round_of_a_line_computes_no_broadcast(h):
    h.begin(goal=1, rounds=2)
    play(h, 0)
    h.operate("rollback", version=0)
    h.deliver_all()
    play(h, 1)
    assert h.task().status is TaskStatus.ACTIVE
    play(h, 2)
    assert [round_.broadcast is None for round_ in h.committed()] == [False, False, True]


def with_limit(plan: Plan, rounds: int) -> Plan:
    return Plan(plan.manifest.model_copy(update={"release": Release(minimum=1, max_rounds=rounds)}), plan.parts)


def test_rounds_of_every_branch_count_towards_the_limit_of_the_author(tmp_path):
    h = Harness(tmp_path, plan=with_limit(sum_plan(), 3))
    h.begin(goal=1, rounds=3)
    play(h, 0)
    play(h, 1)
    h.operate("rollback", version=0)
    h.deliver_all()
    play(h, 2)
    view = h.task()
    assert (view.status, view.checkpoint, view.line) == (TaskStatus.COMPLETED, 3, 1)
    assert "1 of 3 are committed on this line" in view.note
    assert h.committed()[-1].broadcast is None


def raise_rounds(h, rounds):
    """Changes the task's policy in its document."""
    record = h.inner.task(TASK)
    policy = record.value.spec.policy.model_copy(update={"rounds": rounds})
    spec = record.value.spec.model_copy(update={"policy": policy})
    h.inner.tasks.replace(record, replace(record.value, spec=spec))


@pytest.mark.parametrize("delivered", [True, False])
def test_task_whose_budget_was_raised_after_its_last_commit_goes_on(tmp_path, delivered):
    def raise_once():
        if h.record().number == 2 and h.record().spec.policy.rounds == 2:
            raise_rounds(h, 4)

    h = Harness(tmp_path)
    h.runtime._before_update = raise_once
    h.begin(goal=1, rounds=2)
    play(h, 0)
    h.upload(h.assigned(1).token, sum_update(1))
    if delivered:
        h.deliver_all()
    h.settle(minutes=4)
    committed = [round_ for round_ in h.rounds() if isinstance(round_, Committed)]
    assert committed[-1].broadcast is None
    view = h.task()
    assert (view.status, view.current.round, view.checkpoint) == (TaskStatus.ACTIVE, 3, 2)
    assert view.current.base.version == 2
    play(h, 2)
    play(h, 3)
    assert (h.task().status, h.task().line) == (TaskStatus.COMPLETED, 4)
    assert chain(h, 4) == [4, 3, 2, 1, 0]


def test_budget_that_was_raised_while_the_task_was_paused_is_used_once_it_resumes(h):
    h.begin(goal=1, rounds=1)
    token = h.assigned(0).token
    h.operate("pause")
    h.upload(token, sum_update(0))
    h.deliver_all()
    assert (h.task().status, len(h.committed())) == (TaskStatus.PAUSED, 1)
    raise_rounds(h, 2)
    h.operate("resume")
    h.deliver_all()
    play(h, 1)
    assert (h.task().status, h.task().line) == (TaskStatus.COMPLETED, 2)


def test_lowered_budget_completes_the_task(h):
    h.begin(goal=1, rounds=5)
    play(h, 0)
    raise_rounds(h, 2)
    play(h, 1)
    assert (h.task().status, h.task().line) == (TaskStatus.COMPLETED, 2)


def test_documents_of_an_earlier_version_count_every_round(h):
    """Their checkpoints have no line, and their rounds no origin and no request."""
    h.begin(goal=1, rounds=3)
    play(h, 0)
    play(h, 1)
    for path in ("tasks/sum", *(document.path for document in h.inner.documents.list("tasks/sum/rounds"))):
        document = h.inner.documents.get(path)
        h.inner.documents.replace(path, without_new_fields(dict(document.data)), version=document.version)
    assert h.task().line == 2
    assert chain(h, 2) == [2, 1, 0]
    play(h, 2)
    assert (h.task().status, h.task().line) == (TaskStatus.COMPLETED, 3)
    assert chain(h, 3) == [3, 2, 1, 0]


def without_new_fields(data):
    """Returns a document as the version before lineage wrote it."""
    if not isinstance(data, dict):
        return data
    new = {"line", "origin", "request", "tripped", "worsened", "created", "run", "tags", "archived", "guarded"}
    return {name: without_new_fields(value) for name, value in data.items() if name not in new}
