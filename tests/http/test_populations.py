"""The list of populations: tasks, outcomes of check-ins, and names that only clients use."""

from __future__ import annotations

import pytest
from support.harness import POPULATION, TASK, Harness
from support.plans import sum_update

from muster.wire.messages import CheckinRequest, PopulationList, PopulationView, TaskSpec
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.domain import names
from muster_coordinator.domain.limits import RateLimits
from muster_coordinator.ports import UntrustedTokenError

A_MINUTE = 61.0  # seconds


def populations(h: Harness) -> dict[str, PopulationView]:
    listed = PopulationList.decode(h.ask("GET", "/v1/populations")).populations
    assert [view.population for view in listed] == sorted(view.population for view in listed)
    return {view.population: view for view in listed}


def check_in(h: Harness, population: str, client: str, **options: object) -> None:
    body = CheckinRequest(client=client).encode()
    h.ask("POST", f"/v1/populations/{population}:checkin", body=body, **options)


@pytest.fixture
def h(tmp_path):
    return Harness(tmp_path)


def test_outcomes_clients_and_tasks_are_listed(h):
    h.begin(goal=2, minimum=1, over_selection=1.5)
    for client in range(6):
        h.checkin(f"client {client}")
    h.operate("pause")
    h.clock.advance(A_MINUTE)
    h.checkin("client 0")
    view = populations(h)[POPULATION]
    assert view.checkins == {"assigned": 3, "round_full": 3, "task_paused": 1}
    assert view.clients == 6
    assert view.tasks == (TASK,)


def test_a_mistyped_population_shows(h):
    h.begin()
    check_in(h, "phnoes", "client")
    listed = populations(h)
    assert listed["phnoes"].checkins == {"no_task": 1}
    assert listed["phnoes"].tasks == ()
    assert listed[POPULATION].tasks == (TASK,)
    assert (listed[POPULATION].clients, listed[POPULATION].checkins) == (0, {})


def test_ended_tasks_are_left_out(h):
    h.begin()
    h.operate("cancel")
    assert populations(h) == {}


class Refusing:
    """Authenticator that refuses every client."""

    def identify(self, _: object) -> str:
        raise UntrustedTokenError("no")


@pytest.mark.parametrize(
    ("guards", "problem"),
    [
        ({"clients": Refusing()}, ProblemType.UNAUTHENTICATED),
        ({"rate_limits": RateLimits.parse("identity=1/m")}, ProblemType.RATE_LIMITED),
    ],
)
def test_refusals_are_counted(tmp_path, guards, problem):
    h = Harness(tmp_path, guards=lambda _: guards)
    h.begin()
    refusals = 3 if problem is ProblemType.UNAUTHENTICATED else 2
    for _ in range(3 - refusals):
        check_in(h, POPULATION, "client")
    for _ in range(refusals):
        with pytest.raises(ProblemError) as refused:
            check_in(h, POPULATION, "client")
        assert refused.value.type is problem
    h.app.checkin_counters.flush()
    assert populations(h)[POPULATION].checkins[problem.value] == refusals
    assert populations(h)[POPULATION].clients == (0 if refusals == 3 else 1)


def test_ticks_remove_old_hours(h):
    h.begin()
    h.checkin("client")
    h.clock.advance(25 * 3600.0)
    for _ in range(12):
        h.clock.advance(61.0)
        h.tick()
    assert len(h.inner.documents.list(names.CHECKINS)) == 1
    h.clock.advance(3600.0)
    for _ in range(12):
        h.clock.advance(61.0)
        h.tick()
    assert h.inner.documents.list(names.CHECKINS) == []


def test_a_round_with_counters_has_the_same_result(h):
    h.begin(rounds=1, goal=2)
    for client in range(2):
        h.upload(h.assigned(client).token, sum_update(client))
        h.deliver_all()
    assert int(h.result(1)["ids"]) == 0b11


def test_tasks_of_a_population_without_check_ins_are_listed(h):
    h.begin()
    spec = h.record().spec
    h.ask("POST", "/v1/tasks", body=TaskSpec(**{**spec.to_dict(), "name": "b", "population": "new"}).encode())
    assert {name: view.tasks for name, view in populations(h).items()} == {POPULATION: (TASK,), "new": ("b",)}
