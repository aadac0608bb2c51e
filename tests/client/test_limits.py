"""Limits, signers and eligibility that a device sets itself."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.double import Double, Worker

from muster.client import Contributed, Failed, Ineligible, Limits, MusterClient
from muster.wire.messages import FailureReason
from muster.wire.plan import Plan
from muster.wire.signatures import SigningKey

UPLOAD = "PUT /v1/updates"
KEY, OTHER = SigningKey.generate(), SigningKey.generate()

pytestmark = pytest.mark.usefixtures("no_waits")


def client_of(double: Double, *, worker: Any = None, **more: Any) -> MusterClient:
    return MusterClient(double.url, "devices", lambda: {"id": 3}, runtime_factory=lambda _: worker or Worker(), **more)


def refused(double: Double, reason: FailureReason, **more: Any) -> str:
    with client_of(double, **more) as client:
        outcome = client.run_once()
    assert isinstance(outcome, Failed), outcome
    assert outcome.reason is reason
    assert [report.reason for report in double.reports] == [reason]
    assert not double.uploads
    return outcome.detail


def test_plan_of_a_trusted_signer_runs(double: Double, tmp_path: Path) -> None:
    double.plan_file = double.plan.signed(KEY).for_client().encode()
    for _ in range(2):  # the second from the cache
        with client_of(double, trusted_signers=[OTHER.signer, KEY.signer], cache=tmp_path) as client:
            assert isinstance(client.run_once(), Contributed)


@pytest.mark.parametrize("signed", [False, True])
def test_untrusted_plan_is_refused_before_it_is_parsed(double: Double, *, signed: bool) -> None:
    if signed:
        double.plan_file = double.plan.signed(OTHER).for_client().encode()

    def make(_: Plan) -> Any:
        raise AssertionError("the runtime was created")

    with MusterClient(double.url, "devices", dict, runtime_factory=make, trusted_signers=[KEY.signer]) as client:
        outcome = client.run_once()
    assert isinstance(outcome, Failed)
    assert ("none of whom is trusted" if signed else "is not signed") in outcome.detail
    assert [report.reason for report in double.reports] == [FailureReason.PLAN_REFUSED]


def test_cached_plan_without_a_trusted_signature_is_fetched_again(double: Double, tmp_path: Path) -> None:
    with client_of(double, cache=tmp_path) as client:
        client.run_once()
    double.plan_file = double.plan.signed(KEY).for_client().encode()
    with client_of(double, cache=tmp_path, trusted_signers=[KEY.signer]) as client:
        assert isinstance(client.run_once(), Contributed)


def test_signers_without_cryptography_name_the_package_to_install() -> None:
    code = f"""
import sys
sys.modules["cryptography"] = None
from muster.client import MusterClient
MusterClient("http://x", "devices", dict).close()
try:
    MusterClient("http://x", "devices", dict, trusted_signers=[{KEY.signer!r}])
except ImportError as error:
    assert "muster-fl[signing]" in str(error), error
else:
    raise AssertionError("no error")
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)  # noqa: S603


def test_invalid_signer_is_an_error_at_construction(double: Double) -> None:
    with pytest.raises(ValueError, match="is not a signer"):
        client_of(double, trusted_signers=["me"])


def test_download_over_the_limit_is_not_started(double: Double) -> None:
    detail = refused(double, FailureReason.PLAN_REFUSED, limits=Limits(max_download_bytes=100))
    assert "this device's limit is 100 (max_download_bytes)" in detail
    assert not any(route.startswith("GET") for route in double.requests)


def test_plan_with_a_too_large_update_is_not_run(double: Double) -> None:
    worker = Worker()
    detail = refused(double, FailureReason.PLAN_REFUSED, worker=worker, limits=Limits(max_update_bytes=20))
    assert "The update has 28 bytes" in detail
    assert worker.calls == 0


def test_update_over_the_limit_is_not_uploaded(double: Double) -> None:
    detail = refused(double, FailureReason.PLAN_REFUSED, limits=Limits(max_update_bytes=30))
    assert "max_update_bytes" in detail


class Slow:
    """Worker that records its time limit and exceeds it."""

    def __init__(self, clock: list[float]) -> None:
        self.clock = clock
        self.seconds: list[float] = []

    def work(self, data: Any, broadcast: Any, *, seconds: float) -> dict[str, Any]:
        self.seconds.append(seconds)
        self.clock[0] += seconds
        return Worker().work(data, broadcast)


def test_work_over_max_seconds_is_reported_as_failed(double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("muster.client.client.time.monotonic", lambda: clock[0])
    worker = Slow(clock)
    detail = refused(double, FailureReason.CANCELLED, worker=worker, limits=Limits(max_seconds=9.0))
    assert worker.seconds == [9.0]
    assert "longer than this device's limit of 9 s" in detail


def test_limits_that_are_not_reached_have_no_effect(double: Double) -> None:
    limits = Limits(max_download_bytes=10**6, max_update_bytes=10**6)
    with client_of(double, limits=limits) as client:
        assert isinstance(client.run_once(), Contributed)
    assert np.array_equal(double.counted[0]["ids"], 8)


def test_ineligible_device_does_not_check_in(double: Double) -> None:
    with client_of(double, eligible=lambda: False) as client:
        outcome = client.run_once()
    assert isinstance(outcome, Ineligible)
    assert (outcome.task, outcome.retry_after) == (None, 60.0)
    assert not double.requests


@pytest.mark.parametrize("checks", [2, 3])
def test_device_that_becomes_ineligible_releases_its_assignment(double: Double, checks: int) -> None:
    answers = iter([True] * (checks - 1) + [False] + [True] * 9)
    worker = Worker()
    with client_of(double, worker=worker, eligible=lambda: next(answers)) as client:
        outcome = client.run_once()
        assert isinstance(outcome, Ineligible)
        assert (outcome.task, outcome.round) == ("sum", 1)
        assert [report.reason for report in double.reports] == [FailureReason.CANCELLED]
        assert (worker.calls, double.requests[UPLOAD]) == (checks - 2, 0)
        assert isinstance(client.run_once(), Contributed)


def test_stop_within_a_cycle_releases_the_assignment(double: Double) -> None:
    stop = threading.Event()

    class Stopping(Worker):
        def work(self, data: Any, broadcast: Any) -> dict[str, Any]:
            stop.set()
            return super().work(data, broadcast)

    with client_of(double, worker=Stopping()) as client:
        summary = client.run(stop=stop)
    assert (summary.contributed, summary.failed) == (0, 0)
    assert [report.reason for report in double.reports] == [FailureReason.CANCELLED]
    assert double.requests[UPLOAD] == 0
