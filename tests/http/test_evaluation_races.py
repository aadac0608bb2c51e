"""Evaluation beside training under random schedules: no client is in both at once."""

from __future__ import annotations

import random

import pytest
from support.harness import POPULATION, TASK, Harness
from support.plans import sum_update

from muster.wire.messages import Assignment, CheckinRequest, TaskSpec, TaskStatus
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import Collecting

EVAL, CLIENTS = "eval", 20


class Schedule:
    """Random schedule of clients, deliveries, ticks and time, with two instances of the client API.

    The instances cache what they read for a second.
    """

    def __init__(self, root, seed):
        self.h = Harness(root, cache_seconds=1.0)
        self.h.begin(goal=3, over_selection=4.0, rounds=12, round_seconds=300.0, assignment_seconds=60.0)
        spec = {
            "name": EVAL,
            "population": POPULATION,
            "plan": self.h.plan.sha256,
            "policy": {"goal": 2, "minimum": 1, "over_selection": 4.0, "round_seconds": 300.0},
            "kind": "evaluate",
            "evaluates": {"task": TASK, "every": 2, "leaves": [], "share": 0.4},
        }
        self.h.ask("POST", "/v1/tasks", body=TaskSpec.from_dict(spec).encode())
        self.instances = [self.h.application(), self.h.application()]
        self.random = random.Random(seed)  # noqa: S311  no secret
        self.held: dict[int, dict[str, Assignment]] = {client: {} for client in range(CLIENTS)}
        self.assigned = {TASK: 0, EVAL: 0}

    def run(self, steps):
        actions = [(self.check_in, 6), (self.upload, 4), (self.deliver, 5), (self.wait, 2), (self.h.tick, 1)]
        names, weights = zip(*actions, strict=True)
        for _ in range(steps):
            self.random.choices(names, weights)[0]()

    def check_in(self):
        client = self.random.randrange(CLIENTS)
        issuer = self.random.choice(self.instances).assignment_issuer
        answer = issuer.check_in(POPULATION, CheckinRequest(), identity=str(client)).answer
        if isinstance(answer, Assignment):
            self.held[client][answer.task] = answer
            self.assigned[answer.task] += 1
            self.check(client)

    def check(self, client):
        """Asserts that the client's assignments in open rounds are all of one task."""
        in_open = [task for task, assignment in self.held[client].items() if self.is_open(task, assignment.round)]
        assert len(in_open) < 2, (client, self.held[client])

    def is_open(self, task, number):
        current = self.h.inner.task(task).value.current
        if current is None or current.number != number:
            return False
        record = self.h.inner.round(RoundKey(task, number, current.epoch))
        return record is not None and isinstance(record.value, Collecting)

    def upload(self):
        client = self.random.randrange(CLIENTS)
        for task, assignment in list(self.held[client].items()):
            response = self.h.call("PUT", "/v1/updates", body=_encoded(client), token=assignment.token)
            assert response.status_code in (200, 401, 409), response.data
            del self.held[client][task]

    def deliver(self):
        due = [held for held in self.h.queue.held if held.due <= self.h.clock.now()]
        if due:
            self.h.deliver(self.random.choice(due))

    def wait(self):
        self.h.clock.advance(self.random.choice([0.1, 0.5, 2.0, 30.0]))


def _encoded(client):
    from muster.wire.tensors import encode

    return encode(sum_update(client))


@pytest.mark.parametrize("seed", range(6))
def test_no_client_is_in_both_at_once(tmp_path, seed):
    schedule = Schedule(tmp_path, seed)
    schedule.run(900)
    assert schedule.assigned[TASK] > 5
    assert schedule.assigned[EVAL] > 2
    assert schedule.h.inner.task(EVAL).value.status is not TaskStatus.PAUSED
