"""Norm bound of a task: the fold drops or scales updates over it, and the round counts them."""

from __future__ import annotations

import numpy as np
import pytest
from support.harness import TASK, Harness
from support.plans import make_plan, sum_update

from muster.wire.dtypes import DType
from muster.wire.manifest import TensorSpec
from muster.wire.messages import RoundList
from muster.wire.problems import ProblemError, ProblemType

VALUES = [1.0, -2.0, 100.0]  # three elements each: norms of 1.73, 3.46 and 173


def committed(harness):
    (view,) = RoundList.decode(harness.ask("GET", f"/v1/tasks/{TASK}/rounds")).rounds
    return view


def contribute(harness, values=VALUES):
    for number, value in enumerate(values):
        harness.upload(harness.assigned(number).token, sum_update(number, value))
    harness.deliver_all()


@pytest.fixture
def harness(tmp_path):
    return Harness(tmp_path)


def test_update_over_the_bound_is_dropped_and_counted(harness):
    harness.begin(rounds=1, goal=3, max_update_norm=4)
    contribute(harness)
    view, result = committed(harness), harness.result(1)
    assert (view.folded, view.dropped, view.clipped) == (2, {"norm": 1}, 0)
    assert result["value"].tolist() == [-1, -1, -1]
    assert int(result["ids"]) == 0b011


def test_clip_scales_an_update_to_the_bound(harness):
    bound = float(np.sqrt(np.float64(3 * 16)))  # a vector of three fours
    harness.begin(rounds=1, goal=3, max_update_norm=bound, clip=True)
    contribute(harness)
    view, result = committed(harness), harness.result(1)
    assert (view.folded, view.dropped, view.clipped) == (3, {}, 1)
    assert result["value"].tolist() == [3, 3, 3]  # 1 - 2 + 4
    assert int(result["ids"]) == 0b111
    assert int(result["count"]) == 3  # tensors other than float vectors are unchanged


def test_infinite_update_is_dropped_even_with_clip(harness):
    harness.begin(rounds=1, goal=2, max_update_norm=4, clip=True, allow_non_finite=True)
    contribute(harness, [1.0, float("inf")])
    view = committed(harness)
    assert (view.folded, view.dropped, view.clipped) == (1, {"norm": 1}, 0)


def test_round_below_minimum_after_drops_is_abandoned(harness):
    harness.begin(rounds=1, goal=3, minimum=3, max_update_norm=4)
    contribute(harness)
    (ended,) = harness.abandoned()
    assert ended.tally.dropped == {"norm": 1}
    assert not harness.committed()


def test_counts_of_several_partials_are_summed(harness):
    harness.begin(rounds=1, goal=6, chunk=2, shards=1, max_update_norm=4, clip=True)
    contribute(harness, [100.0, 1.0] * 3)
    assert (committed(harness).folded, committed(harness).clipped) == (6, 3)


@pytest.mark.parametrize(
    ("policy", "reason"),
    [({"clip": True}, "nothing to clip to"), ({"max_update_norm": 0}, "greater than 0")],
)
def test_contradictory_policies_are_refused(harness, policy, reason):
    harness.put_plan()
    body = {"name": TASK, "population": "phones", "plan": harness.plan.sha256, "policy": policy}
    with pytest.raises(ProblemError, match=reason):
        harness.ask("POST", "/v1/tasks", json=body)


def test_bound_on_updates_without_floats_is_refused(tmp_path):
    spec = TensorSpec(path="n", dtype=DType.INT64, shape=(2,))
    plan = make_plan("integers", state={"s": np.int64(0)}, update=(spec,), zero={"n": np.zeros(2, np.int64)})
    harness = Harness(tmp_path, plan=plan)
    harness.put_plan()
    with pytest.raises(ProblemError, match="no floating-point tensor") as caught:
        harness.create_task(max_update_norm=1.0)
    assert caught.value.type is ProblemType.INVALID_REQUEST
    assert caught.value.fields[0].path == "policy.max_update_norm"
