"""A crash before and after every write: a new process completes the rounds, bit for bit.

Each run of a scenario crashes at one write, once before the write took effect and once after it.
Callers then repeat their calls, and ticks and deliveries continue. Half of the runs also lose all
queued work, so only ticks recover.

A failure is: a checkpoint with other bytes than in a run without a crash, a `report` on another
number of updates, a scenario that gets stuck, obsolete data at the end, or a second crash (which
would mean that the fault was not single).

Not a failure: a slot that stays taken until its assignment expires, and a repeated computation.

Out of scope: several crashes in one run, crashes during reads (they change nothing), torn writes
inside a store, and concurrency (`test_invariants_races`). Time and randomness are simulated; the
stores are the real embedded ones.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from support.crashing import CrashingHarness
from support.faults import Crash, Fault, When
from support.harness import TASK
from support.plans import sum_update

from muster.wire.messages import Assignment, RunStatus, StateRef, TaskStatus
from muster.wire.problems import ProblemError
from muster.wire.tensors import encode
from muster_coordinator.domain import names

T = TypeVar("T")
CLIENTS = 3  # two are folded early, and the leftover one onto their partial
POLICY = {
    "rounds": 3,
    "goal": CLIENTS,
    "minimum": CLIENTS,
    "over_selection": 2.0,  # a crash may cost a slot until its assignment expires
    "chunk": 2,
    "shards": 1,
    "round_seconds": 1e6,  # no deadline repairs anything
    "assignment_seconds": 5e4,
}


class Scenario:
    """Scenario of a task from its creation to its end, despite scheduled faults.

    A caller repeats a call that crashed, like a client or an operator. A delivery that crashed is
    repeated too, or, with `lose_work`, all queued work is lost and only ticks continue.
    """

    def __init__(self, root: Path, *faults: Fault, lose_work: bool = False) -> None:
        self.h = CrashingHarness(root, *faults, lose_work=lose_work)
        self.retry = self.h.retry

    def until(self, reached: Callable[[], bool]) -> None:
        self.retry(self.h.deliver_all)
        for _ in range(5):
            if reached():
                return
            self.retry(self.h.tick)
            self.retry(self.h.deliver_all)
            self.h.clock.advance(61)
        assert reached(), self.h.task()

    def contribute(self, client: int) -> None:
        answer = self.retry(lambda: self.h.checkin(client))
        assert isinstance(answer, Assignment), answer
        self.retry(lambda: self.h.upload(answer.token, sum_update(client)))

    def round(self, number: int) -> None:
        self.until(lambda: self.h.task().status is TaskStatus.ACTIVE and self.h.task().current.round == number)
        quitter = self.retry(lambda: self.h.assigned(40))
        self.retry(lambda: self.h.report(quitter.token))
        for client in range(CLIENTS):
            self.contribute(client)
            self.retry(self.h.deliver_all)
        self.until(lambda: self.h.task().checkpoint == number)

    def begin(self, *, driven: bool = False) -> None:
        self.retry(self.h.put_plan)
        self.retry(lambda: self.h.create_task(driven=driven, **POLICY))

    def run(self, request: str, *, rounds: int = 1, version: int | None = None) -> None:
        """Runs rounds of a driven task, and asserts that the run is done and the task idle."""
        base = {} if version is None else {"base": {"version": version}}
        first = self.retry(lambda: self.h.run(request, rounds=rounds, **base)).first_round
        for number in range(first, first + rounds):
            self.round(number)
        self.until(lambda: self.h.task().status is TaskStatus.IDLE)
        assert self.h.get_run(request).status is RunStatus.DONE

    def operate(self, verb: str, **options: int) -> None:
        self.retry(lambda: self.h.operate(verb, **options))

    def end(self) -> list[bytes]:
        """Ends the task, asserts that nothing obsolete is left, and returns the checkpoints."""
        self.operate("complete" if self.h.record().driven else "cancel")
        for _ in range(3):
            self.retry(self.h.tick)
            self.retry(self.h.deliver_all)
            self.h.clock.advance(61)
        assert self.h.leftovers() == []
        assert self.h.blobs("updates/") == self.h.blobs("partials/") == self.h.blobs("broadcasts/") == []
        versions = [round_.key.number for round_ in self.h.committed()]
        return [self.h.checkpoint(version) for version in (0, *versions)]


def round_of_clients(scenario: Scenario) -> list[bytes]:
    scenario.begin()
    scenario.round(1)
    scenario.until(lambda: scenario.h.task().current.round == 2)
    return scenario.end()


def operator_commands(scenario: Scenario) -> list[bytes]:
    scenario.begin()
    scenario.until(lambda: scenario.h.task().status is TaskStatus.ACTIVE)
    scenario.operate("pause")
    scenario.operate("resume")
    scenario.contribute(7)
    scenario.operate("rollback", version=0)
    scenario.round(1)
    return scenario.end()


def other_states(scenario: Scenario) -> list[bytes]:
    """Version 0 is composed with a stored state, from which then the first round starts."""
    scenario.retry(scenario.h.put_plan)
    stored = bytes(encode({"total": np.int64(64), "rounds": np.int64(9)}))
    sha256 = hashlib.sha256(stored).hexdigest()
    scenario.retry(lambda: scenario.h.ask("PUT", f"/v1/states/{sha256}?plan={scenario.h.plan.sha256}", body=stored))
    start = StateRef(state=sha256, leaves=("total",))
    scenario.retry(lambda: scenario.h.create_task(start=start, driven=True, **POLICY))
    scenario.until(lambda: scenario.h.task().status is TaskStatus.IDLE)
    scenario.retry(lambda: scenario.h.run("other", base=StateRef(state=sha256)))
    scenario.until(lambda: scenario.h.task().status is TaskStatus.ACTIVE)
    assert scenario.h.task().current.base.state == sha256
    scenario.round(1)
    return scenario.end()


def raised_budget(scenario: Scenario) -> list[bytes]:
    """The policy's rounds are raised during the commit of the last one, so the task opens again."""

    def raise_rounds() -> None:
        record = scenario.h.inner.task(TASK)
        spec = record.value.spec
        if spec.policy.rounds == 1:
            policy = spec.policy.model_copy(update={"rounds": 3})
            changed = replace(record.value, spec=spec.model_copy(update={"policy": policy}))
            scenario.h.inner.tasks.replace(record, changed)

    scenario.h.runtime._before_update = raise_rounds
    scenario.retry(scenario.h.put_plan)
    scenario.retry(lambda: scenario.h.create_task(**{**POLICY, "rounds": 1}))
    scenario.round(1)
    scenario.until(lambda: scenario.h.task().current.round == 2)
    return scenario.end()


def requested_rounds(scenario: Scenario) -> list[bytes]:
    scenario.begin(driven=True)
    scenario.until(lambda: scenario.h.task().status is TaskStatus.IDLE)
    scenario.run("first")
    scenario.run("again", version=0)
    # Despite a crash each request has one round, of one attempt.
    rounds = [(round_.key.id, round_.terms.request) for round_ in scenario.h.rounds()]
    assert rounds == [("000001-0000", "first"), ("000002-0000", "again")]
    assert len(scenario.h.inner.documents.list(names.requests_path(TASK))) == 2
    return scenario.end()


@pytest.mark.parametrize(
    ("run", "versions"),
    [(round_of_clients, 2), (operator_commands, 2), (requested_rounds, 3), (other_states, 2), (raised_budget, 2)],
)
def test_crash_at_any_write_changes_no_byte(run, versions, tmp_path):
    clean = Scenario(tmp_path / "clean")
    expected = run(clean)
    assert len(expected) == versions
    writes = list(clean.h.schedule.writes)
    assert len(writes) > 70
    for (number, write), when in itertools.product(enumerate(writes, start=1), When):
        # Half of the crashes also lose all queued work: before even writes, and after odd ones.
        lose_work = (number % 2 == 0) is (when is When.BEFORE)
        scenario = Scenario(tmp_path / f"{number}-{when.value}", Fault(number, when), lose_work=lose_work)
        try:
            checkpoints = run(scenario)
        except (AssertionError, Crash, ProblemError) as error:
            raise AssertionError(f"after a crash {when.value} write {number}, {write}; {lose_work=}") from error
        # The change of the policy makes one compare-and-set fail, which has no moment after it.
        conflict = run is raised_budget and (when, write) == (When.AFTER, f"documents.replace tasks/{TASK}")
        assert scenario.h.crashes == 1 or (conflict and scenario.h.crashes == 0)
        assert checkpoints == expected, (write, when)
        assert set(scenario.h.runtime.reported) == {CLIENTS}
