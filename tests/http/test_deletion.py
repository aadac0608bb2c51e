"""Deletion of a task: what goes, what remains, and who is refused meanwhile."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise

import pytest
from support.harness import POPULATION, TASK, Harness
from support.plans import sum_update
from support.stored import document_paths, everything

from muster.wire.messages import (
    AuditList,
    Evaluation,
    Phase,
    StateRef,
    TaskKind,
    TaskList,
    TaskPolicy,
    TaskSpec,
    TaskStatus,
    TaskView,
    Wait,
)
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.domain import names
from muster_coordinator.domain.deletions import CLOCK_SKEW, LATE_WRITES_TIME, SESSION_TIME
from muster_coordinator.domain.rounds import Origin
from muster_coordinator.domain.tasks import Run
from muster_coordinator.state.reserved_names import deletions
from muster_coordinator.use_cases import task_purge

ASSIGNMENT = 300.0  # seconds, by default
OTHER = "sum-2"  # its name starts with the other one's
POLICY = {"rounds": 9, "goal": 5, "minimum": 2, "over_selection": 4.0, "chunk": 2, "shards": 2}


def contribute(h: Harness, *clients: object) -> None:
    for number, client in enumerate(clients):
        h.upload(h.assigned(client).token, sum_update(number))


def busy(h: Harness, task: str = TASK) -> None:
    """Leaves a task with every kind of data: committed, abandoned and open rounds, and updates."""
    h.put_plan()
    h.create_task(task, **POLICY)
    h.deliver_all()
    contribute(h, *range(5))
    h.settle()
    contribute(h, "lonely")
    h.clock.advance(601)
    h.settle()
    h.report(h.assigned("quitter").token)
    for client in range(3):
        contribute(h, client)
        h.deliver_all()
    contribute(h, "last")  # its fold is not delivered
    documents, blobs = h.inner.documents, h.inner.blobs
    documents.create(names.request_path(task, "v2"), {"run": 1})
    documents.create(names.sweep_progress_path(task), {"round": "000000-0000"})
    documents.create(names.share_key_path(task), {"key": "k1"})
    documents.increment(names.goal_thresholds_path(h.inner.task(task).value.current), {"x": 1})
    blobs.create(f"bases/{task}/000003-abc", [b"a state"])


def delete(h: Harness, task: str = TASK) -> TaskView:
    return TaskView.decode(h.ask("DELETE", f"/v1/tasks/{task}"))


def refusal(h: Harness, method: str, path: str, **more: object) -> ProblemError:
    with pytest.raises(ProblemError) as refused:
        h.ask(method, path, **more)
    return refused.value


def deleted(h: Harness) -> None:
    h.operate("cancel")
    delete(h)
    h.deliver_all()


def kinds(paths: list[str]) -> set[str]:
    """Returns the collections and the top folders of `paths`, without ids."""
    return {"/".join(path.split("/")[::2]) if path.startswith("tasks/") else path.split("/")[0] for path in paths}


def documented_kinds() -> set[str]:
    """Returns the kinds of paths with a task in the tables of `names`."""
    documents, _, rest = (names.__doc__ or "").partition("Documents of an attempt")
    under_rounds, _, blobs = rest.partition("Blobs:")
    paths = re.findall(r"^(\S+/\S+)", documents + blobs, re.MULTILINE)
    one_each = [path for path in paths if not path.startswith("{")]
    several = [kind for path in paths if path.startswith("{") for kind in path[1:].partition("}")[0].split("|")]
    of_tasks = kinds([path for path in one_each if "{task}" in path])
    return (
        of_tasks
        | set(several)
        | {f"tasks/rounds/{kind}" for kind in re.findall(r"^(\w+)/", under_rounds, re.MULTILINE)}
    )


@pytest.fixture
def h(tmp_path):
    return Harness(tmp_path)


def test_busy_task_leaves_nothing_but_audit_entries_and_its_reserved_name(h):
    h.put_plan()
    policy = TaskPolicy(minimum=1, round_seconds=1e6)
    other = TaskSpec(name=OTHER, population="tablets", plan=h.plan.sha256, policy=policy)
    h.ask("POST", "/v1/tasks", body=other.encode())
    h.deliver_all()
    before = everything(h.inner)
    busy(h)
    assert documented_kinds() > {"tasks/rounds/holders", "populations", "updates", "bases", "results"}
    assert kinds([path for path in everything(h.inner) if path not in before]) >= documented_kinds()

    deleted(h)

    others = ("audit/", "checkins/")  # counters of the population name no task
    left = [path for path in everything(h.inner) if path not in before and not path.startswith(others)]
    assert left == [names.deleted_path(TASK)]
    assert [path for path in before if path not in everything(h.inner)] == []
    assert refusal(h, "GET", f"/v1/tasks/{TASK}").type is ProblemType.NOT_FOUND


def test_deletion_is_accepted_and_repeated_while_it_is_under_way(h):
    h.begin()
    h.operate("cancel")
    response = h.call("DELETE", f"/v1/tasks/{TASK}")
    assert response.status_code == 202
    assert TaskView.decode(response.data).status is TaskStatus.DELETING
    assert [view.status for view in TaskList.decode(h.ask("GET", "/v1/tasks")).tasks] == [TaskStatus.DELETING]
    assert h.call("DELETE", f"/v1/tasks/{TASK}").status_code == 202
    h.deliver_all()
    assert refusal(h, "DELETE", f"/v1/tasks/{TASK}").type is ProblemType.NOT_FOUND
    assert refusal(h, "DELETE", "/v1/tasks/unknown").type is ProblemType.NOT_FOUND


def test_completed_task_can_be_deleted(h):
    h.begin(rounds=1, goal=1)
    contribute(h, 1)
    h.settle()
    assert h.task().status is TaskStatus.COMPLETED
    delete(h)
    h.deliver_all()
    assert TaskList.decode(h.ask("GET", "/v1/tasks")).tasks == ()


@pytest.mark.parametrize("pause", [False, True])
def test_task_that_has_not_ended_is_refused_with_the_fix(h, pause):
    h.begin()
    if pause:
        h.operate("pause")
    refused = refusal(h, "DELETE", f"/v1/tasks/{TASK}")
    assert refused.type is ProblemType.CONFLICT
    assert f"muster task cancel {TASK}" in refused.detail
    assert h.task().current.phase is Phase.COLLECTING


def test_unfinished_evaluation_keeps_its_training_task(h):
    h.begin()
    spec = TaskSpec(
        name="eval",
        population=POPULATION,
        plan=h.plan.sha256,
        kind=TaskKind.EVALUATE,
        evaluates=Evaluation(task=TASK, leaves=("total",)),
        policy=TaskPolicy(minimum=1),
    )
    h.ask("POST", "/v1/tasks", body=spec.encode())
    h.operate("cancel")
    refused = refusal(h, "DELETE", f"/v1/tasks/{TASK}")
    assert refused.type is ProblemType.CONFLICT
    assert "task eval evaluates its checkpoints" in refused.detail
    h.ask("POST", "/v1/tasks/eval:cancel")
    assert delete(h).status is TaskStatus.DELETING


def test_task_that_has_yet_to_open_from_a_checkpoint_keeps_it(h):
    h.begin()
    h.operate("cancel")
    start = StateRef(task=TASK, version=0)
    spec = TaskSpec(name="clone", population=POPULATION, plan=h.plan.sha256, start=start, policy=TaskPolicy(minimum=1))
    h.ask("POST", "/v1/tasks", body=spec.encode())
    assert "task clone starts from a checkpoint of it" in refusal(h, "DELETE", f"/v1/tasks/{TASK}").detail


def test_run_that_opens_from_a_checkpoint_keeps_it(h):
    h.begin()
    spec = TaskSpec(name="driven", population=POPULATION, plan=h.plan.sha256, driven=True, policy=TaskPolicy(minimum=1))
    h.ask("POST", "/v1/tasks", body=spec.encode())
    base = h.round().terms.base
    run = Run("request", first=1, rounds=1, goal=1, base=base, origin=Origin(task=TASK, version=0))
    h.inner.change_task("driven", lambda task: replace(task, status=TaskStatus.OPENING, run=run))
    h.operate("cancel")
    assert "task driven is opening a round that starts" in refusal(h, "DELETE", f"/v1/tasks/{TASK}").detail


def test_other_commands_on_a_deleting_task_conflict(h):
    h.begin()
    h.operate("cancel")
    delete(h)
    for verb in ("pause", "resume", "cancel"):
        assert refusal(h, "POST", f"/v1/tasks/{TASK}:{verb}").type is ProblemType.CONFLICT, verb
    h.inner.documents.delete(names.round_path(h.key()))  # the deletion is half-way
    body = json.dumps({"version": 0}).encode()
    assert refusal(h, "POST", f"/v1/tasks/{TASK}:rollback", body=body).type is ProblemType.CONFLICT
    create = h.record().spec.encode()
    assert "is being deleted" in refusal(h, "POST", "/v1/tasks", body=create).detail


def test_check_ins_and_uploads_do_not_see_a_deleting_task(tmp_path):
    h = Harness(tmp_path, cache_seconds=1.0)
    h.begin(goal=5)
    token = h.assigned("early").token
    h.operate("cancel")
    delete(h)
    h.clock.advance(1.0)
    assert isinstance(h.checkin("new"), Wait)
    assert refusal(h, "PUT", "/v1/updates", token=token).type is ProblemType.ROUND_CLOSED
    h.deliver_all()
    assert isinstance(h.checkin("new"), Wait)
    assert refusal(h, "PUT", "/v1/updates", token=token).type is ProblemType.ROUND_CLOSED


def test_no_cache_serves_a_deleted_task(tmp_path):
    h = Harness(tmp_path, cache_seconds=1.0)
    h.begin(rounds=2, goal=1)
    contribute(h, "a")
    h.settle(minutes=1)
    broadcast = h.assigned("b").broadcast.url
    paths = [f"/v1/tasks/{TASK}/{path}" for path in ("checkpoints/1", "rounds/1/result", "checkpoints", "rounds")]
    for path in (*paths, broadcast):
        h.ask("GET", path)
    deleted(h)
    h.clock.advance(1.0)
    for path in (*paths, broadcast):
        assert refusal(h, "GET", path).type is ProblemType.NOT_FOUND, path


def test_each_call_deletes_a_bounded_number_and_enqueues_the_next(h):
    busy(h)
    h.operate("cancel")
    h.queue.held.clear()
    object.__setattr__(h.app.task_purge, "limit", 7)
    delete(h)
    counts = [len(everything(h.inner))]
    delivered = 0
    while held := [held for held in h.queue.held if held.due <= h.clock.now()]:
        h.deliver(held[0])
        delivered += 1
        counts.append(len(everything(h.inner)))
    assert delivered > 3
    steps = [before - after for before, after in pairwise(counts)]
    assert max(steps) <= 7 + task_purge._ROUNDS_PAGE  # a page of attempts ends what its documents began
    assert h.inner.tasks.get(names.task_path(TASK)) is None


def test_tick_repairs_a_lost_deletion(h):
    busy(h)
    h.operate("cancel")
    delete(h)
    h.queue.held.clear()
    h.tick()
    assert not [path for path in everything(h.inner) if f"/{TASK}" in path]


def test_name_is_reserved_while_a_token_or_a_late_write_may_exist(h):
    h.begin()
    spec = h.record().spec
    token = h.assigned("late").token
    deleted(h)
    refused = refusal(h, "POST", "/v1/tasks", body=spec.encode())
    assert refused.type is ProblemType.CONFLICT
    assert "is reserved until 2027-" in refused.detail
    assert "Choose another name" in refused.detail
    h.ask("POST", "/v1/tasks", body=spec.model_copy(update={"name": "another"}).encode())
    reserved = ASSIGNMENT + LATE_WRITES_TIME + CLOCK_SKEW
    h.clock.advance(reserved - 1)
    h.settle(minutes=0)
    h.tick()
    assert refusal(h, "POST", "/v1/tasks", body=spec.encode()).type is ProblemType.CONFLICT
    h.clock.advance(1)
    h.ask("POST", "/v1/tasks", body=spec.encode())
    h.deliver_all()
    assert refusal(h, "PUT", "/v1/updates", token=token).type is ProblemType.ASSIGNMENT_EXPIRED
    h.tick()
    assert h.inner.documents.get(names.deleted_path(TASK)) is None


def test_longer_assignments_reserve_the_name_for_longer(h):
    h.begin(assignment_seconds=5000)
    deleted(h)
    stored = deletions(h.inner).get(names.deleted_path(TASK))
    assert stored.value.until == h.clock.now() + 5000 + LATE_WRITES_TIME + CLOCK_SKEW


def test_updates_that_may_be_uploaded_in_sessions_reserve_the_name_for_a_week(h, monkeypatch):
    monkeypatch.setattr(task_purge, "SESSION_ABOVE", 10)  # bytes
    h.begin()
    deleted(h)
    stored = deletions(h.inner).get(names.deleted_path(TASK))
    assert stored.value.until == h.clock.now() + SESSION_TIME + LATE_WRITES_TIME + CLOCK_SKEW


@pytest.mark.parametrize("lost", [False, True])
def test_late_writes_are_deleted_by_the_second_purge(h, lost):
    h.begin(shards=2)
    key = h.key()
    deleted(h)
    late = [
        names.ticket_path(key, 0),
        names.shard_path(key, 1),
        names.holder_path(key, "a" * 32),
        names.pseudonym_key_path(key),
        names.round_path(names.RoundKey(TASK, 2, 0)),
        names.sweep_progress_path(TASK),
        names.member_path(POPULATION, TASK),
    ]
    for path in late:
        h.inner.documents.create(path, {"n": 1})
    blob = names.output_prefix("checkpoints", TASK, 1) + "late"
    h.inner.blobs.create(blob, [b"late"])
    h.inner.blobs.create(names.update_name(key, 1, "b" * 32), [b"late"])
    if lost:
        h.queue.held.clear()
    h.clock.advance(LATE_WRITES_TIME)
    h.tick() if lost else h.deliver_all()
    assert not [path for path in everything(h.inner) if path in (*late, blob) or path.startswith("updates/")]
    reservation = h.inner.documents.get(names.deleted_path(TASK))
    assert TASK not in json.dumps(dict(reservation.data))


def test_audit_log_shows_who_deleted_how_much_and_no_content(h):
    busy(h)
    h.operate("cancel")
    delete(h)
    h.deliver_all()
    with pytest.raises(ProblemError):
        delete(h)
    entries = AuditList.decode(h.ask("GET", "/v1/audit")).entries
    first, second = [entry for entry in entries if entry.action == "task.delete"]
    assert (first.result, first.subject, first.after["status"]) == ("done", TASK, "deleting")
    assert first.after["documents"] >= 5
    assert first.after["blobs"] >= 3
    assert (second.result, second.after["status"]) == ("failed", "deleted")
    assert second.after["documents"] > first.after["documents"]
    assert second.after["blobs"] >= first.after["blobs"]
    assert set(second.after) == {"status", "documents", "blobs", "name_reserved_until"}


def test_import_under_a_reserved_name_is_refused(h, tmp_path):
    from support.harness import SECRET

    from muster_coordinator.task_export.transfer import export_state, import_state

    h.begin()
    h.operate("cancel")
    h.deliver_all()
    with (tmp_path / "file").open("w+b") as file:
        export_state(h.platform, TASK, file, secret=SECRET)
        delete(h)
        h.deliver_all()
        with pytest.raises(ProblemError, match="is reserved until"):
            import_state(h.platform, file, secret=SECRET)
    assert not [path for path in document_paths(h.inner.documents) if path.startswith("tasks/")]
