"""`MusterClient` against a scripted coordinator, over real HTTP."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.double import Double, Worker, drop_after, drop_before, plain, problem, wait

from muster.client import (
    Assigned,
    Computed,
    Contributed,
    Failed,
    Missed,
    MusterClient,
    SetupError,
    UnreachableError,
    Unreached,
    Waited,
)
from muster.wire.messages import FailureReason, Wait, WaitReason
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import encode

CHECKIN, UPLOAD = "POST /v1/populations/devices:checkin", "PUT /v1/updates"

pytestmark = pytest.mark.usefixtures("no_waits")


def client_of(double: Double, data: Any, *, worker: Any = None, **more: Any) -> MusterClient:
    return MusterClient(double.url, "devices", data, runtime_factory=lambda _: worker or Worker(), **more)


def test_update_is_uploaded_and_the_cookie_sent_back(double: Double, client: MusterClient) -> None:
    outcomes = [client.run_once(), client.run_once()]
    assert outcomes == [Contributed("sum", 1, len(double.uploads["token-1"]), 0.0)] * 2
    assert [int(update["ids"]) for update in double.counted] == [8, 8]
    assert [(request.client, request.cookie) for request in double.checkins] == [("me", None), ("me", "a cookie")]


def test_events_are_reported_in_order(double: Double) -> None:
    events: list[Any] = []
    double.waits = [wait(1.5)]
    with client_of(double, lambda: {"id": 0}, on_event=events.append) as client:
        client.run_once()
        client.run_once()
    assert [type(event) for event in events] == [Waited, Assigned, Computed, Contributed]
    assert events[0].retry_after == 1.5


def test_random_client_id_is_stable(double: Double) -> None:
    with client_of(double, lambda: {"id": 0}) as client:
        client.run(rounds=2)
    assert len({checkin.client for checkin in double.checkins}) == 1
    assert double.checkins[0].client


@pytest.mark.parametrize("drop", [drop_before, drop_after])
@pytest.mark.parametrize("route", [CHECKIN, UPLOAD])
def test_broken_connection_is_retried(
    double: Double, client: MusterClient, worker: Worker, route: str, drop: Any
) -> None:
    double.faults[route] = [drop]
    assert isinstance(client.run_once(), Contributed)
    assert double.requests[route] == 2
    assert len(double.counted) == 1
    assert worker.calls == 1


def test_broken_downloads_are_fetched_again(double: Double, client: MusterClient) -> None:
    double.faults[f"GET /v1/plans/{double.plan.sha256}"] = [drop_before, plain(502)]
    double.faults["GET /v1/tasks/sum/rounds/1/broadcast"] = [plain(503), drop_after]
    assert isinstance(client.run_once(), Contributed)


def test_update_survives_an_outage_during_upload(double: Double, client: MusterClient, worker: Worker) -> None:
    double.faults[UPLOAD] = [problem(ProblemType.UNAVAILABLE)] * 7
    down = client.run_once()
    assert isinstance(down, Unreached)
    assert (down.task, down.round) == ("sum", 1)
    assert isinstance(client.run_once(), Contributed)
    assert worker.calls == 1
    assert len(double.checkins) == 1


def test_outage_at_checkin_waits_for_retry_after(double: Double, client: MusterClient) -> None:
    double.faults[CHECKIN] = [problem(ProblemType.UNAVAILABLE, retry_after=120.0)]
    outcome = client.run_once()
    assert isinstance(outcome, Unreached)
    assert 120 <= outcome.retry_after <= 150
    assert double.requests[CHECKIN] == 1
    assert isinstance(client.run_once(), Contributed)


def test_absent_coordinator_is_unreached() -> None:
    with MusterClient("http://127.0.0.1:9", "devices", dict) as client:
        outcome = client.run_once()
    assert isinstance(outcome, Unreached)
    assert "Connection refused" in outcome.detail


@pytest.mark.parametrize("kind", [ProblemType.ROUND_CLOSED, ProblemType.ASSIGNMENT_EXPIRED])
def test_late_upload_is_missed_and_the_client_checks_in_again(
    double: Double, client: MusterClient, kind: ProblemType
) -> None:
    double.faults[UPLOAD] = [problem(kind)]
    outcome = client.run_once()
    assert isinstance(outcome, Missed)
    assert outcome.retry_after <= 1
    assert double.reports == []
    assert isinstance(client.run_once(), Contributed)


def test_refused_update_is_reported_and_the_client_continues(double: Double, client: MusterClient) -> None:
    double.faults[UPLOAD] = [problem(ProblemType.UPDATE_INVALID)]
    outcome = client.run_once()
    assert isinstance(outcome, Failed)
    assert "update_invalid" in outcome.detail
    assert [report.reason for report in double.reports] == [FailureReason.COMPUTATION]
    assert isinstance(client.run_once(), Contributed)


def test_permanently_refused_checkin_is_raised(double: Double, client: MusterClient) -> None:
    double.faults[CHECKIN] = [problem(ProblemType.FORBIDDEN)]
    with pytest.raises(ProblemError) as raised:
        client.run_once()
    assert raised.value.type is ProblemType.FORBIDDEN


def test_plan_with_a_wrong_hash_is_refused(double: Double, client: MusterClient, worker: Worker) -> None:
    tampered = double.plan.for_client()
    tampered = type(tampered)(tampered.manifest.model_copy(update={"name": "evil"}), tampered.parts)
    double.plan_file = tampered.encode()
    outcome = client.run_once()
    assert isinstance(outcome, Failed)
    assert outcome.reason is FailureReason.PLAN_REFUSED
    assert "address" in outcome.detail
    assert worker.calls == 0
    assert [report.reason for report in double.reports] == [FailureReason.PLAN_REFUSED]


@pytest.mark.parametrize("content", ["changed", "longer", "not safetensors"])
def test_broadcast_with_a_wrong_hash_is_refused(
    double: Double, client: MusterClient, worker: Worker, content: str
) -> None:
    double.broadcast_file = {
        "changed": encode({"total": np.int64(1), "rounds": np.int64(0)}),
        "longer": double.broadcast + b"!",
        "not safetensors": b"x",
    }[content]
    outcome = client.run_once()
    assert isinstance(outcome, Failed)
    assert outcome.reason is FailureReason.PLAN_REFUSED
    assert worker.calls == 0


def test_failing_data_callback_is_reported_without_its_text(double: Double) -> None:
    def data() -> Any:
        raise ValueError("patient 17")

    with client_of(double, data) as client:
        outcome = client.run_once()
    assert isinstance(outcome, Failed)
    assert "patient 17" in outcome.detail
    assert isinstance(outcome.error, ValueError)
    assert [(report.reason, report.detail) for report in double.reports] == [(FailureReason.DATA, "ValueError")]


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (ProblemError(ProblemType.COMPUTATION_FAILED, "the graph"), FailureReason.COMPUTATION),
        (ProblemError(ProblemType.INVALID_REQUEST, "the data does not match"), FailureReason.DATA),
        (ProblemError(ProblemType.PLAN_INVALID, "a denied operation"), FailureReason.PLAN_REFUSED),
        (OSError("reading a file of the data"), FailureReason.DATA),
    ],
)
def test_failing_work_is_reported_by_its_kind(double: Double, raised: Exception, reason: FailureReason) -> None:
    class Failing:
        def work(self, *_: Any) -> Any:
            raise raised

    with client_of(double, dict, worker=Failing()) as client:
        outcome = client.run_once()
    assert isinstance(outcome, Failed)
    assert outcome.reason is reason
    assert [report.reason for report in double.reports] == [reason]


def test_missing_tensorflow_ends_the_client_and_releases_the_assignment(double: Double) -> None:
    def missing(_: Any) -> Any:
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")

    with (
        MusterClient(double.url, "devices", dict, runtime_factory=missing) as client,
        pytest.raises(SetupError, match="muster-fl\\[tensorflow\\]"),
    ):
        client.run_once()
    assert [report.reason for report in double.reports] == [FailureReason.OTHER]


def test_non_finite_update_is_not_uploaded_unless_allowed(double: Double) -> None:
    with client_of(double, lambda: {"id": 0, "value": np.nan}) as client:
        outcome = client.run_once()
        assert isinstance(outcome, Failed)
        assert "Tensor value of the update holds NaN" in outcome.detail
        assert double.requests[UPLOAD] == 0
        double.assignment["allow_non_finite"] = True
        assert isinstance(client.run_once(), Contributed)


def test_too_large_update_is_not_uploaded(double: Double, client: MusterClient) -> None:
    double.assignment["max_update_bytes"] = 10
    outcome = client.run_once()
    assert isinstance(outcome, Failed)
    assert double.requests[UPLOAD] == 0


def test_data_callback_may_accept_the_context(double: Double) -> None:
    seen: list[Any] = []

    def data(context: Any) -> Any:
        seen.append((context.task, context.round, context.plan))
        return {"id": 0}

    with client_of(double, data) as client:
        client.run_once()
    assert seen == [("sum", 1, "client_ids")]
    with client_of(double, lambda unused=0: {"id": unused}) as client:
        assert isinstance(client.run_once(), Contributed)
    for wrong in (lambda _a, _b: None, 5):
        with pytest.raises(TypeError, match="data"):
            client_of(double, wrong)


def test_plans_are_cached_in_memory_and_in_the_folder(double: Double, tmp_path: Path) -> None:
    route, cache = f"GET /v1/plans/{double.plan.sha256}", tmp_path / "plans"
    for _ in range(2):
        with client_of(double, lambda: {"id": 0}, cache=cache) as client:
            client.run(rounds=2)
    assert double.requests[route] == 1
    (cache / f"{double.plan.sha256}.plan").write_bytes(b"tampered with")
    with client_of(double, lambda: {"id": 0}, cache=cache) as client:
        client.run(rounds=1)
    assert double.requests[route] == 2
    assert (cache / f"{double.plan.sha256}.plan").read_bytes() == double.plan_file


def test_stop_ends_a_wait_at_once(double: Double) -> None:
    double.waits = [wait(3600)]
    stop, waiting = threading.Event(), threading.Event()
    with client_of(double, dict, on_event=lambda _: waiting.set()) as client:
        thread = threading.Thread(target=client.run, kwargs={"stop": stop})
        thread.start()
        assert waiting.wait(120)
        stop.set()
        thread.join(120)  # the wait itself takes an hour
    assert not thread.is_alive()


def test_interrupt_releases_the_assignment(double: Double) -> None:
    def data() -> Any:
        raise KeyboardInterrupt

    with client_of(double, data) as client, pytest.raises(KeyboardInterrupt):
        client.run()
    assert [report.reason for report in double.reports] == [FailureReason.CANCELLED]


def test_run_counts_outcomes(double: Double, client: MusterClient) -> None:
    double.faults[UPLOAD] = [problem(ProblemType.UPDATE_INVALID)]
    summary = client.run(rounds=2)
    assert (summary.contributed, summary.failed, summary.missed) == (2, 1, 0)


def test_unreachable_is_a_connection_error() -> None:
    assert issubclass(UnreachableError, ConnectionError)


def test_token_is_sent_only_at_checkin_and_renewed_each_time(double, worker):
    shown, tokens = [], iter(["first", "second"])
    double.waits = [Wait(reason=WaitReason.ROUND_FULL, retry_after=1.0)]

    def watch(request, handle):
        shown.append(request.headers.get("Authorization"))
        return handle()

    checkin, upload = "POST /v1/populations/devices:checkin", "PUT /v1/updates"
    double.faults = {checkin: [watch, watch], upload: [watch]}
    with MusterClient(
        double.url, "devices", lambda: {"id": 3}, token=lambda: next(tokens), runtime_factory=lambda _: worker
    ) as client:
        client.run_once()
        client.run_once()
    assert shown[:2] == ["Bearer first", "Bearer second"]
    assert shown[2] not in (None, *shown[:2])


def test_invalid_token_ends_the_run_with_the_reason(double, client):
    double.faults["POST /v1/populations/devices:checkin"] = [problem(ProblemType.UNAUTHENTICATED)]
    with pytest.raises(ProblemError, match="unauthenticated"):
        client.run()


def test_rate_limited_checkin_waits_for_retry_after(double, client):
    limit = problem(ProblemType.RATE_LIMITED, retry_after=100.0)
    double.faults["POST /v1/populations/devices:checkin"] = [limit]
    outcome = client.run_once()
    assert isinstance(outcome, Unreached)
    assert 100 <= outcome.retry_after <= 125
