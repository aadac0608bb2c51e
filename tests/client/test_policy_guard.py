"""Client under a policy: what it refuses at which step, and what it reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
from support.double import Double, Worker, drop_before, plain, wait
from support.plans import every_dtype_plan, every_dtype_update, make_plan

from muster.client import (
    BudgetError,
    BudgetRules,
    ClientPolicy,
    Contributed,
    Failed,
    Ineligible,
    Limits,
    MusterClient,
    PolicyFileError,
    PolicyNote,
    Unreached,
)
from muster.client.policy_rules import RULES, check_manifest
from muster.runtime.data import DataMeter, adapt
from muster.wire.dtypes import DType
from muster.wire.manifest import FoldKind, FoldRule, Release, TensorSpec
from muster.wire.messages import FailureReason
from muster.wire.plan import Plan
from muster.wire.signatures import SigningKey

UPLOAD, CHECKIN = "PUT /v1/updates", "POST /v1/populations/devices:checkin"
KEYS = [SigningKey.generate() for _ in range(3)]

pytestmark = pytest.mark.usefixtures("no_waits")


class Metered(Worker):
    """Worker that reads its data twice, as `Runtime` does; its update has 32 bytes of values."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._declared = plan.manifest.data

    def work(self, data: Any, broadcast: Any, *, meter: Optional[DataMeter] = None) -> dict[str, Any]:
        elements = adapt(data, self._declared, meter=meter).sequences["data"]
        assert list(elements()) == list(elements())
        return super().work({"id": 3}, broadcast)


def client_of(double: Double, policy: Any, *, data: Any = None, **more: Any) -> MusterClient:
    more.setdefault("runtime_factory", lambda plan: Metered(plan) if data is not None else Worker())
    return MusterClient(double.url, "devices", data or (lambda: {"id": 3}), policy=policy, **more)


def changed(plan: Plan, **update: Any) -> Plan:
    return Plan(plan.manifest.model_copy(update=update), plan.parts)


def serve(double: Double, plan: Plan) -> None:
    double.plan = plan
    double.__post_init__()


def refused(double: Double, policy: ClientPolicy, **more: Any) -> str:
    """Returns the reported rule, and checks that no update was uploaded."""
    with client_of(double, policy, **more) as client:
        outcome = client.run_once()
    assert isinstance(outcome, Failed), outcome
    assert outcome.reason is FailureReason.PLAN_REFUSED
    (report,) = double.reports
    assert report.reason is FailureReason.PLAN_REFUSED
    assert report.detail in RULES
    assert not double.uploads
    assert len(outcome.detail) > len(report.detail)
    return report.detail


def fetched(double: Double) -> bool:
    return any(route.startswith("GET") for route in double.requests)


def test_unlisted_plan_is_refused_before_any_download(double: Double) -> None:
    assert refused(double, ClientPolicy(plans=["0" * 64])) == "policy.plans"
    assert not fetched(double)


def test_listed_plan_runs(double: Double) -> None:
    with client_of(double, ClientPolicy(plans=["0" * 64, double.plan.sha256])) as client:
        assert isinstance(client.run_once(), Contributed)


@pytest.mark.parametrize(("signed", "passes"), [([0, 1], True), ([0, 1, 2], True), ([0], False), ([], False)])
def test_required_number_of_distinct_signers(double: Double, signed: list[int], *, passes: bool) -> None:
    for number in signed:
        double.plan = double.plan.signed(KEYS[number])
    double.plan_file = double.plan.for_client().encode()
    policy = ClientPolicy(signers=[key.signer for key in KEYS], signers_required=2)
    if passes:
        with client_of(double, policy) as client:
            assert isinstance(client.run_once(), Contributed)
    else:
        assert refused(double, policy) == "policy.signers"


def test_invalid_signature_does_not_count(double: Double) -> None:
    other = changed(double.plan, name="other").signed(KEYS[0])
    forged = double.plan.signed(KEYS[1]).with_signatures(other.signatures)
    double.plan_file = forged.for_client().encode()
    policy = ClientPolicy(signers=[key.signer for key in KEYS], signers_required=2)
    assert refused(double, policy) == "policy.signers"


def test_cached_plan_is_fetched_again_for_new_signatures(double: Double, tmp_path: Path) -> None:
    with client_of(double, None, cache=tmp_path) as client:
        client.run_once()
    double.plan_file = double.plan.signed(KEYS[0]).signed(KEYS[1]).for_client().encode()
    policy = ClientPolicy(signers=[key.signer for key in KEYS], signers_required=2)
    with client_of(double, policy, cache=tmp_path) as client:
        assert isinstance(client.run_once(), Contributed)


@pytest.mark.parametrize("bound", [None, 1, 9])
def test_plan_with_a_lower_signed_minimum_is_refused(double: Double, bound: Optional[int]) -> None:
    serve(double, changed(double.plan, release=None if bound is None else Release(minimum=bound)))
    double.assignment = {"minimum": 10, "goal": 10}
    assert refused(double, ClientPolicy(minimum=10)) == "policy.minimum"


def test_lower_announced_minimum_is_refused_before_any_download(double: Double) -> None:
    serve(double, changed(double.plan, release=Release(minimum=10)))
    double.assignment = {"minimum": 9}
    assert refused(double, ClientPolicy(minimum=10)) == "policy.minimum"
    assert not fetched(double)


@pytest.mark.parametrize("announced", [{}, {"minimum": 10}])
def test_plan_with_the_signed_minimum_runs(double: Double, announced: dict[str, Any]) -> None:
    serve(double, changed(double.plan, release=Release(minimum=10)))
    double.assignment = announced
    with client_of(double, ClientPolicy(minimum=10)) as client:
        assert isinstance(client.run_once(), Contributed)


@pytest.mark.parametrize("announced", [{}, {"goal": 4}])
def test_lower_or_missing_goal_is_refused(double: Double, announced: dict[str, Any]) -> None:
    double.assignment = announced
    assert refused(double, ClientPolicy(goal=5)) == "policy.goal"


@pytest.mark.parametrize("kind", [FoldKind.MAXIMUM, FoldKind.MINIMUM, FoldKind.TENSORFLOW])
def test_unlisted_fold_is_refused(double: Double, kind: FoldKind) -> None:
    *others, last = double.plan.manifest.folds
    update = None if kind is FoldKind.TENSORFLOW else last.update
    serve(double, changed(double.plan, folds=(*others, FoldRule(path=last.path, kind=kind, update=update))))
    assert refused(double, ClientPolicy(folds=[FoldKind.SUM])) == "policy.folds"


def test_tensor_without_a_known_fold_is_refused(double: Double) -> None:
    manifest = double.plan.manifest.model_copy(update={"folds": double.plan.manifest.folds[1:]})
    (check,) = check_manifest(ClientPolicy(folds=[FoldKind.SUM]), manifest)
    assert not check.passed
    assert f"{manifest.accumulator[0].path} (tensorflow)" in check.detail


def test_listed_folds_run(double: Double) -> None:
    with client_of(double, ClientPolicy(folds=["sum", "maximum"])) as client:
        assert isinstance(client.run_once(), Contributed)


def every_dtype(double: Double) -> dict[str, Any]:
    serve(double, every_dtype_plan())

    class All:
        def work(self, data: Any, broadcast: Any) -> dict[str, Any]:
            del data, broadcast
            return every_dtype_update()

    return {"runtime_factory": lambda _: All()}


def test_string_tensors_are_refused(double: Double) -> None:
    assert refused(double, ClientPolicy(string_tensors=False), **every_dtype(double)) == "policy.string_tensors"


@pytest.mark.parametrize("announced", [{}, {"sums_in_the_clear": True}])
def test_secure_sums_in_the_clear_are_refused(double: Double, announced: dict[str, Any]) -> None:
    more = every_dtype(double)
    double.assignment = announced
    assert refused(double, ClientPolicy(clear_secure_sums=False), **more) == "policy.clear_secure_sums"
    assert fetched(double) is not bool(announced)


def test_string_tensors_and_clear_sums_pass_without_rules(double: Double) -> None:
    with client_of(double, ClientPolicy(), **every_dtype(double)) as client:
        assert isinstance(client.run_once(), Contributed)


def test_refused_plan_is_not_fetched_again(double: Double) -> None:
    with client_of(double, ClientPolicy(minimum=10)) as client:
        for _ in range(3):
            assert isinstance(client.run_once(), Failed)
    assert double.requests[f"GET /v1/plans/{double.plan.sha256}"] == 1


# 28 bytes of values: two integers and three floats.


def numbers(count: int) -> list[np.int64]:
    return [np.int64(value) for value in range(count)]


@pytest.mark.parametrize(("elements", "passes"), [(35, True), (34, False), (0, False)])
def test_update_size_is_compared_with_data_read_once(double: Double, elements: int, *, passes: bool) -> None:
    policy = ClientPolicy(update_bytes_per_data_byte=0.1)
    if passes:
        with client_of(double, policy, data=lambda: numbers(elements)) as client:
            assert isinstance(client.run_once(), Contributed)
    else:
        assert refused(double, policy, data=lambda: numbers(elements)) == "policy.update_bytes_per_data_byte"


def test_generator_data_is_measured(double: Double) -> None:
    policy = ClientPolicy(update_bytes_per_data_byte=0.1)
    with client_of(double, policy, data=lambda: iter(numbers(40))) as client:
        assert isinstance(client.run_once(), Contributed)


def test_update_with_an_open_shape_is_measured_by_its_values(double: Double) -> None:
    opened = TensorSpec(path="open", dtype=DType.FLOAT32, shape=(None,))
    count = TensorSpec(path="count", dtype=DType.INT64, shape=())
    state = {"total": np.int64(0), "rounds": np.int64(0)}
    serve(double, make_plan("open", state=state, update=(opened, count), zero={"count": np.int64(0)}))

    class Large(Metered):
        def work(self, data: Any, broadcast: Any, *, meter: Optional[DataMeter] = None) -> dict[str, Any]:
            del broadcast
            list(adapt(data, self._declared, meter=meter).sequences["data"]())
            return {"open": np.zeros(1000, np.float32), "count": np.array(1)}

    policy = ClientPolicy(update_bytes_per_data_byte=1.0)
    rule = refused(double, policy, data=lambda: numbers(100), runtime_factory=Large)
    assert rule == "policy.update_bytes_per_data_byte"


def test_stricter_of_policy_and_limits_applies(double: Double) -> None:
    rule = refused(double, ClientPolicy(max_update_bytes=20), limits=Limits(max_update_bytes=10**6))
    assert rule == "limits.max_update_bytes"


def budget(folder: Path, **rules: Any) -> ClientPolicy:
    return ClientPolicy(budget=BudgetRules(file=str(folder / "budget"), **rules))


def test_client_with_a_spent_budget_waits_until_it_is_free(double: Double, tmp_path: Path) -> None:
    with client_of(double, budget(tmp_path, per_day=1)) as client:
        assert isinstance(client.run_once(), Contributed)
        outcome = client.run_once()
    assert isinstance(outcome, Ineligible)
    assert "per_day = 1; free again at" in outcome.detail
    assert outcome.until is not None
    assert outcome.retry_after == 3600.0
    assert double.requests[CHECKIN] == 1


def test_budget_holds_after_a_restart_and_for_another_client_id(double: Double, tmp_path: Path) -> None:
    for name, expected in (("me", Contributed), ("me", Ineligible), ("another", Ineligible)):
        with client_of(double, budget(tmp_path, separation_hours=1), client_id=name) as client:
            assert isinstance(client.run_once(), expected)
    assert double.requests[CHECKIN] == 1


def test_repeated_broadcast_is_refused_and_a_new_one_is_not(double: Double, tmp_path: Path) -> None:
    with client_of(double, budget(tmp_path, per_broadcast=1)) as client:
        assert isinstance(client.run_once(), Contributed)
        double.round = 2
        assert isinstance(client.run_once(), Failed)
        assert [report.detail for report in double.reports] == ["policy.budget.per_broadcast"]
        double.assignment = {"broadcast": double._assign().broadcast.model_copy(update={"sha256": "0" * 64})}
        client.run_once()
    assert double.reports[-1].detail != "policy.budget.per_broadcast"


def test_spent_plan_takes_no_slot(double: Double, tmp_path: Path) -> None:
    policy = budget(tmp_path, per_plan=1).model_copy(update={"plans": (double.plan.sha256,)})
    with client_of(double, policy) as client:
        assert isinstance(client.run_once(), Contributed)
        outcome = client.run_once()
    assert isinstance(outcome, Ineligible)
    assert "per_plan = 1" in outcome.detail
    assert double.requests[CHECKIN] == 1


def test_retried_upload_counts_once(double: Double, tmp_path: Path) -> None:
    double.faults[UPLOAD] = [drop_before, *[plain(503)] * 7]
    with client_of(double, budget(tmp_path, per_plan=2)) as client:
        while isinstance(outcome := client.run_once(), Unreached):
            pass
        assert isinstance(outcome, Contributed)
        assert isinstance(client.run_once(), Contributed)
        assert isinstance(client.run_once(), Failed)


def test_failed_computation_spends_the_budget(double: Double, tmp_path: Path) -> None:
    class Failing(Worker):
        def work(self, data: Any, broadcast: Any) -> dict[str, Any]:
            raise RuntimeError(f"as the plan wants: {data}, {broadcast}")

    with client_of(double, budget(tmp_path, per_day=1), runtime_factory=lambda _: Failing()) as client:
        assert isinstance(client.run_once(), Failed)
        assert isinstance(client.run_once(), Ineligible)


def test_refusal_before_the_work_spends_no_budget(double: Double, tmp_path: Path) -> None:
    def broken() -> Any:
        raise OSError("the disk is gone")

    double.waits = [wait(1.0)]
    policy = budget(tmp_path, per_day=1)
    with client_of(double, policy) as client:
        client.run_once()
    with client_of(double, policy, data=broken) as client:
        assert isinstance(client.run_once(), Failed)
    with client_of(double, policy.model_copy(update={"minimum": 5})) as client:
        assert isinstance(client.run_once(), Failed)
    with client_of(double, policy) as client:
        assert isinstance(client.run_once(), Contributed)


def test_budget_that_becomes_unusable_stops_checkins(double: Double, tmp_path: Path) -> None:
    with client_of(double, budget(tmp_path, per_day=5)) as client:
        (tmp_path / "budget").unlink()
        outcome = client.run_once()
    assert isinstance(outcome, Ineligible)
    assert "is missing now" in outcome.detail
    assert not double.requests


def test_budget_that_becomes_unusable_refuses_the_assignment(double: Double, tmp_path: Path) -> None:
    def data() -> Any:
        (tmp_path / "budget").write_bytes(b"spoiled" * 1000)
        return {"id": 3}

    with MusterClient(
        double.url, "devices", data, policy=budget(tmp_path, per_day=5), runtime_factory=lambda _: Worker()
    ) as client:
        assert isinstance(client.run_once(), Failed)
    assert [report.detail for report in double.reports] == ["policy.budget"]
    assert not double.uploads


def test_client_needs_a_usable_budget_and_policy_to_start(double: Double, tmp_path: Path) -> None:
    (tmp_path / "budget").write_bytes(b"no budget")
    with pytest.raises(BudgetError, match=r"can't be used|open to other users"):
        client_of(double, budget(tmp_path, per_day=1))
    with pytest.raises(PolicyFileError, match="no-such"):
        client_of(double, tmp_path / "no-such.toml")


def test_policy_file_is_accepted_as_policy(double: Double, tmp_path: Path) -> None:
    (tmp_path / "ward.toml").write_text("minimum = 3")
    assert refused(double, str(tmp_path / "ward.toml")) == "policy.minimum"  # type: ignore[arg-type]


def notes_of(double: Double, policy: Any) -> list[str]:
    events: list[Any] = []
    with client_of(double, policy, on_event=events.append) as client:
        client.run(rounds=2)
    assert isinstance(events[0], PolicyNote) or not any(isinstance(event, PolicyNote) for event in events)
    return [event.detail for event in events if isinstance(event, PolicyNote)]


def test_run_without_a_policy_reports_one_note(double: Double, tmp_path: Path) -> None:
    (note,) = notes_of(double, None)
    assert "the coordinator decides" in note
    assert notes_of(double, ClientPolicy()) == []
    (note,) = notes_of(double, budget(tmp_path, per_day=9))
    assert str(tmp_path / "budget") in note
    assert notes_of(double, budget(tmp_path, per_day=9)) == []


def test_plan_is_judged_by_its_manifest(double: Double) -> None:
    plan = make_plan("empty", state={"total": np.int64(0), "rounds": np.int64(0)}, update=(), zero={})
    serve(double, plan)
    policy = ClientPolicy(folds=["sum"], string_tensors=False, clear_secure_sums=False)
    with client_of(double, policy) as client:
        client.run_once()
    assert not double.reports
