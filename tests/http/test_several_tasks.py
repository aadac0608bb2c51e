"""Several tasks of one population: a cookie records contributions to all of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, islice

import jwt
import pytest
from support.harness import START, Harness
from support.plans import sum_update

from muster.wire.messages import Assignment, Wait, WaitReason
from muster_coordinator.domain import names
from muster_coordinator.domain.keys import KeyRing
from muster_coordinator.domain.rounds import Collecting, Committed

DAY = 86400.0  # seconds
OLD, NEW = ("2026-03:" + "0a" * 32, "2026-09:" + "1b" * 32)


@dataclass
class Device:
    """Honest client that returns its newest cookie, and uploads for every assignment."""

    h: Harness
    number: int
    cookie: str | None = None

    def check_in(self) -> Assignment | Wait:
        answer = self.h.checkin(self.number, cookie=self.cookie)
        self.cookie = getattr(answer, "cookie", None) or self.cookie
        return answer

    def run_once(self) -> Assignment | Wait:
        answer = self.check_in()
        if isinstance(answer, Assignment):
            self.send(answer)
        return answer

    def send(self, assignment: Assignment) -> None:
        self.cookie = self.h.upload(assignment.token, sum_update(self.number)).cookie
        self.h.deliver_all()


def begun(h, *tasks, **policy):
    h.put_plan()
    for task in tasks:
        h.create_task(task, **policy)
    h.deliver_all()
    return h


def advance(h, seconds):
    """Advances the clock; rounds without clients restart."""
    h.clock.advance(seconds)
    h.settle(minutes=1)


def assigned_tasks(answers):
    """Returns the names of the tasks that assigned work, sorted."""
    return sorted(answer.task for answer in answers if isinstance(answer, Assignment))


def counts(h, task):
    """Returns the number of updates of each committed round of the task."""
    rounds = [record.value for record in h.inner.rounds.list(names.rounds_path(task))]
    return [round_.tally.folded for round_ in rounds if isinstance(round_, Committed)]


def test_separation_applies_across_tasks_of_a_population(tmp_path):
    h = begun(Harness(tmp_path), "a", "b", goal=1, rounds=9, separation_seconds=DAY)
    device = Device(h, 0)
    answers = []
    for _ in range(8):
        answers.append(device.run_once())
        h.clock.advance(1)
    assert len(assigned_tasks(answers)) == 1
    assert all(answer.reason is WaitReason.TOO_SOON for answer in answers[1:])
    # The separation ends a day after the client's last contribution to any of them.
    assert answers[1].retry_after == DAY - 1
    advance(h, DAY)
    assert len(assigned_tasks(device.run_once() for _ in range(8))) == 1


def test_each_task_applies_its_separation_to_all_contributions(tmp_path):
    h = Harness(tmp_path)
    h.put_plan()
    h.create_task("daily", goal=1, rounds=9, separation_seconds=DAY)
    h.create_task("weekly", goal=1, rounds=9, separation_seconds=7 * DAY)
    h.deliver_all()
    device = Device(h, 0)
    tasks = []
    for _ in range(21):  # three weeks
        tasks += assigned_tasks(device.run_once() for _ in range(2))
        advance(h, DAY)
    # The client contributes daily to the daily task, and each contribution restarts the week of the
    # weekly one, which therefore has it at most once.
    assert tasks.count("daily") >= 8
    assert tasks.count("weekly") <= 1


def test_contribution_is_remembered_for_the_longest_separation(tmp_path):
    h = Harness(tmp_path)
    h.put_plan()
    h.create_task("short", goal=1, rounds=9, separation_seconds=60)
    h.create_task("long", goal=1, rounds=9, separation_seconds=30 * DAY)
    h.deliver_all()
    h.ask("POST", "/v1/tasks/long:pause")
    device = Device(h, 0)
    assert assigned_tasks([device.run_once()]) == ["short"]
    h.ask("POST", "/v1/tasks/short:pause")
    h.ask("POST", "/v1/tasks/long:resume")
    advance(h, 29 * DAY)  # beyond a cookie's default life of a day
    assert assigned_tasks(device.run_once() for _ in range(3)) == []
    advance(h, 2 * DAY)
    assert assigned_tasks([device.run_once()]) == ["long"]


def test_task_without_separation_is_independent(tmp_path):
    h = Harness(tmp_path)
    h.put_plan()
    h.create_task("free", goal=1, rounds=99)
    h.deliver_all()
    device = Device(h, 0)
    assert assigned_tasks(device.run_once() for _ in range(3)) == ["free"] * 3
    h.create_task("apart", goal=1, rounds=9, separation_seconds=DAY)
    h.deliver_all()
    assert assigned_tasks(device.run_once() for _ in range(12)).count("apart") == 1


def test_contributors_take_no_second_slot_of_any_task(tmp_path):
    h = begun(Harness(tmp_path), "a", "b", goal=6, minimum=2, over_selection=1.0, chunk=2, rounds=1)
    early = [Device(h, number) for number in range(2)]
    answers = [device.run_once() for device in islice(cycle(early), 40)]
    assert assigned_tasks(answers) == ["a", "a", "b", "b"]
    assert {answer.reason for answer in answers[4:]} == {WaitReason.ALREADY_IN}
    assert h.blobs("updates/") == []  # they are folded, so no blob name reveals them
    for device in [Device(h, number) for number in range(2, 6)]:
        assert assigned_tasks(device.run_once() for _ in range(2)) == ["a", "b"]
    assert counts(h, "a") == counts(h, "b") == [6]


def test_returned_or_missed_work_keeps_the_history(tmp_path):
    h = begun(Harness(tmp_path), "a", goal=1, rounds=9, separation_seconds=DAY, round_seconds=100)
    device = Device(h, 0)
    device.run_once()
    before = device.cookie
    begun(h, "b", goal=1, rounds=9, round_seconds=100)
    given_back = device.check_in()
    assert h.report(given_back.token).cookie is None
    assert device.cookie == before
    advance(h, 101)
    assert assigned_tasks(device.run_once() for _ in range(4)) == [given_back.task] * 4


def test_cookie_entry_expires_with_its_tasks_separation(tmp_path):
    """A task with a long separation blocks no client of a task without one."""
    h = Harness(tmp_path)
    h.put_plan()
    h.create_task("long", goal=1, rounds=9, separation_seconds=3 * DAY)
    h.create_task("none", goal=1, rounds=99)
    h.deliver_all()
    device = Device(h, 0)
    assert assigned_tasks(device.run_once() for _ in range(9)) == ["long"] + ["none"] * 8
    advance(h, 2 * DAY)  # after the other task's entry has expired
    assert assigned_tasks(device.run_once() for _ in range(3)) == ["none"] * 3
    advance(h, DAY)
    assert "long" in assigned_tasks(device.run_once() for _ in range(9))


def test_full_cookie_retains_the_longest_lasting_entries(tmp_path):
    h = Harness(tmp_path)
    h.put_plan()
    h.create_task("long", goal=1, rounds=9, separation_seconds=30 * DAY)
    h.deliver_all()
    device = Device(h, 0)
    device.run_once()
    for number in range(12):
        h.create_task(f"t{number}", goal=1, rounds=9, separation_seconds=DAY)
    h.deliver_all()
    for _ in range(30):
        device.run_once()
    assert counts(h, "long") == [1]
    assert len(device.cookie) < 2048


def test_tokens_of_the_previous_version_are_still_valid(tmp_path):
    """Its cookies are signed, not sealed, and its assignments have another history claim."""
    h = begun(Harness(tmp_path), "a", "b", goal=2, rounds=9, separation_seconds=DAY)
    secret, kid = h.secret, {"kid": KeyRing.of(h.secret).newest.fingerprint}

    def aged(token):
        claims = jwt.decode(token, options={"verify_signature": False})
        claims.pop("past", None)
        assert {"task", "round", "epoch", "exp", "iat"} <= claims.keys()
        return jwt.encode(claims, secret, "HS256", headers=kid)

    device = Device(h, 0)
    first = device.run_once()
    claims = {"task": first.task, "round": 1, "epoch": 0, "at": START, "iat": START, "exp": START + DAY}
    device.cookie = jwt.encode({"aud": "muster:cookie", **claims}, secret, "HS256", headers=kid)
    # It does not record whether its task has a separation, so it counts for that task only.
    second = device.check_in()
    assert second.task != first.task
    # Such an assignment has no history, so the next cookie is about this task only.
    device.cookie = h.upload(aged(second.token), sum_update(0)).cookie
    (entry,) = h.app.tokens.read_cookie(device.cookie, now=h.clock.now())
    assert (entry.key.task, entry.contributed_at) == (second.task, START)
    # With a current token both are recorded.
    device.cookie = h.upload(second.token, sum_update(0)).cookie
    newest, earlier = h.app.tokens.read_cookie(device.cookie, now=h.clock.now())
    assert (newest.key.task, newest.key.number, newest.key.epoch, newest.contributed_at) == (second.task, 1, 0, START)
    assert earlier.key.task == first.task


def test_cookie_history_survives_a_key_rotation(tmp_path):
    h = begun(Harness(tmp_path, secret=KeyRing.parse(OLD)), "a", "b", goal=2, rounds=9)
    device = Device(h, 0)
    device.run_once()
    held = device.check_in()
    h.secret = KeyRing.parse(f"{NEW},{OLD}")
    h.restart()
    device.send(held)
    assert isinstance(device.check_in(), Wait)
    h.secret = KeyRing.parse(NEW)
    h.restart()
    assert {entry.key.task for entry in h.app.tokens.read_cookie(device.cookie, now=h.clock.now())} == {"a", "b"}


@pytest.mark.parametrize("tasks", [("a",), ("a", "b")])
def test_assignment_carries_no_history_of_its_task(tmp_path, tasks):
    """A population of one task has no overhead."""
    h = begun(Harness(tmp_path), *tasks, goal=1, rounds=99)
    device = Device(h, 0)
    for _ in range(12):
        answer = device.run_once()
        claims = h.app.tokens.read_assignment(answer.token, now=h.clock.now())
        assert claims.key.task not in {entry.key.task for entry in claims.earlier}
        entries = h.app.tokens.read_cookie(device.cookie, now=h.clock.now())
        assert len(entries) == len({entry.key.task for entry in entries})
    assert len(entries) == len(tasks)
    assert isinstance(h.inner.round(h.inner.task("a").value.current).value, Collecting)
