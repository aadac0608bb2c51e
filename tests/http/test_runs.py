"""Driven tasks: rounds on request, under an idempotency key."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.harness import TASK, Harness
from support.plans import SumRuntime, sum_plan, sum_update

from muster.wire.messages import Phase, RunStatus, TaskStatus, Wait, WaitReason
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import decode
from muster_coordinator.domain import names
from muster_coordinator.domain.rounds import Abandoned, Collecting
from muster_coordinator.domain.tasks import rollback


@pytest.fixture
def h(tmp_path) -> Harness:
    """A coordinator with an idle driven task."""
    harness = Harness(tmp_path)
    harness.begin(driven=True, goal=2, minimum=2, rounds=1, round_seconds=100, assignment_seconds=1000)
    return harness


def contribute(h, *clients):
    for client in clients:
        h.upload(h.assigned(client).token, sum_update(client))
    h.deliver_all()


def commit(h, request, *clients, **options):
    """Runs one round with the contributions of the clients."""
    h.run(request, **options)
    h.deliver_all()
    contribute(h, *clients)
    return h.get_run(request)


def total(h, version):
    return int(decode(h.checkpoint(version))["total"])


def refusal(call, kind, text):
    with pytest.raises(ProblemError) as refused:
        call()
    assert (refused.value.type, refused.value.detail) == (kind, text)
    return refused.value


def test_new_driven_task_has_version_0_and_no_round(h):
    task = h.task()
    assert (task.status, task.current, task.run, task.checkpoint) == (TaskStatus.IDLE, None, None, 0)
    assert h.rounds() == []
    assert h.runtime.updated == 0
    assert h.checkpoint(0) == bytes(h.plan.part(h.plan.manifest.initial_state))
    listed = json.loads(h.ask("GET", f"/v1/tasks/{TASK}/checkpoints"))["checkpoints"]
    assert [view["version"] for view in listed] == [0]
    h.settle()
    assert h.rounds() == []


def test_clients_wait_while_the_task_is_idle(h):
    answer = h.checkin(0)
    assert isinstance(answer, Wait)
    assert answer.reason is WaitReason.BETWEEN_ROUNDS
    commit(h, "a", 0, 1)
    h.clock.advance(100)
    # The longer the task is idle, the less often clients ask.
    assert 25 <= h.checkin(2).retry_after <= 32


def test_run_commits_its_rounds_and_leaves_the_task_idle(h):
    view = h.run("first", rounds=2, goal=3)
    assert (view.request, view.status, view.first_round, view.rounds, view.goal) == (
        "first",
        RunStatus.RUNNING,
        1,
        2,
        3,
    )
    assert (view.base.task, view.base.version, view.round) == (TASK, 0, None)
    h.deliver_all()
    round_ = h.get_run("first").round
    assert (round_.round, round_.goal, round_.minimum, round_.request) == (1, 3, 2, "first")
    assert h.task().status is TaskStatus.ACTIVE
    contribute(h, 0, 1, 2)
    assert h.get_run("first").status is RunStatus.RUNNING
    assert h.get_run("first").round.round == 2
    contribute(h, 3, 4, 5)
    done = h.get_run("first")
    assert (done.status, done.round.phase, done.round.round) == (RunStatus.DONE, Phase.COMMITTED, 2)
    task = h.task()
    assert (task.status, task.checkpoint, task.run) == (TaskStatus.IDLE, 2, done)
    assert (total(h, 0), total(h, 1), total(h, 2)) == (0, 0b111, 0b111111)
    h.settle()
    assert len(h.rounds()) == 2
    assert h.blobs("broadcasts/") == h.leftovers() == []


def test_last_round_of_a_run_computes_no_further_broadcast(h):
    commit(h, "a", 0, 1)
    assert h.committed()[0].broadcast is None


def test_policy_rounds_do_not_bound_a_driven_task(h):
    for at, request in enumerate("abc"):
        commit(h, request, 2 * at, 2 * at + 1)
    assert h.task().status is TaskStatus.IDLE
    assert total(h, 3) == 0b111111


def test_repeat_of_a_request_returns_the_same_run(h):
    h.run("a")
    assert h.run("a").status is RunStatus.RUNNING
    h.deliver_all()
    assert h.run("a").round.round == 1
    contribute(h, 0, 1)
    done = h.run("a")
    assert done.status is RunStatus.DONE
    commit(h, "b", 2, 3)
    assert h.run("a") == h.get_run("a") == done
    assert [round_.key.number for round_ in h.rounds()] == [1, 2]
    h.operate("complete")
    assert h.run("a") == done


def test_other_request_on_the_same_base_is_a_further_attempt(h):
    commit(h, "a", 0, 1)
    again = commit(h, "again", 2, 3, base={"version": 0})
    assert (again.base.version, again.round.round) == (0, 2)
    assert (total(h, 1), total(h, 2)) == (0b11, 0b1100)
    commit(h, "next", 4, 5)
    assert total(h, 3) == 0b111100
    assert [(round_.terms.base.version, round_.terms.request) for round_ in h.rounds()] == [
        (0, "a"),
        (0, "again"),
        (2, "next"),
    ]


def test_below_the_minimum_a_run_is_retried_with_its_goal(h):
    h.run("a", goal=3)
    h.deliver_all()
    contribute(h, 0)
    h.clock.advance(100)
    h.deliver_all()
    (abandoned,) = h.abandoned()
    assert abandoned.reason == "1 updates arrived by the deadline; the minimum is 2"
    run = h.get_run("a")
    assert (run.status, run.round.epoch, run.round.goal, run.round.request) == (RunStatus.RUNNING, 1, 3, "a")
    contribute(h, 1, 2, 3)
    assert h.get_run("a").status is RunStatus.DONE
    assert total(h, 1) == 0b1110


def test_abandoned_attempt_from_an_older_base_keeps_the_newest_checkpoint(h):
    commit(h, "a", 0, 1)
    h.run("again", base={"version": 0})
    assert h.task().checkpoint == 1
    h.deliver_all()
    assert h.task().checkpoint == 1
    contribute(h, 2)
    h.clock.advance(100)
    h.deliver_all()
    assert (h.task().checkpoint, h.round().key.epoch, h.round().terms.base.version) == (1, 1, 0)


def test_run_after_a_cancelled_one_of_the_same_round_stays_done(h):
    h.run("cancelled")
    h.deliver_all()
    h.operate("rollback", version=0)
    done = commit(h, "done", 0, 1)
    assert (done.first_round, done.round.epoch) == (1, 1)
    commit(h, "later", 2, 3)
    assert h.get_run("done") == done
    assert (h.get_run("cancelled").status, h.get_run("cancelled").round.epoch) == (RunStatus.CANCELLED, 0)


# Refusals of `:run`.


def test_request_with_other_arguments_is_refused(h):
    h.run("a", goal=3)
    text = "Request 'a' has started a run with another {}; repeat it as it was, or use another request"
    refusal(lambda: h.run("a"), ProblemType.CONFLICT, text.format("goal"))
    refusal(lambda: h.run("a", rounds=2), ProblemType.CONFLICT, text.format("goal and rounds"))
    refusal(lambda: h.run("a", goal=3, base={"version": 0}), ProblemType.CONFLICT, text.format("base"))
    h.deliver_all()
    contribute(h, 0, 1, 2)
    commit(h, "b", 3, 4)
    refusal(lambda: h.run("a"), ProblemType.CONFLICT, text.format("goal"))


def test_second_run_is_refused_while_one_is_in_progress(h):
    h.run("a")
    text = "Task sum can't start run 'b': its run 'a' is in progress; repeat the request when that is done"
    refusal(lambda: h.run("b"), ProblemType.CONFLICT, text)
    h.deliver_all()
    refusal(lambda: h.run("b"), ProblemType.CONFLICT, text)
    contribute(h, 0, 1)
    assert h.run("b").first_round == 2


def test_run_of_a_new_task_is_refused_until_version_0_is_stored(tmp_path):
    h = Harness(tmp_path)
    h.put_plan()
    h.create_task(driven=True)
    problem = refusal(
        lambda: h.run("a"),
        ProblemType.UNAVAILABLE,
        "Task sum is opening: its version 0 is being stored; repeat the request",
    )
    assert problem.retry_after == 1.0
    h.deliver_all()
    assert h.run("a").status is RunStatus.RUNNING


def test_run_of_a_task_that_is_not_driven_is_refused(tmp_path):
    h = Harness(tmp_path)
    h.begin()
    text = "Task sum runs its rounds by itself; to run rounds on request, create a task with driven set"
    refusal(lambda: h.run("a"), ProblemType.CONFLICT, text)
    refusal(
        lambda: h.operate("complete"),
        ProblemType.CONFLICT,
        "Task sum completes by itself after its last round; cancel it to end it before that",
    )


def test_goal_below_the_minimum_is_refused(h):
    problem = refusal(
        lambda: h.run("a", goal=1),
        ProblemType.INVALID_REQUEST,
        "RunRequest is not valid: goal is 1, and no round of task sum may have a result of fewer than 2 updates "
        "(its minimum); use 2 or more",
    )
    assert [field.path for field in problem.fields] == ["goal"]
    assert h.task().status is TaskStatus.IDLE


def test_rounds_above_those_of_the_author_are_refused(tmp_path):
    plan = sum_plan()
    release = type(plan.manifest).model_fields["release"].annotation.__args__[0](minimum=2, max_rounds=3)
    limited = type(plan)(plan.manifest.model_copy(update={"release": release}), plan.parts)
    h = Harness(tmp_path, plan=limited)
    h.begin(driven=True, goal=2, minimum=2, rounds=9)  # which do not bound a driven task
    text = "RunRequest is not valid: rounds is {}, and the plan's author allows a task at most 3 rounds, of which {}"
    used = "{} are used in task sum; {}"
    refusal(
        lambda: h.run("a", rounds=4),
        ProblemType.INVALID_REQUEST,
        text.format(4, used.format(0, "use 3 or fewer")),
    )
    h.run("a", rounds=3)
    h.deliver_all()
    for first in (0, 2, 4):
        contribute(h, first, first + 1)
    # Every committed round counts, also those of another branch.
    refusal(
        lambda: h.run("b", base={"version": 0}),
        ProblemType.INVALID_REQUEST,
        text.format(1, used.format(3, "create another task")),
    )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"kind": "analytics", "policy": {"rounds": 1}}, "kind analytics has one round, so it can't be driven"),
        (
            {"kind": "evaluate", "evaluates": {"task": "model"}},
            "evaluates and driven exclude each other: the training task requests the rounds",
        ),
    ],
)
def test_driven_task_of_another_kind_is_refused(fields, reason, h):
    body = {"name": "other", "population": "phones", "plan": h.plan.sha256, "driven": True, **fields}
    with pytest.raises(ProblemError) as refused:
        h.ask("POST", "/v1/tasks", body=json.dumps(body).encode())
    assert refused.value.type is ProblemType.INVALID_REQUEST
    assert reason in refused.value.detail


def test_unknown_base_is_refused(h):
    refusal(lambda: h.run("a", base={"version": 7}), ProblemType.NOT_FOUND, "Round 7 of task sum is not committed")
    assert h.task().status is TaskStatus.IDLE


def test_run_of_a_paused_or_ended_task_is_refused(h):
    h.operate("pause")
    refusal(lambda: h.run("a"), ProblemType.CONFLICT, "Task sum can't start run 'a': it is paused; resume it first")
    h.operate("resume")
    h.operate("cancel")
    refusal(lambda: h.run("a"), ProblemType.CONFLICT, "Task sum can't start run 'a': it is cancelled")
    refusal(lambda: h.operate("complete"), ProblemType.CONFLICT, "Task sum can't be completed: it is cancelled")


def test_unknown_run_is_not_found(h):
    refusal(lambda: h.get_run("x"), ProblemType.NOT_FOUND, "Task sum has no run 'x'; `:run` starts one")
    h.run("a")
    refusal(lambda: h.get_run("x"), ProblemType.NOT_FOUND, "Task sum has no run 'x'; `:run` starts one")


@pytest.mark.parametrize("key", ["broadcast", "A.b_c:d-1", "1", "x" * 128])
def test_run_may_have_any_key(key, h):
    commit(h, key, 0, 1)
    assert h.get_run(key).status is RunStatus.DONE


# Pause, rollback, cancellation and completion.


def test_paused_idle_task_resumes_to_idle(h):
    commit(h, "a", 0, 1)
    assert h.operate("pause").status is TaskStatus.PAUSED
    h.settle()
    assert h.task().status is TaskStatus.PAUSED
    assert h.operate("resume").status is TaskStatus.IDLE
    assert h.operate("resume").status is TaskStatus.IDLE
    assert len(h.rounds()) == 1


def test_run_paused_in_its_last_round_ends_when_resumed(h):
    h.run("a")
    h.deliver_all()
    tokens = [h.assigned(client).token for client in (0, 1)]
    h.operate("pause")
    for client, token in enumerate(tokens):
        h.upload(token, sum_update(client))
    h.settle()
    assert (h.task().status, h.get_run("a").status) == (TaskStatus.PAUSED, RunStatus.DONE)
    assert h.operate("resume").status is TaskStatus.IDLE
    assert h.task().checkpoint == 1
    commit(h, "b", 2, 3)
    assert total(h, 2) == 0b1111


def test_run_paused_between_its_rounds_continues_when_resumed(h):
    h.run("a", rounds=2)
    h.deliver_all()
    contribute(h, 0, 1)
    h.operate("pause")
    h.settle()
    h.operate("resume")
    assert (h.task().status, h.get_run("a").status) == (TaskStatus.ACTIVE, RunStatus.RUNNING)
    contribute(h, 2, 3)
    assert (h.get_run("a").status, h.task().status) == (RunStatus.DONE, TaskStatus.IDLE)


def test_rollback_of_an_idle_task_moves_the_default_base(h):
    commit(h, "a", 0, 1)
    before = h.record()
    task = h.operate("rollback", version=0)
    assert (task.status, task.checkpoint) == (TaskStatus.IDLE, 0)
    h.settle()
    assert len(h.rounds()) == 1
    assert h.record().run == before.run
    commit(h, "b", 2, 3)
    assert (h.round().key.number, total(h, 1), total(h, 2)) == (2, 0b11, 0b1100)


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("paused", [False, True])
def test_rollback_ends_the_run_in_progress(opened, paused, h):
    commit(h, "a", 0, 1)
    h.run("b")
    if opened or paused:
        h.deliver_all()
    if paused:
        h.operate("pause")
    task = h.operate("rollback", version=0)
    assert (task.status, task.checkpoint) == (TaskStatus.PAUSED if paused else TaskStatus.IDLE, 0)
    assert h.get_run("b").status is RunStatus.CANCELLED
    h.settle()
    assert not [round_ for round_ in h.rounds() if isinstance(round_, Collecting)]
    if paused:
        assert h.task().status is TaskStatus.PAUSED
        assert h.operate("resume").status is TaskStatus.IDLE
    assert h.run("b").status is RunStatus.CANCELLED
    assert commit(h, "c", 2, 3).first_round == 2
    assert (h.task().checkpoint, total(h, 2)) == (2, 0b1100)
    assert h.get_run("b").status is RunStatus.CANCELLED
    h.settle()
    assert h.leftovers() == []


def test_interrupted_rollback_of_a_run_is_completed_by_the_tick(h):
    h.run("a")
    h.deliver_all()
    contribute(h, 0)
    checkpoint = h.record().checkpoint
    h.inner.change_task(TASK, lambda task: rollback(task, checkpoint))  # only the first step
    h.tick()
    assert isinstance(h.round(), Abandoned)
    h.deliver_all()
    assert h.leftovers() == []


def test_interrupted_rollback_of_a_run_is_completed_by_the_next_run(h):
    h.run("a")
    h.deliver_all()
    contribute(h, 0)
    checkpoint = h.record().checkpoint
    h.inner.change_task(TASK, lambda task: rollback(task, checkpoint))  # only the first step
    assert commit(h, "b", 1, 2).round.epoch == 1
    assert total(h, 1) == 0b110


@pytest.mark.parametrize("version", [0, 1])
def test_run_never_gets_the_round_of_an_interrupted_one(version, h):
    """A superseded opening leaves its broadcast, and its round, under the same number."""
    commit(h, "a", 0, 1)
    h.run("b", base={"version": version})
    runs = [lambda: (h.operate("rollback", version=1), h.run("c"))]

    class Interrupted(SumRuntime):
        def prepare(self, state, **limit):
            if runs:
                runs.pop()()
            return super().prepare(state, **limit)

    h.application(runtime=Interrupted()).task_opener.open(TASK)
    h.deliver_all()
    round_ = h.round()
    assert (round_.terms.request, round_.terms.base.version) == ("c", 1)
    assert int(decode(h.inner.blobs.read(round_.terms.broadcast.name))["total"]) == 0b11
    contribute(h, 2, 3)
    assert total(h, h.task().checkpoint) == 0b1111
    assert h.get_run("b").status is RunStatus.CANCELLED
    h.settle()
    assert h.leftovers() == []


def test_run_whose_document_was_lost_is_found_after_the_next_one(h):
    first = commit(h, "a", 0, 1)
    # The process died right after the first write of the run.
    h.inner.documents.delete(names.request_path(TASK, "a"))
    assert h.get_run("a") == first
    commit(h, "b", 2, 3)
    assert h.get_run("a") == h.run("a") == first


def test_cancellation_ends_the_run(h):
    h.run("a")
    h.deliver_all()
    assert h.operate("cancel").status is TaskStatus.CANCELLED
    assert h.get_run("a").status is RunStatus.CANCELLED
    h.settle()
    assert h.blobs("broadcasts/") == h.leftovers() == []
    assert h.checkpoint(0)


def test_complete_ends_an_idle_task(h):
    commit(h, "a", 0, 1)
    assert h.operate("complete").status is TaskStatus.COMPLETED
    assert h.operate("complete").status is TaskStatus.COMPLETED
    assert h.checkin(5).reason is WaitReason.NO_TASK
    assert total(h, 1) == 0b11
    refusal(lambda: h.run("b"), ProblemType.CONFLICT, "Task sum can't start run 'b': it is completed")
    h.settle()
    assert h.leftovers() == []


def test_paused_idle_task_can_be_completed(h):
    h.operate("pause")
    assert h.operate("complete").status is TaskStatus.COMPLETED


def test_complete_is_refused_while_a_run_is_in_progress(h):
    h.run("a")
    text = "Task sum can't be completed: its run 'a' is in progress; wait until that is done, or cancel the task"
    refusal(lambda: h.operate("complete"), ProblemType.CONFLICT, text)
    h.deliver_all()
    refusal(lambda: h.operate("complete"), ProblemType.CONFLICT, text)
    contribute(h, 0, 1)
    assert h.operate("complete").status is TaskStatus.COMPLETED


def test_run_and_complete_are_audited(h):
    h.run("a", goal=2)
    h.operate("cancel")
    entries = json.loads(h.ask("GET", "/v1/audit"))["entries"]
    (entry,) = [entry for entry in entries if entry["action"] == "task.run"]
    assert (entry["subject"], entry["request"], entry["result"]) == (
        TASK,
        {"request": "a", "rounds": 1, "goal": 2},
        "done",
    )
    assert (entry["before"]["status"], entry["after"]["status"], entry["after"]["run"]) == ("idle", "opening", "a")


def test_failed_opening_pauses_the_run_until_it_is_resumed(tmp_path):
    class Failing(SumRuntime):
        def prepare(self, state, **_):  # noqa: ARG002  the runtime's signature
            raise ProblemError(ProblemType.COMPUTATION_FAILED, "The plan's prepare failed: division by zero")

    h = Harness(tmp_path, runtime=Failing())
    h.begin(driven=True, goal=2)
    h.run("a")
    h.deliver_all()
    task = h.task()
    assert (task.status, task.run.status) == (TaskStatus.PAUSED, RunStatus.RUNNING)
    assert task.note == "The first broadcast can't be computed: The plan's prepare failed: division by zero"
    h.runtime = SumRuntime()
    h.operate("resume")
    h.deliver_all()
    contribute(h, 0, 1)
    assert (h.get_run("a").status, h.task().status, h.task().note) == (RunStatus.DONE, TaskStatus.IDLE, "")


# Concurrency.


@pytest.mark.parametrize("attempt", range(3))
def test_concurrent_requests_with_one_key_start_one_round(attempt, tmp_path):
    h = Harness(tmp_path, durable=True)
    h.begin(driven=True, goal=2)
    if attempt:
        commit(h, "earlier", 0, 1)
    first = 1 + len(h.rounds())
    with ThreadPoolExecutor(8) as pool:
        views = list(pool.map(lambda _: h.run("a", rounds=1), range(8)))
    assert len({view.first_round for view in views}) == 1
    assert {view.status for view in views} == {RunStatus.RUNNING}
    h.deliver_all()
    assert [round_.key.id for round_ in h.rounds()][first - 1 :] == [names.RoundKey(TASK, first, 0).id]
    contribute(h, 2, 3)
    assert h.get_run("a").status is RunStatus.DONE
    assert len(h.rounds()) == first


def test_of_concurrent_requests_one_starts_and_the_others_are_refused(tmp_path):
    h = Harness(tmp_path, durable=True)
    h.begin(driven=True, goal=2)

    def run(request):
        try:
            return h.run(request)
        except ProblemError as problem:
            return problem

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(run, "abcdefgh"))
    (started,) = [answer for answer in answers if not isinstance(answer, ProblemError)]
    refused = [answer for answer in answers if isinstance(answer, ProblemError)]
    assert {problem.type for problem in refused} == {ProblemType.CONFLICT}
    assert all(f"its run {started.request!r} is in progress" in problem.detail for problem in refused)
    h.deliver_all()
    assert [round_.terms.request for round_ in h.rounds()] == [started.request]
