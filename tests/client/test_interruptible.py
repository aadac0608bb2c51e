"""Calls that a client abandons, and the assignments behind them."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from support.double import Double, Worker

from muster.client import Contributed, Failed, Ineligible, Limits, MusterClient
from muster.client.limits import validity_seconds
from muster.client.machine import Idle, Step, step
from muster.wire.messages import CheckinResponse, FailureReason, Wait, WaitReason

pytestmark = pytest.mark.usefixtures("no_waits")


class Held:
    """Data callback and worker that ignore a stop until the test releases them."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def data(self) -> Any:
        self.begun.set()
        self.go.wait(60)
        return {"id": 1}

    def work(self, data: Any, broadcast: Any) -> Any:
        self.data()
        return Worker().work(data, broadcast)


class Heeding(Worker):
    """Worker that ends when `stop` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {}
        self.begun = threading.Event()

    def work(self, data: Any, broadcast: Any, *, seconds: float, stop: threading.Event) -> Any:  # type: ignore[override]  # noqa: ARG002
        self.arguments = {"seconds": seconds, "stop": stop}
        self.begun.set()
        assert stop.wait(60)
        raise RuntimeError("cancelled")


@pytest.mark.parametrize("where", ["data", "work"])
def test_stop_ends_a_run_during_data_and_work(double: Double, where: str) -> None:
    held, stop, summaries = Held(), threading.Event(), list[Any]()
    data = held.data if where == "data" else lambda: {"id": 1}
    with MusterClient(
        double.url, "devices", data, runtime_factory=lambda _: held if where == "work" else Worker()
    ) as client:
        thread = threading.Thread(target=lambda: summaries.append(client.run(stop=stop)))
        thread.start()
        assert held.begun.wait(60)
        stop.set()
        thread.join(60)
        assert not thread.is_alive()
        assert client.working  # the abandoned call still runs
        assert [report.reason for report in double.reports] == [FailureReason.CANCELLED]
        held.go.set()
    assert summaries[0].contributed == 0


def test_worker_gets_the_remaining_seconds_and_the_stop_event(double: Double) -> None:
    worker, stop = Heeding(), threading.Event()
    outcomes: list[Any] = []
    with MusterClient(double.url, "devices", lambda: {"id": 1}, runtime_factory=lambda _: worker) as client:
        thread = threading.Thread(target=lambda: outcomes.append(client.run_once(stop=stop)))
        thread.start()
        assert worker.begun.wait(60)
        stop.set()
        thread.join(60)
        assert not client.working
    assert isinstance(outcomes[0], Ineligible)
    assert 200 < worker.arguments["seconds"] <= 301  # of five minutes; the Date header has whole seconds


def test_abandoned_work_blocks_new_work_until_it_ends(double: Double) -> None:
    held = Held()
    with MusterClient(
        double.url, "devices", held.data, runtime_factory=lambda _: Worker(), limits=Limits(max_seconds=0.1)
    ) as client:
        outcome = client.run_once()
        assert isinstance(outcome, Failed)
        assert (outcome.reason, client.working) == (FailureReason.CANCELLED, True)
        busy = client.run_once()
        assert isinstance(busy, Ineligible)
        assert "has not ended yet" in busy.detail
        assert len(double.checkins) == 1
        held.go.set()
        while client.working:
            threading.Event().wait(0.01)
        assert not isinstance(client.run_once(), Ineligible)


@pytest.mark.parametrize(
    ("fields", "reason"), [({"seconds": 0.2}, "its assignment, 0.2 s"), ({"seconds": 500.0}, "limit of 0.3 s")]
)
def test_work_is_bounded_by_the_shorter_of_assignment_and_limit(
    double: Double, fields: dict[str, Any], reason: str
) -> None:
    double.assignment = fields
    held = Held()
    with MusterClient(
        double.url, "devices", held.data, runtime_factory=lambda _: Worker(), limits=Limits(max_seconds=0.3)
    ) as client:
        outcome = client.run_once()
        held.go.set()
    assert isinstance(outcome, Failed)
    assert reason in outcome.detail


def test_all_assignments_read_data_in_one_thread(double: Double) -> None:
    seen: list[threading.Thread] = []

    def data() -> Any:
        seen.append(threading.current_thread())
        return {"id": 1}

    for _ in range(2):
        with MusterClient(double.url, "devices", data, runtime_factory=lambda _: Worker()) as client:
            assert [type(client.run_once()) for _ in range(2)] == [Contributed] * 2
    assert len({id(thread) for thread in seen}) == 1
    assert seen[0] is not threading.current_thread()


def test_worker_thread_ends_with_its_calling_thread(double: Double) -> None:
    seen: list[threading.Thread] = []

    def run() -> None:
        def data() -> Any:
            seen.append(threading.current_thread())
            return {"id": 1}

        with MusterClient(double.url, "devices", data, runtime_factory=lambda _: Worker()) as client:
            client.run_once()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    seen[0].join(60)
    assert not seen[0].is_alive()


def test_validity_without_a_duration_counts_from_the_date_header(double: Double) -> None:
    assignment = double._assign()
    at = assignment.expires_at
    assert validity_seconds(assignment, None) is None
    assert validity_seconds(assignment, at.replace(year=at.year + 1)) is None  # a wrong clock
    assert validity_seconds(assignment.model_copy(update={"seconds": 7.0}), None) == 7.0
    early = at.fromtimestamp(at.timestamp() - 9.0, at.tzinfo)
    assert validity_seconds(assignment, early) == 9.0


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(1e300, 86400.0), (float("inf"), 86400.0), (float("nan"), 0.0), (-5.0, 0.0), (4.2, 4.2)],
)
def test_waits_are_bounded(seconds: float, expected: float) -> None:
    answer = CheckinResponse(answer=Wait(reason=WaitReason.NO_TASK, retry_after=seconds))
    moved: Step = step(Idle(), answer, randomness=0.0)
    assert moved.outcome is not None
    assert moved.outcome.retry_after == expected
