"""Runs of driven tasks from states outside them: stored states, and checkpoints of other tasks."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from support.harness import TASK, Harness
from support.plans import sum_update

from muster.wire.messages import CheckpointList, RunStatus, StateRef, TaskStatus
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import decode, encode


@pytest.fixture
def h(tmp_path) -> Harness:
    """A coordinator with a stored plan."""
    harness = Harness(tmp_path)
    harness.put_plan()
    return harness


def put_state(h, **values):
    data = bytes(encode({name: np.int64(value) for name, value in values.items()}))
    sha256 = hashlib.sha256(data).hexdigest()
    h.ask("PUT", f"/v1/states/{sha256}?plan={h.plan.sha256}", body=data)
    return sha256


def commit(h, request, *clients, **options):
    """Runs rounds, each with one contribution."""
    h.run(request, **options)
    h.deliver_all()
    for client in clients:
        h.upload(h.assigned(client).token, sum_update(client))
        h.deliver_all()
    return h.get_run(request)


def state(h, version):
    return {name: int(value) for name, value in decode(h.checkpoint(version)).items()}


def checkpoints(h):
    return CheckpointList.decode(h.ask("GET", f"/v1/tasks/{TASK}/checkpoints")).checkpoints


def test_driven_task_starts_from_a_stored_state_without_a_round(h):
    sha256 = put_state(h, total=64, rounds=3)
    h.create_task(driven=True, goal=1, start=StateRef(state=sha256))
    h.deliver_all()
    assert (h.task().status, h.rounds(), state(h, 0)) == (TaskStatus.IDLE, [], {"total": 64, "rounds": 3})
    assert checkpoints(h)[0].parent.state == sha256
    commit(h, "a", 0)
    assert state(h, 1) == {"total": 65, "rounds": 4}
    assert (checkpoints(h)[1].parent.task, checkpoints(h)[1].parent.version) == (TASK, 0)


def test_every_run_may_start_from_a_state_outside_the_task(h):
    h.create_task(driven=True, goal=1)
    h.deliver_all()
    first = put_state(h, total=64, rounds=3)
    view = commit(h, "a", 0, 1, base={"state": first, "leaves": ["total"]}, rounds=2)
    assert (view.status, view.base.state, view.base.leaves) == (RunStatus.DONE, first, ("total",))
    assert (state(h, 1), state(h, 2)) == ({"total": 65, "rounds": 1}, {"total": 67, "rounds": 2})
    # Another request on the same base is a branch.
    commit(h, "b", 2, base={"state": first})
    assert state(h, 3) == {"total": 68, "rounds": 4}
    views = checkpoints(h)
    assert [(view.version, view.line, view.request) for view in views] == [
        (0, 0, ""),
        (1, 1, "a"),
        (2, 2, "a"),
        (3, 1, "b"),
    ]
    assert [view.parent and (view.parent.version, view.parent.state) for view in views] == [
        None,
        (None, first),
        (1, None),
        (None, first),
    ]
    assert views[0].sha256 == h.plan.manifest.initial_state.sha256
    assert h.blobs("bases/") == []
    h.operate("rollback", version=0)
    commit(h, "c", 5)
    assert state(h, 4) == {"total": 32, "rounds": 1}


def test_run_from_another_task_leaves_its_own_newest_checkpoint_until_it_commits(h):
    h.create_task("source", goal=1, rounds=1)
    h.deliver_all()
    h.upload(h.assigned(5).token, sum_update(5))
    h.deliver_all()
    h.create_task(driven=True, goal=2, minimum=2, round_seconds=100)
    h.deliver_all()
    h.run("a", base={"task": "source", "version": 1})
    h.deliver_all()
    [blob] = h.blobs(f"bases/{TASK}/")
    assert bytes(h.inner.blobs.read(blob)) == h.ask("GET", "/v1/tasks/source/checkpoints/1")
    assert (h.task().checkpoint, h.task().current.base.task) == (0, "source")
    h.upload(h.assigned(0).token, sum_update(0))
    h.clock.advance(101)
    h.settle()
    assert (h.task().checkpoint, h.task().current.epoch, h.task().current.base.task) == (0, 1, "source")
    h.operate("rollback", version=0)  # ends the run
    h.settle()
    commit(h, "b", 1, 2)
    assert state(h, 1) == {"total": 0b110, "rounds": 1}
    h.settle()
    assert h.blobs("bases/") == []


def test_state_by_value_continues_the_line(h):
    h.create_task(driven=True, goal=1)
    h.deliver_all()
    commit(h, "a", 0)
    commit(h, "b", 1, base={"state": checkpoints(h)[1].sha256})
    view = checkpoints(h)[2]
    assert (view.parent.task, view.parent.version, view.line) == (TASK, 1, 2)


@pytest.mark.parametrize(
    ("base", "kind", "text"),
    [
        ({"state": "f" * 64}, ProblemType.NOT_FOUND, "upload it first"),
        ({"task": "nothing", "version": 1}, ProblemType.NOT_FOUND, "There is no task 'nothing'"),
        ({"version": 3}, ProblemType.NOT_FOUND, "Round 3 of task sum is not committed"),
        ({"version": 0, "leaves": ["w/"]}, ProblemType.INVALID_REQUEST, "'w/' is the prefix of no tensor"),
    ],
)
def test_base_that_does_not_exist_or_fit_is_refused_at_once(h, base, kind, text):
    h.create_task(driven=True, goal=1)
    h.deliver_all()
    with pytest.raises(ProblemError) as refused:
        h.run("a", base=base)
    assert refused.value.type is kind
    assert text in refused.value.detail
    assert h.task().status is TaskStatus.IDLE


def test_repeat_of_a_request_survives_the_deletion_of_its_base(h):
    h.create_task(driven=True, goal=1)
    h.deliver_all()
    sha256 = put_state(h, total=64, rounds=3)
    commit(h, "a", 0, base={"state": sha256})
    h.inner.blobs.delete([f"states/{sha256}"])
    assert h.run("a", base={"state": sha256}).status is RunStatus.DONE
