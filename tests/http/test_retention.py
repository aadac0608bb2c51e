"""Retention: which checkpoints and results stay; crashes and tags in between do no harm."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.faults import Crash, Fault, FaultyBlobs, FaultyDocuments, FaultyQueue, Schedule, When
from support.harness import TASK, Harness
from support.plans import sum_update

from muster.wire.messages import CheckpointList, Evaluation, TaskKind, TaskStatus, TaskView
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.domain import names
from muster_coordinator.ports import Blobs
from muster_coordinator.use_cases import retention
from muster_coordinator.use_cases.retention import RetentionSweeper


def run_rounds(h: Harness, count: int) -> None:
    for client in range(count):
        h.upload(h.assigned(client).token, sum_update(client))
        h.deliver_all()


def trained(root: Path, count: int, **policy: Any) -> Harness:
    """Returns a coordinator whose task has run some of its rounds."""
    h = Harness(root)
    h.begin(**{"rounds": 1000, "goal": 1, "shards": 1, **policy})
    run_rounds(h, count)
    return h


def stored(h: Harness, kind: str = "checkpoints") -> set[int]:
    """Returns the versions with a blob of a kind."""
    return {int(name.split("/")[2][:6]) for name in h.blobs(f"{kind}/{TASK}/")}


def listed(h: Harness) -> set[int]:
    """Returns the versions that the list of checkpoints shows as stored."""
    views = CheckpointList.decode(h.ask("GET", f"/v1/tasks/{TASK}/checkpoints")).checkpoints
    return {view.version for view in views if view.stored}


def change(h: Harness, **policy: Any) -> None:
    h.ask("PATCH", f"/v1/tasks/{TASK}", json={"policy": policy})


def sweep(h: Harness) -> None:
    """Sweeps the last committed round again, and delivers the work that follows."""
    h.app.maintenance.sweep(h.committed()[-1].key)
    h.deliver_all()


def tag(h: Harness, version: int, name: str = "good") -> TaskView:
    return TaskView.decode(h.ask("PUT", f"/v1/tasks/{TASK}/tags/{name}", json={"version": version}))


def test_newest_and_every_nth_stay(tmp_path):
    h = trained(tmp_path, 10, retention={"last": 2, "every": 4})
    assert stored(h) == listed(h) == {0, 4, 8, 9, 10}
    assert stored(h, "results") == {4, 8, 9, 10}
    assert len(h.committed()) == 10, "the rounds' documents stay, with their metrics"
    h.settle()
    assert h.leftovers() == []


def test_without_retention_everything_stays(tmp_path):
    h = trained(tmp_path, 4)
    assert stored(h) == listed(h) == {0, 1, 2, 3, 4}


def test_removed_version_is_refused_by_name(tmp_path):
    h = trained(tmp_path, 4, retention={"last": 1})
    for method, path, options in (
        ("GET", f"/v1/tasks/{TASK}/checkpoints/2", {}),
        ("GET", f"/v1/tasks/{TASK}/rounds/2/result", {}),
        ("POST", f"/v1/tasks/{TASK}:rollback", {"json": {"version": 2}}),
        ("PUT", f"/v1/tasks/{TASK}/tags/good", {"json": {"version": 2}}),
    ):
        with pytest.raises(
            ProblemError, match="Checkpoint and result 2 of task sum are not stored any more"
        ) as problem:
            h.ask(method, path, **options)
        assert problem.value.type is ProblemType.NOT_FOUND
    assert h.task().status is TaskStatus.ACTIVE
    assert h.task().tags == {}
    h.checkpoint(4)


def test_tagged_version_stays_until_the_tag_is_removed(tmp_path):
    h = trained(tmp_path, 2, retention={"last": 1})
    tag(h, 2)
    run_rounds(h, 3)
    assert stored(h) == {0, 2, 5}
    h.ask("DELETE", f"/v1/tasks/{TASK}/tags/good")
    run_rounds(h, 1)
    assert stored(h) == listed(h) == {0, 6}


def test_base_of_the_open_round_stays(tmp_path):
    h = trained(tmp_path, 4, retention={"last": 3})
    assert stored(h) == {0, 2, 3, 4}
    h.operate("rollback", version=2)
    h.deliver_all()
    change(h, retention={"last": 1})
    sweep(h)
    assert stored(h) == {0, 2, 4}
    run_rounds(h, 1)
    assert h.committed()[-1].terms.base.version == 2
    assert stored(h) == listed(h) == {0, 5}
    run_rounds(h, 1)
    assert h.task().status is TaskStatus.ACTIVE


def test_unfinished_evaluation_keeps_the_version_that_is_due(tmp_path):
    h = trained(tmp_path, 1, retention={"last": 1})
    h.create_task("evaluation", goal=1)
    record = h.inner.tasks.get(names.task_path("evaluation"))
    spec = record.value.spec.model_copy(update={"kind": TaskKind.EVALUATE, "evaluates": Evaluation(task=TASK, every=3)})
    h.inner.tasks.replace(record, replace(record.value, spec=spec, status=TaskStatus.IDLE))
    run_rounds(h, 4)
    assert stored(h) == {0, 3, 5}
    h.ask("POST", "/v1/tasks/evaluation:cancel")
    run_rounds(h, 1)
    assert stored(h) == {0, 6}


def test_retention_of_a_completed_task_is_applied_in_bounded_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(retention, "MAX_ROUNDS", 3)
    h = trained(tmp_path, 10, rounds=10)
    assert h.task().status is TaskStatus.COMPLETED
    change(h, retention={"last": 1, "every": 5})
    h.deliver_all()
    assert stored(h) == {0, 5, 10}
    change(h, retention={"last": 2})
    h.deliver_all()
    assert stored(h) == {0, 10}
    change(h, retention=None)
    h.deliver_all()
    assert stored(h) == listed(h) == {0, 10}


def test_work_of_a_sweep_does_not_grow_with_the_number_of_rounds(tmp_path):
    schedule = Schedule()
    h = Harness(tmp_path, wrap=lambda inner: replace(inner, documents=FaultyDocuments(inner.documents, schedule)))
    h.begin(rounds=1000, goal=1, shards=1, retention={"last": 20})

    def reads_of_a_round() -> int:
        before = len(schedule.reads)
        run_rounds(h, 1)
        return len(schedule.reads) - before

    run_rounds(h, 25)
    early = reads_of_a_round()
    run_rounds(h, 25)
    assert reads_of_a_round() == early
    assert stored(h) == {0, *range(33, 53)}


class WatchedBlobs:
    """Blobs that call a function before each deletion."""

    def __init__(self, inner: Blobs) -> None:
        self._inner = inner
        self.before_delete = lambda _: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def delete(self, doomed: Iterable[str]) -> None:
        doomed = list(doomed)
        self.before_delete(doomed)
        self._inner.delete(doomed)


def test_tag_just_before_the_deletion_is_refused(tmp_path):
    watched: list[WatchedBlobs] = []

    def wrap(inner: Any) -> Any:
        watched.append(WatchedBlobs(inner.blobs))
        return replace(inner, blobs=watched[0])

    h = Harness(tmp_path, wrap=wrap)
    h.begin(rounds=9, goal=1, shards=1)
    run_rounds(h, 3)
    refusals: list[ProblemError] = []

    def tag_first(doomed: list[str]) -> None:
        if any(name.startswith(f"checkpoints/{TASK}/000001") for name in doomed):
            with pytest.raises(ProblemError) as refusal:
                tag(h, 1)
            refusals.append(refusal.value)

    watched[0].before_delete = tag_first
    change(h, retention={"last": 1})
    sweep(h)
    assert [refusal.type for refusal in refusals] == [ProblemType.NOT_FOUND]
    assert h.task().tags == {}
    assert stored(h) == listed(h) == {0, 3}


def test_tag_just_after_the_mark_keeps_the_version(tmp_path, monkeypatch):
    h = trained(tmp_path, 3)
    change(h, retention={"last": 1})
    inner = RetentionSweeper._mark

    def mark(sweeper: RetentionSweeper, record: Any) -> Any:
        # The tag's first check and its write precede the mark, its second check follows the sweep.
        if record.value.key.number == 1:
            task = h.inner.tasks.get(names.task_path(TASK))
            h.inner.tasks.replace(task, replace(task.value, tags={"good": 1}))
        return inner(sweeper, record)

    monkeypatch.setattr(RetentionSweeper, "_mark", mark)
    sweep(h)
    assert stored(h) == listed(h) == {0, 1, 3}
    h.ask("DELETE", f"/v1/tasks/{TASK}/tags/good")
    monkeypatch.undo()
    sweep(h)
    assert stored(h) == listed(h) == {0, 3}


def test_round_that_another_sweep_marked_is_not_restored(tmp_path):
    h = trained(tmp_path, 3)
    change(h, retention={"last": 1})
    # The other sweep has marked round 1 and is about to delete its blobs.
    record = h.inner.round(h.committed()[0].key)
    h.inner.rounds.replace(record, replace(record.value, stored=False))
    task = h.inner.tasks.get(names.task_path(TASK))
    h.inner.tasks.replace(task, replace(task.value, tags={"late": 1}))
    sweeper = RetentionSweeper(h.inner)
    assert sweeper.sweep(replace(h.record(), tags={}), committed=3)
    assert stored(h) == listed(h) == {0, 3}


@pytest.mark.parametrize("when", list(When))
def test_crash_at_any_write_is_repaired_by_a_later_sweep(tmp_path, when):
    def swept(*faults: Fault, at: str) -> tuple[Harness, Schedule, bool]:
        schedule = Schedule()
        h = Harness(
            tmp_path / at,
            wrap=lambda inner: replace(
                inner,
                documents=FaultyDocuments(inner.documents, schedule),
                blobs=FaultyBlobs(inner.blobs, schedule),
                queue=FaultyQueue(inner.queue, schedule),
            ),
        )
        h.begin(rounds=9, goal=1, shards=1)
        run_rounds(h, 4)
        change(h, retention={"last": 1})
        schedule.writes.clear()
        schedule._faults.update({(fault.of, fault.number, fault.when): fault.error for fault in faults})
        try:
            sweep(h)
        except Crash:
            h.restart()
            h.queue.held.clear()
            return h, schedule, True
        return h, schedule, False

    h, schedule, _ = swept(at="count")
    assert stored(h) == {0, 4}
    total = len(schedule.writes)
    assert total > 5
    for number in range(1, total + 1):
        h, schedule, crashed = swept(Fault(number, when), at=f"{number}")
        assert crashed, number
        h.settle()
        run_rounds(h, 1)
        h.settle()
        assert stored(h) == listed(h) == {0, 5}, schedule.writes[number - 1]
        assert h.leftovers() == []


def test_rollback_whose_base_vanishes_pauses_with_the_reason(tmp_path):
    h = trained(tmp_path, 3)
    h.operate("rollback", version=1)
    # A sweep that had marked the version before the rollback read it deletes the blob only now.
    h.inner.blobs.delete([h.committed()[0].checkpoint.blob.name])
    h.deliver_all()
    task = h.task()
    assert task.status is TaskStatus.PAUSED
    assert "version 1 is not stored any more" in task.note
    h.operate("rollback", version=2)
    h.deliver_all()
    h.operate("resume")
    h.deliver_all()
    run_rounds(h, 1)
    assert h.committed()[-1].terms.base.version == 2
