"""Offers of a check-in: weights, hours and eligibility of tasks, and the kind of the work."""

from __future__ import annotations

from collections import Counter

import pytest
from support.harness import POPULATION, TASK, Harness
from support.plans import sum_update

from muster.wire.messages import Assignment, CheckinRequest, CheckinResponse, TaskSpec, TaskView, WaitReason
from muster.wire.problems import ProblemError

HOUR = 3600.0
LONGEST = 60.0 * 1.25  # seconds; the longest wait with its jitter
# 2027-01-15 08:00 UTC, a Friday, is the start of the harness's clock.
NIGHT = {"start": "22:00", "end": "06:00", "time_zone": "Europe/Berlin"}


def create(h, name, *, policy=None, **fields):
    spec = TaskSpec.from_dict(
        {
            "name": name,
            "population": POPULATION,
            "plan": h.plan.sha256,
            "policy": {"goal": 3, "minimum": 1, "over_selection": 10.0, **(policy or {})},
            **fields,
        }
    )
    return TaskView.decode(h.ask("POST", "/v1/tasks", body=spec.encode()))


def begun(tmp_path, **tasks):
    """Returns a harness with tasks, by name, of the given policies."""
    h = Harness(tmp_path)
    h.put_plan()
    for name, policy in tasks.items():
        create(h, name, policy=policy)
    h.deliver_all()
    return h


def check_in(h, client, **attributes):
    body = CheckinRequest(client=str(client), attributes=attributes).encode()
    return CheckinResponse.decode(h.ask("POST", f"/v1/populations/{POPULATION}:checkin", body=body)).answer


def test_weights_of_99_to_1_over_ten_thousand_checkins(tmp_path):
    h = Harness(tmp_path, cache_seconds=3600.0)
    h.put_plan()
    for name, weight in (("main", 99.0), ("experiment", 1.0)):
        create(h, name, policy={"goal": 10_000, "weight": weight})
    h.deliver_all()
    issuer = h.app.assignment_issuer
    answers = [issuer.check_in(POPULATION, CheckinRequest(), identity=str(n)).answer for n in range(10_000)]
    tasks = Counter(answer.task for answer in answers)
    assert tasks["experiment"] / 10_000 == pytest.approx(0.01, abs=0.003)
    assert tasks["main"] + tasks["experiment"] == 10_000


def test_client_gets_the_other_task_if_the_first_has_no_slot(tmp_path):
    h = begun(tmp_path, main={"weight": 1e6, "goal": 1, "over_selection": 1.0}, other={"weight": 1e-6})
    assert [check_in(h, client).task for client in "abc"] == ["main", "other", "other"]


def test_task_assigns_no_work_outside_its_windows(tmp_path):
    h = begun(tmp_path, **{TASK: {"windows": [NIGHT], "round_seconds": 86400.0}})
    wait = check_in(h, "a")
    assert wait.reason is WaitReason.OUTSIDE_WINDOW
    assert 60.0 <= wait.retry_after <= LONGEST
    h.clock.advance(13 * HOUR - 20)
    wait = check_in(h, "a")
    assert wait.reason is WaitReason.OUTSIDE_WINDOW
    assert 20.0 <= wait.retry_after <= 25.0
    h.clock.advance(20)
    assigned = check_in(h, "a")
    assert isinstance(assigned, Assignment)
    h.clock.advance(8 * HOUR - 1)
    late = check_in(h, "b")
    assert isinstance(late, Assignment)
    h.clock.advance(1)
    assert check_in(h, "c").reason is WaitReason.OUTSIDE_WINDOW
    # Assignments of the window stay valid.
    assert h.upload(late.token, sum_update(1)).status == "accepted"


def test_unknown_time_zone_is_refused_by_name(tmp_path):
    h = Harness(tmp_path)
    h.put_plan()
    with pytest.raises(ProblemError, match="'Europe/Bonn', which is no known time zone") as refused:
        create(h, "night", policy={"windows": [NIGHT, {**NIGHT, "time_zone": "Europe/Bonn"}]})
    assert [field.path for field in refused.value.fields] == ["policy.windows.1.time_zone"]
    with pytest.raises(ProblemError, match="There is no task"):
        h.ask("GET", "/v1/tasks/night")


def test_task_assigns_work_to_eligible_clients_only(tmp_path):
    rules = [
        {"key": "app_version", "op": "version_gte", "values": ["2.10"]},
        {"key": "ram_gb", "op": "gte", "values": [4]},
    ]
    h = begun(tmp_path, **{TASK: {"eligibility": rules}})
    for attributes in ({}, {"app_version": "2.9", "ram_gb": 8}, {"app_version": "2.10", "ram_gb": 3.5}):
        wait = check_in(h, "a", **attributes)
        assert wait.reason is WaitReason.NOT_ELIGIBLE
        assert 60.0 <= wait.retry_after <= LONGEST
    assert isinstance(check_in(h, "a", app_version="2.10.1", ram_gb=4), Assignment)


def test_integer_beyond_every_float_is_compared(tmp_path):
    h = begun(tmp_path, **{TASK: {"eligibility": [{"key": "ram_gb", "op": "lte", "values": [4]}]}})
    body = b'{"client":"a","attributes":{"ram_gb":1' + b"0" * 400 + b"}}"
    answer = CheckinResponse.decode(h.ask("POST", f"/v1/populations/{POPULATION}:checkin", body=body)).answer
    assert answer.reason is WaitReason.NOT_ELIGIBLE


def test_ineligible_client_gets_work_of_another_task(tmp_path):
    rule = {"key": "beta", "op": "in", "values": [True]}
    h = begun(tmp_path, beta={"eligibility": [rule], "weight": 1e6}, stable={})
    assert check_in(h, "a").task == "stable"
    assert check_in(h, "b", beta=True).task == "beta"


def test_attributes_are_not_stored(tmp_path):
    h = begun(tmp_path, **{TASK: {"eligibility": [{"key": "site", "op": "exists"}]}})
    assigned = check_in(h, "a", site="ward-seven")
    h.upload(assigned.token, sum_update(1))
    dump = repr([h.inner.documents.list(path) for path in ("tasks", f"tasks/{TASK}/rounds")]) + repr(h.blobs())
    assert "ward-seven" not in dump + assigned.token


def test_assignment_carries_kind_and_selector(tmp_path):
    h = Harness(tmp_path)
    h.put_plan()
    create(h, "eval", kind="evaluate", selector={"split": "test", "last_days": 7})
    h.deliver_all()
    assigned = check_in(h, "a")
    assert (assigned.kind, assigned.selector) == ("evaluate", {"split": "test", "last_days": 7})


def test_kind_is_train_and_selector_missing_by_default(tmp_path):
    h = begun(tmp_path, **{TASK: {}})
    assigned = check_in(h, "a")
    assert (assigned.kind, assigned.selector) == ("train", None)
