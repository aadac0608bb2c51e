"""Change of a task's policy: what it changes, from when on, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.faults import Crash, Fault, FaultyDocuments, FaultyQueue, Schedule, When
from support.harness import POPULATION, TASK, Harness
from support.plans import SumRuntime, sum_plan, sum_update

from muster.wire.manifest import Release
from muster.wire.messages import TaskChange, TaskPolicy, TaskSpec, TaskStatus, TaskView
from muster.wire.plan import Plan
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.domain import names


def change(h: Harness, **policy: Any) -> TaskView:
    return TaskView.decode(h.ask("PATCH", f"/v1/tasks/{TASK}", json={"policy": policy}))


def refused(h: Harness, **policy: Any) -> ProblemError:
    with pytest.raises(ProblemError) as problem:
        change(h, **policy)
    return problem.value


def run_round(h: Harness, client: int = 0) -> None:
    goal = h.task().spec.policy.goal if h.task().current is None else h.round().terms.goal
    for number in range(client, client + goal):
        h.upload(h.assigned(number).token, sum_update(number))
    h.deliver_all()


def begun(root: Path, **policy: Any) -> Harness:
    h = Harness(root)
    h.begin(**{"rounds": 9, "goal": 1, "shards": 1, **policy})
    return h


def test_change_applies_from_the_next_round_on(tmp_path):
    h = begun(tmp_path)
    before = h.round()
    view = change(h, goal=2, round_seconds=77)
    assert (view.spec.policy.goal, view.spec.policy.round_seconds, view.spec.policy.minimum) == (2, 77, 1)
    assert h.round() == before, "the open round keeps its terms"
    run_round(h)
    terms = h.round().terms
    assert (terms.goal, terms.cap, terms.deadline - terms.opened_at) == (2, 2, 77)


def test_change_applies_from_the_next_attempt_on(tmp_path):
    h = begun(tmp_path, goal=2, minimum=2, round_seconds=100)
    h.upload(h.assigned(0).token, sum_update(0))
    change(h, goal=1, minimum=1)
    h.clock.advance(101)
    h.deliver_all()
    assert h.key().epoch == 1
    assert h.round().terms.goal == 1


def test_change_during_a_commit_applies_to_the_next_round(tmp_path):
    h = Harness(tmp_path, runtime=SumRuntime(before_update=lambda: change(h, goal=3)))
    h.begin(rounds=3, goal=1, shards=1)
    run_round(h)
    assert (h.key().number, h.round().terms.goal) == (2, 3)


def test_null_restores_a_default(tmp_path):
    h = begun(tmp_path, goal=5, round_seconds=100, max_update_age=5)
    view = change(h, minimum=None, max_update_age=None)
    assert (view.spec.policy.minimum, view.spec.policy.max_update_age) == (5, TaskPolicy().max_update_age)
    assert view.spec.policy.round_seconds == 100


def test_parts_of_the_policy_are_replaced_as_a_whole(tmp_path):
    h = begun(tmp_path, guards={"worsening": {"metric": "count", "rounds": 2}})
    view = change(h, guards={"non_finite": False}, retention={"last": 2})
    assert view.spec.policy.guards.worsening is None
    assert view.spec.policy.retention is not None


def test_change_of_nothing_changes_nothing(tmp_path):
    h = begun(tmp_path)
    before = h.inner.tasks.get(names.task_path(TASK))
    change(h, goal=1)
    change(h)
    after = h.inner.tasks.get(names.task_path(TASK))
    assert after.document.version == before.document.version
    assert after.value.created is None


def test_repeat_of_the_creation_returns_the_changed_task(tmp_path):
    h = begun(tmp_path)
    original = h.task().spec
    change(h, goal=2)
    change(h, goal=3)
    assert h.record().created == original
    again = TaskView.decode(h.ask("POST", "/v1/tasks", body=original.encode()))
    assert again.spec.policy.goal == 3
    other = original.model_copy(update={"policy": TaskPolicy(goal=7)})
    with pytest.raises(ProblemError) as conflict:
        h.ask("POST", "/v1/tasks", body=other.encode())
    assert conflict.value.type is ProblemType.CONFLICT


@pytest.mark.parametrize(
    ("policy", "paths"),
    [
        ({"goal": 0}, {"policy.goal"}),
        ({"goal": "3", "chunk": 1}, {"policy.goal", "policy.chunk"}),
        ({"gaol": 3}, {"policy.gaol"}),
        ({"minimum": 2}, {"policy"}),
        ({"guards": {"worsening": {"metric": ""}}}, {"policy.guards.worsening.metric"}),
        ({"clip": True}, {"policy"}),
    ],
)
def test_invalid_policy_names_its_fields_and_changes_nothing(policy, paths, tmp_path):
    h = begun(tmp_path)
    before = h.record()
    problem = refused(h, **policy)
    assert problem.type is ProblemType.INVALID_REQUEST
    assert {field.path for field in problem.fields} == paths
    assert "TaskChange is not valid" in problem.detail
    assert h.record() == before


def test_bound_on_the_norm_needs_a_norm(tmp_path):
    h = begun(tmp_path)
    assert change(h, max_update_norm=1.0).spec.policy.max_update_norm == 1.0


def test_floors_of_author_and_deployment_hold(tmp_path):
    plan = sum_plan()
    release = Release(minimum=3, max_rounds=5)
    plan = Plan(plan.manifest.model_copy(update={"release": release}), plan.parts)
    h = Harness(tmp_path, plan=plan)
    h.begin(rounds=4, goal=4, minimum=4)
    assert {field.path for field in refused(h, minimum=2).fields} == {"policy.minimum"}
    assert {field.path for field in refused(h, rounds=6).fields} == {"policy.rounds"}
    change(h, minimum=3, rounds=5)
    h.app = replace(h.app, task_changes=replace(h.app.task_changes, least_minimum=4))
    with pytest.raises(ProblemError, match="MUSTER_MINIMUM"):
        h.app.task_changes.change(TASK, TaskChange(policy={"goal": 5}))


def test_completed_task_with_more_rounds_continues_from_its_newest_checkpoint(tmp_path):
    h = begun(tmp_path, rounds=1)
    run_round(h)
    h.settle()
    assert h.task().status is TaskStatus.COMPLETED
    assert change(h, goal=1, round_seconds=300).status is TaskStatus.COMPLETED, "no more rounds"
    view = change(h, rounds=3)
    assert view.status is TaskStatus.OPENING
    h.deliver_all()
    assert h.task().status is TaskStatus.ACTIVE
    assert (h.key().number, h.round().terms.base.version) == (2, 1)
    for client in (1, 2):
        run_round(h, client)
    assert h.task().status is TaskStatus.COMPLETED
    assert [round_.key.number for round_ in h.committed()] == [1, 2, 3]
    assert h.result(3)["ids"] == 4
    h.settle()
    assert h.leftovers() == []


def test_reopening_survives_a_crash_at_every_write(tmp_path):
    def begun_with(*faults: Fault, at: str) -> tuple[Harness, Schedule]:
        schedule = Schedule(*faults)
        h = Harness(
            tmp_path / at,
            wrap=lambda inner: replace(
                inner,
                documents=FaultyDocuments(inner.documents, schedule),
                queue=FaultyQueue(inner.queue, schedule),
            ),
        )
        h.begin(rounds=1, goal=1, shards=1)
        run_round(h)
        h.settle()
        return h, schedule

    h, schedule = begun_with(at="count")
    first = len(schedule.writes) + 1
    change(h, rounds=2)
    last = len(schedule.writes)
    for number in range(first, last + 1):
        for when in When:
            h, _ = begun_with(Fault(number, when), at=f"{number}-{when.value}")
            try:
                change(h, rounds=2)
            except Crash:
                h.restart()
                h.queue.held.clear()
            h.settle()
            change(h, rounds=2)  # the operator repeats the request
            h.settle()
            assert h.task().status is TaskStatus.ACTIVE
            assert h.key().number == 2
            run_round(h)
            assert h.task().status is TaskStatus.COMPLETED


def test_fewer_rounds_complete_the_task_after_its_open_round(tmp_path):
    h = begun(tmp_path)
    run_round(h)
    run_round(h, 1)
    assert change(h, rounds=1).status is TaskStatus.ACTIVE
    run_round(h, 2)
    assert h.task().status is TaskStatus.COMPLETED
    assert len(h.committed()) == 3


def test_paused_task_stays_paused_and_cancelled_one_is_refused(tmp_path):
    h = begun(tmp_path)
    h.operate("pause")
    assert change(h, goal=2).status is TaskStatus.PAUSED
    h.operate("cancel")
    assert refused(h, goal=3).type is ProblemType.CONFLICT
    with pytest.raises(ProblemError) as missing:
        h.ask("PATCH", "/v1/tasks/no-such-task", json={"policy": {}})
    assert missing.value.type is ProblemType.NOT_FOUND


def test_task_that_is_opening_may_be_changed(tmp_path):
    h = Harness(tmp_path)
    h.put_plan()
    h.create_task(rounds=2, goal=1)
    change(h, goal=2)
    h.deliver_all()
    assert h.task().status is TaskStatus.ACTIVE
    assert h.round().terms.goal == 2


def test_analytics_task_stays_at_one_round_and_answers_once(tmp_path):
    h = Harness(tmp_path)
    h.put_plan()
    policy = {"rounds": 1, "goal": 1, "minimum": 1}
    spec = TaskSpec.from_dict(
        {"name": TASK, "population": POPULATION, "plan": h.plan.sha256, "kind": "analytics", "policy": policy}
    )
    h.ask("POST", "/v1/tasks", body=spec.encode())
    h.deliver_all()
    assert "analytics has one round" in refused(h, rounds=2).detail
    run_round(h)
    assert change(h, goal=2).status is TaskStatus.COMPLETED


def test_change_is_audited_with_the_policy_before_and_after(tmp_path):
    h = begun(tmp_path)
    change(h, goal=4, minimum=None)
    entry = h.ask("GET", "/v1/audit")
    assert b'"action":"task.update"' in entry
    assert b'"request":{"policy":{"goal":4,"minimum":null}}' in entry
