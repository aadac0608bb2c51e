"""Kind and selector of an assignment, attributes of a client, and the codes of its failures."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from support.double import Double, Worker, problem
from werkzeug.wrappers import Request, Response

from muster.client import (
    Assigned,
    BudgetRules,
    ClientPolicy,
    Contributed,
    Failed,
    Ineligible,
    Limits,
    MusterClient,
    WorkContext,
)
from muster.wire.messages import FailureCode, FailureReason, Report
from muster.wire.problems import ProblemError, ProblemType

CHECKIN = "POST /v1/populations/devices:checkin"
UPLOAD = "PUT /v1/updates"
REPORT = "POST /v1/updates:report"


def client_of(double: Double, data: Any = lambda: {"id": 3}, *, worker: Any = None, **more: Any) -> MusterClient:
    return MusterClient(double.url, "devices", data, runtime_factory=lambda _: worker or Worker(), **more)


def raising(error: Exception) -> Any:
    def data() -> Any:
        raise error

    return data


class Failing:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def work(self, *_: Any) -> Any:
        raise self._error


def before_0_2(request: Request, _: Any) -> Response:
    """Answers a report like a coordinator that knows no codes."""
    received = json.loads(request.get_data())
    if "code" not in received:
        return Response(
            b'{"status":"reported","task":"sum","round":1,"retry_after":0.0}', content_type="application/json"
        )
    error = ProblemError(ProblemType.INVALID_REQUEST, "Report is not valid: code: is not a known field")
    return Response(error.to_problem().model_dump_json(), status=400, content_type="application/problem+json")


# Kind and selector


def test_data_callback_receives_kind_and_selector(double: Double) -> None:
    contexts: list[WorkContext] = []

    def data(context: WorkContext) -> dict[str, int]:
        contexts.append(context)
        return {"id": 3}

    with client_of(double, data) as client:
        client.run_once()
        double.assignment = {"kind": "evaluate", "selector": {"split": "test"}}
        client.run_once()
    assert [(context.kind, context.selector) for context in contexts] == [
        ("train", None),
        ("evaluate", {"split": "test"}),
    ]


def test_event_of_an_assignment_has_its_kind(double: Double) -> None:
    events: list[Any] = []
    double.assignment = {"kind": "analytics"}
    with client_of(double, on_event=events.append) as client:
        client.run_once()
    assert events[0] == Assigned("sum", 1, sums_in_the_clear=False, kind="analytics")


@pytest.mark.parametrize("kind", ["train", "a kind of a later version"])
def test_policy_restricts_kinds(double: Double, kind: str) -> None:
    double.assignment = {"kind": kind}
    with client_of(double, policy=ClientPolicy(kinds=["evaluate"])) as client:
        outcome = client.run_once()
        assert not any(route.startswith("GET") for route in double.requests)
        double.assignment = {"kind": "evaluate"}
        assert isinstance(client.run_once(), Contributed)
    assert isinstance(outcome, Failed)
    assert f"work of kind {kind}; kinds = evaluate" in outcome.detail
    (report,) = double.reports
    assert (report.detail, report.code) == ("policy.kinds", FailureCode.PLAN_REFUSED)


# Attributes


def test_attributes_are_sent_with_every_checkin(double: Double) -> None:
    attributes = {"app_version": "2.10", "ram_gb": 4, "beta": True, "load": 0.5}
    with client_of(double, attributes=attributes) as client:
        client.run_once()
        client.run_once()
    assert [checkin.attributes for checkin in double.checkins] == [attributes] * 2


def test_no_attributes_are_sent_by_default(double: Double) -> None:
    bodies: list[bytes] = []

    def record(request: Request, handle: Any) -> Response:
        bodies.append(request.get_data())
        return handle()

    double.faults[CHECKIN] = [record]
    with client_of(double) as client:
        client.run_once()
    assert b"attributes" not in bodies[0]


@pytest.mark.parametrize(
    "attributes", [{"App": 1}, {"a": [1]}, {"a": "x" * 129}, {"a": None}, {f"a{n}": 1 for n in range(33)}]
)
def test_invalid_attributes_are_refused_at_the_start(attributes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="The client's attributes are not valid: attributes"):
        MusterClient("http://127.0.0.1:9", "devices", dict, attributes=attributes)


# Codes


def failed(double: Double, **client: Any) -> Failed:
    """Runs a client that fails, and returns its outcome."""
    with client_of(double, **client) as running:
        outcome = running.run_once()
    assert isinstance(outcome, Failed), outcome
    assert [(report.reason, report.code) for report in double.reports] == [(outcome.reason, outcome.code)]
    return outcome


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FileNotFoundError("ward.csv"), FailureCode.DATA_MISSING),
        (ValueError("patient 17"), FailureCode.DATA_ERROR),
        (PermissionError("ward.csv"), FailureCode.DATA_ERROR),
        (ProblemError(ProblemType.INVALID_REQUEST, "an own problem"), FailureCode.DATA_ERROR),
        (MemoryError(), FailureCode.LIMITS_MEMORY),
    ],
)
def test_failure_of_the_data_callback(double: Double, error: Exception, code: FailureCode) -> None:
    outcome = failed(double, data=raising(error))
    assert (outcome.reason, outcome.code) == (FailureReason.DATA, code)


@pytest.mark.parametrize(
    ("error", "reason", "code"),
    [
        (ProblemError(ProblemType.INVALID_REQUEST, "shape"), FailureReason.DATA, FailureCode.DATA_SHAPE),
        (ProblemError(ProblemType.COMPUTATION_FAILED, "op"), FailureReason.COMPUTATION, FailureCode.COMPUTATION_ERROR),
        (ProblemError(ProblemType.PLAN_INVALID, "an op"), FailureReason.PLAN_REFUSED, FailureCode.PLAN_INVALID),
        (OSError("a file of the data"), FailureReason.DATA, FailureCode.DATA_ERROR),
        (FileNotFoundError("a file of the data"), FailureReason.DATA, FailureCode.DATA_MISSING),
    ],
)
def test_failure_of_the_work(double: Double, error: Exception, reason: FailureReason, code: FailureCode) -> None:
    outcome = failed(double, worker=Failing(error))
    assert (outcome.reason, outcome.code) == (reason, code)


def test_exhausted_memory_of_a_graph_is_a_limit(double: Double) -> None:
    error = ProblemError(ProblemType.COMPUTATION_FAILED, "op")
    cause = type("ResourceExhaustedError", (Exception,), {"__module__": "tensorflow.python.framework.errors_impl"})()
    error.__cause__ = cause
    assert failed(double, worker=Failing(error)).code is FailureCode.LIMITS_MEMORY


def test_update_that_is_not_finite(double: Double) -> None:
    outcome = failed(double, data=lambda: {"id": 0, "value": np.nan})
    assert outcome.code is FailureCode.DATA_NOT_FINITE


def test_update_beyond_the_tasks_size(double: Double) -> None:
    double.assignment = {"max_update_bytes": 10}
    assert failed(double).code is FailureCode.LIMITS_SIZE


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"limits": Limits(max_download_bytes=1)}, FailureCode.LIMITS_SIZE),
        ({"limits": Limits(max_update_bytes=1)}, FailureCode.LIMITS_SIZE),
        ({"limits": Limits(max_seconds=1e-9)}, FailureCode.LIMITS_TIME),
        ({"policy": ClientPolicy(goal=99)}, FailureCode.PLAN_REFUSED),
        ({"policy": ClientPolicy(plans=["0" * 64])}, FailureCode.PLAN_REFUSED),
    ],
)
def test_limit_or_rule_of_the_device(double: Double, more: dict[str, Any], code: FailureCode) -> None:
    assert failed(double, **more).code is code


def test_spent_budget(double: Double, tmp_path: Any) -> None:
    rules = BudgetRules(per_broadcast=1, file=str(tmp_path / "budget"))
    with client_of(double, policy=ClientPolicy(budget=rules)) as client:
        assert isinstance(client.run_once(), Contributed)
    assert failed(double, policy=ClientPolicy(budget=rules)).code is FailureCode.LIMITS_BUDGET


def test_damaged_plan_or_broadcast(double: Double) -> None:
    double.broadcast_file = b"x"
    outcome = failed(double)
    assert (outcome.reason, outcome.code) == (FailureReason.PLAN_REFUSED, FailureCode.PLAN_INVALID)


def test_refused_update(double: Double) -> None:
    double.faults[UPLOAD] = [problem(ProblemType.UPDATE_NOT_FINITE)]
    assert failed(double).code is FailureCode.DATA_NOT_FINITE


def test_failure_of_unknown_cause_has_no_code(double: Double) -> None:
    double.faults[UPLOAD] = [problem(ProblemType.UPDATE_INVALID)]
    assert failed(double).code is None


def test_owner_who_stops_the_work(double: Double) -> None:
    answers = iter([True, False])
    with client_of(double, eligible=lambda: next(answers)) as client:
        assert isinstance(client.run_once(), Ineligible)
    assert [(report.reason, report.code) for report in double.reports] == [
        (FailureReason.CANCELLED, FailureCode.OWNER_CANCELLED)
    ]


# An older coordinator


def test_report_is_repeated_once_without_its_code(double: Double) -> None:
    double.faults[REPORT] = [before_0_2, before_0_2]
    with client_of(double, raising(ValueError())) as client:
        outcome = client.run_once()
        assert isinstance(outcome, Failed)
        assert double.requests[REPORT] == 2
        assert isinstance(client.run_once(), Failed)  # and so is the next one
    assert outcome.code is FailureCode.DATA_ERROR
    assert outcome.retry_after == 0.0


def test_report_without_a_code_is_not_repeated(double: Double) -> None:
    double.faults[UPLOAD] = [problem(ProblemType.UPDATE_INVALID)]
    double.faults[REPORT] = [problem(ProblemType.INVALID_REQUEST)] * 2
    with client_of(double) as client:
        assert isinstance(client.run_once(), Failed)
    assert double.requests[REPORT] == 1


def test_other_refusals_of_a_report_are_not_repeated(double: Double) -> None:
    double.faults[REPORT] = [problem(ProblemType.ROUND_CLOSED)] * 2
    with client_of(double, raising(ValueError())) as client:
        assert isinstance(client.run_once(), Failed)
    assert double.requests[REPORT] == 1


def test_report_without_a_code_has_the_bytes_of_an_earlier_version() -> None:
    report = Report(reason=FailureReason.DATA, detail="ValueError")
    assert report.encode() == b'{"outcome":"failed","reason":"data","detail":"ValueError"}'
