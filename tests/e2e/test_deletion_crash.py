"""A crash before and after every write of a deletion: a repeat ends the same.

The operator repeats a request that crashed, or half of the runs lose all queued work and only ticks
continue. At the end no document or blob of the task is left but audit entries, and its name can be
used again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import cloud
from support.crashing import CrashingHarness
from support.faults import Crash, Fault, When
from support.harness import POPULATION, TASK, Harness
from support.plans import sum_update
from support.stored import everything

from muster.wire.messages import TaskStatus, TaskView
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.domain import names

POLICY = {"rounds": 9, "goal": 3, "minimum": 2, "over_selection": 4.0, "chunk": 2, "shards": 2}
DAY = 86_400.0  # seconds


def busy_and_cancelled(h: Harness) -> None:
    """Leaves a cancelled task with a committed round, and an open one that is not swept yet."""
    h.begin(**POLICY)
    for client in range(3):
        h.upload(h.assigned(client).token, sum_update(client))
        h.deliver_all()
    h.settle(minutes=1)
    for client in range(2):
        h.upload(h.assigned(client).token, sum_update(client))
        h.deliver_all()
    h.report(h.assigned("quitter").token)
    h.inner.documents.create(names.request_path(TASK, "v2"), {"run": 1})
    h.inner.documents.create(names.sweep_progress_path(TASK), {"round": "000000-0000"})
    h.inner.blobs.create(f"bases/{TASK}/000002-abc", [b"a state"])
    h.operate("cancel")


def delete(h: Harness) -> None:
    """Requests the deletion like an operator, whose repeat may find that the task is gone."""
    try:
        view = TaskView.decode(h.ask("DELETE", f"/v1/tasks/{TASK}"))
        assert view.status is TaskStatus.DELETING
    except ProblemError as problem:
        if problem.type is not ProblemType.NOT_FOUND:
            raise


def of_task(h: Harness) -> list[str]:
    """Returns all documents and blobs but audit entries and plans."""
    return [path for path in everything(h.inner) if not path.startswith(("audit/", "plans/", "checkins/"))]


def deletion(h: Harness, run: Callable[[Callable[[], Any]], Any]) -> list[list[str]]:
    """Deletes the task, and returns what is stored at once, after the purge, and after a day."""
    stored = []
    run(lambda: delete(h))
    for seconds in (61.0, 7300.0, DAY):
        for _ in range(2):
            run(h.deliver_all)
            run(h.tick)
        stored.append(of_task(h))
        h.clock.advance(seconds)
    run(h.tick)
    stored.append(of_task(h))
    return stored


def test_crash_at_any_write_of_a_deletion_ends_the_same(tmp_path):
    clean = CrashingHarness(tmp_path / "clean")
    busy_and_cancelled(clean)
    first = len(clean.schedule.writes)
    expected = deletion(clean, lambda step: step())
    assert expected == [[names.deleted_path(TASK)]] * 3 + [[]]
    writes = clean.schedule.writes[first:]
    assert len(writes) > 30
    for (number, write), when in itertools.product(enumerate(writes, start=first + 1), When):
        lose_work = (number % 2 == 0) is (when is When.BEFORE)
        h = CrashingHarness(tmp_path / f"{number}-{when.value}", Fault(number, when), lose_work=lose_work)
        busy_and_cancelled(h)
        try:
            stored = deletion(h, h.retry)
        except (AssertionError, Crash, ProblemError) as error:
            raise AssertionError(f"after a crash {when.value} write {number}, {write}; {lose_work=}") from error
        assert h.crashes == 1, write
        assert stored == expected, (write, when, lose_work)


@cloud.EMULATORS
def test_deletion_leaves_nothing_in_google_clouds_stores(
    tmp_path: Path, firestore_emulator: Any, storage_emulator: Any
) -> None:
    with cloud.firestore(firestore_emulator.address) as documents, cloud.gcs(storage_emulator) as blobs:
        h = Harness(tmp_path, documents=documents, blobs=blobs)
        busy_and_cancelled(h)
        kinds = {path.split("/")[0] for path in of_task(h)}
        assert kinds >= {"tasks", "updates", "manifests", "broadcasts", "checkpoints", "results", "bases"}
        assert deletion(h, lambda step: step()) == [[names.deleted_path(TASK)]] * 3 + [[]]


def test_deliveries_at_once_end_the_same(tmp_path):
    h = Harness(tmp_path, durable=True)
    busy_and_cancelled(h)
    delete(h)
    apps = [h.application() for _ in range(6)]
    with ThreadPoolExecutor(len(apps)) as pool:
        for done in [pool.submit(app.task_purge.run, TASK) for app in apps]:
            done.result(timeout=300)
    assert of_task(h) == [names.deleted_path(TASK)]


@pytest.mark.parametrize("again", ["delete", "tick"])
def test_repeated_and_late_deliveries_delete_nothing_of_a_new_task(tmp_path, again):
    h = Harness(tmp_path)
    busy_and_cancelled(h)
    delete(h)
    for held in list(h.queue.held):
        h.deliver(held, keep=True)
    h.clock.advance(DAY)
    for _ in range(2):  # the second purge, then the end of the reservation
        h.tick()
    h.begin(**POLICY)
    before = of_task(h)
    if again == "delete":
        for _ in range(2):
            h.ask("POST", "/internal/delete", json={"task": TASK})
    else:
        h.tick()
    assert [path for path in before if path not in of_task(h)] == []
    assert h.task().status is TaskStatus.ACTIVE
    assert names.member_path(POPULATION, TASK) in of_task(h)
