"""Tasks of a version without driven tasks, with rounds in flight, are finished."""

from __future__ import annotations

import pytest
from support.harness import TASK, Harness
from support.plans import sum_update

from muster.wire.messages import TaskStatus
from muster.wire.tensors import decode
from muster_coordinator.domain import names

NEW_TASK_FIELDS = ("created", "run", "running", "initial", "tags", "archived", "guarded")
NEW_ROUND_FIELDS = ("tripped", "worsened")
NEW_TERMS_FIELDS = ("origin", "request")


def age(h: Harness) -> None:
    """Rewrites the task's documents as the earlier version wrote them."""
    documents = h.inner.documents
    task = documents.get(names.task_path(TASK))
    stored = {key: value for key, value in task.data.items() if key not in NEW_TASK_FIELDS}
    for checkpoint in (stored["checkpoint"], stored["restore"]):
        if checkpoint is not None:
            checkpoint.pop("line", None)
    documents.replace(task.path, stored, version=task.version)
    for round_ in documents.list(names.rounds_path(TASK)):
        data = {key: value for key, value in round_.data.items() if key not in NEW_ROUND_FIELDS}
        data["terms"] = {key: value for key, value in data["terms"].items() if key not in NEW_TERMS_FIELDS}
        data["terms"]["base"].pop("line", None)
        if "checkpoint" in data:
            data["checkpoint"].pop("line", None)
        documents.replace(round_.path, data, version=round_.version)


def contribute(h: Harness, *clients: int) -> None:
    for client in clients:
        h.upload(h.assigned(client).token, sum_update(client))


@pytest.mark.parametrize("phase", ["collecting", "aggregating", "paused", "rolled back"])
def test_task_of_an_earlier_version_is_finished(phase, tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=2, rounds=2)
    contribute(h, 0, 1)
    h.deliver_all()
    contribute(h, 2)
    if phase == "aggregating":
        contribute(h, 3)
        h.app.round_closer.close(h.key())
    elif phase == "paused":
        h.operate("pause")
    elif phase == "rolled back":
        h.operate("rollback", version=1)
    age(h)
    h.restart()
    assert (h.task().run, h.round().terms.request) == (None, "")
    if phase == "paused":
        h.operate("resume")
    if phase == "rolled back":
        h.deliver_all()
        contribute(h, 2)
    if phase != "aggregating":
        contribute(h, 3)
    h.settle()
    assert h.task().status is TaskStatus.COMPLETED
    assert [int(decode(h.checkpoint(version))["total"]) for version in range(3)] == [0, 0b11, 0b1111]
    assert h.leftovers() == []
