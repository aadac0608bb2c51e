"""Attempts to release a result of fewer clients than the plan's author allows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.harness import POPULATION, TASK
from support.plans import sum_plan, sum_update
from support.secured_harness import SIGNER, SecuredHarness

from muster.wire.manifest import Release
from muster.wire.messages import Assignment, TaskPolicy, TaskSpec, TaskStatus, Wait, WaitReason
from muster.wire.plan import Plan
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.domain import names

DAY = 86400.0  # seconds


def released(**floor) -> Plan:
    plan = sum_plan()
    return Plan(plan.manifest.model_copy(update={"release": Release(**floor)}), plan.parts)


def begun(tmp_path, issuer, floor, **policy):
    h = SecuredHarness(tmp_path, issuer, plan=released(**floor))
    h.begin(**policy)
    return h


def contribute(h, *clients):
    for client in clients:
        h.upload(h.assigned(client).token, sum_update(client))


def edit(h, path, **changes):
    """Edits a stored document directly, as a caller with a function's permissions can.

    `__` in a field's name stands for a level of nesting.
    """
    document = h.inner.documents.get(path)
    data = dict(document.data)
    for name, value in changes.items():
        place, *fields = data, *name.split("__")
        for field in fields[:-1]:
            place[field] = place = dict(place[field])
        place[fields[-1]] = value
    h.inner.documents.replace(path, data, version=document.version)
    h.restart()


def nothing_is_released(h):
    assert h.committed() == []
    assert h.runtime.reported == []
    assert h.blobs("results/") == []
    assert [name for name in h.blobs("checkpoints/") if "/000000-" not in name] == []


@pytest.mark.parametrize(
    "at", ["before the first check-in", "before the deadline", "once it has closed", "before the commit"]
)
def test_minimum_lowered_in_the_store_releases_nothing(tmp_path, issuer, at):
    h = begun(tmp_path, issuer, {"minimum": 3}, goal=4, minimum=3, over_selection=2.0, rounds=2, round_seconds=1000)

    def lowered(when):
        if at == when:
            edit(h, names.round_path(h.key()), terms__minimum=1, terms__goal=1)
            edit(h, names.task_path(TASK), spec__policy__minimum=1, spec__policy__goal=1)

    lowered("before the first check-in")
    contribute(h, 0, 1)
    lowered("before the deadline")
    h.deliver_all()
    nothing_is_released(h)
    h.clock.advance(1001)
    if at in ("once it has closed", "before the commit"):
        round_ = h.inner.round(h.key())
        closed = {"phase": "AGGREGATING", "closed_at": h.clock.now()}
        data = {**round_.document.data, **closed}
        h.inner.documents.replace(round_.document.path, data, version=round_.document.version)
        lowered("once it has closed")
        if at == "before the commit":
            # A closing and partials as if two updates sufficed.
            edit(h, names.round_path(h.key()), terms__minimum=1, terms__goal=1)
            plans = h.app.plans
            lenient = replace(plans._load_copy(h.plan.sha256), manifest=sum_plan().manifest)
            plans._copies.put(h.plan.sha256, lenient)
            h.app.round_closer.close(h.key())
            h.restart()
    h.settle()
    nothing_is_released(h)
    assert h.abandoned()
    assert "minimum is 3" in h.abandoned()[0].reason
    # The next attempt opens with the floor as its minimum, whatever the task's document says.
    again = h.assigned(0)
    assert (again.goal >= 3, again.minimum) == (True, 3)


@pytest.mark.parametrize("task_too", [False, True])
def test_round_moved_to_a_plan_without_floor_is_not_committed(tmp_path, issuer, task_too):
    h = begun(tmp_path, issuer, {"minimum": 3}, goal=3, minimum=3, rounds=1, round_seconds=1000)
    bare = sum_plan().signed(SIGNER)
    h.ask("PUT", f"/v1/plans/{bare.sha256}", body=bare.encode())
    token = h.assigned(0).token
    edit(h, names.round_path(h.key()), terms__plan=bare.sha256, terms__minimum=1, terms__goal=1)
    if task_too:
        edit(h, names.task_path(TASK), spec__plan=bare.sha256)
    with pytest.raises(ProblemError) as refused:  # an update for one plan is not valid for another
        h.upload(token, sum_update(0))
    assert refused.value.type is ProblemType.ROUND_CLOSED
    if not task_too:
        assert isinstance(h.checkin(1), Wait)
        h.inner.blobs.create(names.update_name(h.key(), 0, "0" * 32), [b"x" * 300])
        h.clock.advance(1001)
        h.settle()
        assert h.task().status is TaskStatus.PAUSED
        assert "documents was changed" in h.task().note
    nothing_is_released(h)


def test_policy_below_the_plans_floor_is_refused_with_fix(tmp_path, issuer):
    h = SecuredHarness(tmp_path, issuer, plan=released(minimum=20, max_rounds=5, separation_seconds=3600))
    h.put_plan()

    def refused(**policy):
        with pytest.raises(ProblemError) as caught:
            h.create_task(**{"minimum": 20, "goal": 20, "rounds": 5, "separation_seconds": 3600, **policy})
        assert caught.value.type is ProblemType.INVALID_REQUEST
        assert all(
            field.path in caught.value.detail and field.reason in caught.value.detail for field in caught.value.fields
        )
        return {field.path.removeprefix("policy."): field.reason for field in caught.value.fields}

    assert refused(minimum=19) == {"minimum": "is 19, and the plan's author set a minimum of 20; use 20 or more"}
    assert set(refused(goal=19, minimum=19)) == {"goal", "minimum"}
    assert refused(rounds=6) == {"rounds": "is 6, and the plan's author allows at most 5; use 5 or fewer"}
    assert "separation of 3600 seconds; use 3600 or more" in refused(separation_seconds=3599.5)["separation_seconds"]
    spec = TaskSpec(name=TASK, population=POPULATION, plan=h.plan.sha256)  # the default
    with pytest.raises(ProblemError) as caught:
        h.ask("POST", "/v1/tasks", body=spec.encode())
    assert len(caught.value.fields) == 4
    assert h.ask("GET", "/v1/tasks") == b'{"tasks":[],"unreadable":[]}'
    h.create_task(minimum=20, goal=20, rounds=5, separation_seconds=3600)


def test_plan_limits_the_number_of_rounds(tmp_path, issuer):
    h = begun(tmp_path, issuer, {"minimum": 1, "max_rounds": 2}, goal=1, rounds=2)
    edit(h, names.task_path(TASK), spec__policy__rounds=9)
    contribute(h, 0)
    h.deliver_all()
    second = h.key()
    contribute(h, 0)
    h.settle()
    assert [round_.key.number for round_ in h.committed()] == [1, 2]
    assert h.task().status is TaskStatus.COMPLETED
    assert len(h.rounds()) == 2
    # A third round that is written into the store gets no result either.
    third = replace(second, number=3)
    round_ = dict(h.inner.documents.get(names.round_path(second)).data)
    terms = {**round_["terms"], "opened_at": h.clock.now(), "deadline": h.clock.now() + 1000}
    made = {"schema_version": 1, "key": {**round_["key"], "number": 3}, "terms": terms, "phase": "COLLECTING"}
    h.inner.documents.create(names.round_path(third), made)
    edit(h, names.task_path(TASK), number=3, status="active")
    h.inner.documents.create(names.member_path(POPULATION, TASK), {})
    contribute(h, 0)
    h.settle()
    assert len(h.committed()) == 2
    assert h.task().status is TaskStatus.PAUSED
    assert "does not allow a task to commit so many rounds" in h.task().note
    assert len(h.blobs("results/")) == 2


def test_rollback_does_not_reset_the_round_count(tmp_path, issuer):
    h = begun(tmp_path, issuer, {"minimum": 1, "max_rounds": 2}, goal=1, rounds=2)
    contribute(h, 0)
    h.deliver_all()
    h.operate("rollback", version=0)
    h.deliver_all()
    contribute(h, 0)
    h.settle()
    assert [round_.key.number for round_ in h.committed()] == [1, 2]
    assert h.task().status is TaskStatus.COMPLETED


def test_separation_removed_in_the_store_still_applies(tmp_path, issuer):
    h = begun(tmp_path, issuer, {"minimum": 1, "separation_seconds": DAY}, goal=1, rounds=9, separation_seconds=DAY)
    cookie = h.upload(h.assigned(0).token, sum_update(0)).cookie
    edit(h, names.task_path(TASK), spec__policy__separation_seconds=0.0)
    h.deliver_all()
    answer = h.checkin(0, cookie=cookie)
    assert isinstance(answer, Wait)
    assert answer.reason is WaitReason.TOO_SOON


def test_separation_applies_across_two_tasks(tmp_path, issuer):
    """Results of N and N - 1 clients would reveal one update. Needs a separation."""
    h = SecuredHarness(tmp_path, issuer)
    h.put_plan()
    for name, goal in (("six", 6), ("five", 5)):
        h.create_task(name, goal=goal, minimum=goal, rounds=1, separation_seconds=DAY)
    h.deliver_all()
    cookies = [h.upload(h.checkin(client).token, sum_update(client)).cookie for client in range(3)]
    for client, cookie in enumerate(cookies):
        for _ in range(4):
            assert h.checkin(client, cookie=cookie).reason is WaitReason.TOO_SOON
    # Not defended: a client that discards its cookie, and tasks without a separation.
    assert isinstance(h.checkin(0), Assignment)


def test_deployment_minimum_applies_to_every_operator(tmp_path, issuer):
    h = SecuredHarness(tmp_path, issuer, given={"least_minimum": 10})
    h.put_plan()
    with pytest.raises(ProblemError) as caught:
        h.create_task(goal=12, minimum=9)
    (field,) = caught.value.fields
    assert (caught.value.type, field.path) == (ProblemType.INVALID_REQUEST, "policy.minimum")
    assert "is 9, and this deployment makes no task below 10 (MUSTER_MINIMUM); use 10 or more" in caught.value.detail
    h.create_task(goal=12, minimum=10)
    # An existing task remains, and a repeated create returns it.
    h._guards["least_minimum"] = 11
    h.restart()
    assert h.create_task(goal=12, minimum=10).spec.policy == TaskPolicy(goal=12, minimum=10)
    with pytest.raises(ProblemError):
        h.create_task("other", goal=12, minimum=10)
