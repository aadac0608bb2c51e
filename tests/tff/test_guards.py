"""Guards over a real process of tff.learning, with clients whose loss is NaN."""

from __future__ import annotations

import collections

import numpy as np
from support.computations import fed_avg, regression
from support.harness import TASK, Harness

from muster.author import build_plan
from muster.runtime import Runtime
from muster.wire.messages import RoundList, TaskStatus
from muster.wire.plan import Plan
from muster.wire.tensors import decode


def test_round_of_nan_clients_only_pauses_and_leaves_the_model_as_it_was(tmp_path):
    plan = Plan.decode(build_plan(fed_avg(), name="fed_avg").encode())
    runtime = Runtime(plan)
    h = Harness(tmp_path, plan=plan, runtime=runtime)
    h.begin(rounds=3, goal=2, minimum=2)
    healthy, bad = regression(1)[0], broken_client()

    def run_round(version, *clients):
        broadcast = runtime.prepare(decode(h.checkpoint(version)))
        for name, data in enumerate(clients):
            h.upload(h.assigned(name).token, runtime.work(data, broadcast))
        h.deliver_all()

    run_round(0, healthy, bad)
    assert h.task().status is TaskStatus.ACTIVE, "a single bad client trips nothing"
    run_round(1, bad, bad)
    task = h.task()
    assert task.status is TaskStatus.PAUSED
    assert "the result counts no example" in task.note
    mixed, empty = RoundList.decode(h.ask("GET", f"/v1/tasks/{TASK}/rounds")).rounds
    assert mixed.metrics["client_work/train/num_examples"] == sum(len(batch["y"]) for batch in healthy)
    assert (empty.metrics, empty.tripped) == ({}, ("no_examples",))
    before, after = decode(h.checkpoint(1)), decode(h.checkpoint(2))
    assert all(np.array_equal(before[path], after[path]) for path in before)
    h.operate("resume")
    h.deliver_all()
    run_round(2, healthy, healthy)
    assert h.task().status is TaskStatus.COMPLETED


def broken_client():
    """Returns a client's data with NaN, which makes its loss and its update NaN."""
    return [collections.OrderedDict(x=np.full((3, 2), np.nan, np.float32), y=np.ones((3, 1), np.float32))]
