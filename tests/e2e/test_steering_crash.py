"""Random commands of operators, with a crash at a random write, over a task with retention.

Hypothesis draws rounds, changes of the policy, tags, rollbacks, pauses and ticks, and the number of
a write at which the process dies, before or after it. The operator repeats a command whose answer
was lost. Afterwards the checks below hold; what a command does not name stays as it was.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings
from support.crashing import CrashingHarness
from support.faults import Fault, When
from support.harness import TASK
from support.plans import sum_update

from muster.wire.messages import Assignment, CheckpointList, TaskStatus
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.domain.rounds import Aggregating, Collecting

REFUSALS = {ProblemType.NOT_FOUND, ProblemType.CONFLICT, ProblemType.ROUND_CLOSED}
BEHIND = st.integers(0, 4)  # versions behind the newest checkpoint
RETENTION = st.one_of(
    st.none(), st.fixed_dictionaries({"last": st.integers(1, 3), "every": st.one_of(st.none(), st.integers(2, 4))})
)
COMMANDS = st.one_of(
    st.tuples(st.just("retain"), RETENTION),
    st.tuples(st.just("rounds"), st.integers(1, 25)),
    st.tuples(st.just("tag"), st.tuples(st.sampled_from("ab"), BEHIND)),
    st.tuples(st.just("untag"), st.sampled_from("ab")),
    st.tuples(st.just("rollback"), BEHIND),
    st.tuples(st.sampled_from(["pause", "resume", "tick"]), st.none()),
)


class Steered:
    """Task under commands.

    Attributes:
      states: The bytes of each version, as they were first seen.
      tags: The tags, as the operator has set them.
      paused: Whether the operator's last pause or resume was a pause.
    """

    def __init__(self, root: Path, *faults: Fault) -> None:
        self.h = CrashingHarness(root, *faults, lose_work=True)
        self.states: dict[int, bytes] = {}
        self.tags: dict[str, int] = {}
        self.paused = False
        self._clients = 0
        self.attempt(lambda: self.h.begin(rounds=20, goal=1, shards=1, retention={"last": 2}))
        self.settle()

    def settle(self, *, minutes: int = 3) -> None:
        """Runs ticks and delivers all work for some minutes."""
        for _ in range(minutes):
            self.attempt(self.h.deliver_all)
            self._tick(None)
        self.attempt(self.h.deliver_all)

    def attempt(self, step: Callable[[], Any]) -> bool:
        """Runs a step, again after a crash. Returns whether it was accepted."""
        try:
            self.h.retry(step)
        except ProblemError as problem:
            if problem.type not in REFUSALS:
                raise
            return False
        return True

    def run(self, command: str, argument: Any) -> None:
        """Runs a command and delivers the work that follows."""
        getattr(self, f"_{command}")(argument)
        self.attempt(self.h.deliver_all)
        self.check()

    def run_rounds(self, count: int) -> None:
        """Runs rounds of one client each, as far as the task is active."""
        for _ in range(count):
            self._clients += 1
            tokens: list[str] = []
            self.attempt(lambda: tokens.extend(self._tokens()))  # noqa: B023  called at once
            for token in tokens[-1:]:
                self.attempt(lambda: self.h.upload(token, sum_update(self._clients % 60)))  # noqa: B023
            self.attempt(self.h.deliver_all)
        self.check()

    def _newest(self, behind: int) -> int:
        return max(0, len(self.h.committed()) - behind)

    def _tokens(self) -> list[str]:
        answer = self.h.checkin(self._clients)
        return [answer.token] if isinstance(answer, Assignment) else []

    def _patch(self, **policy: Any) -> None:
        self.attempt(lambda: self.h.ask("PATCH", f"/v1/tasks/{TASK}", json={"policy": policy}))

    def _retain(self, retention: dict[str, int] | None) -> None:
        self._patch(retention=retention)

    def _rounds(self, rounds: int) -> None:
        self._patch(rounds=rounds)

    def _tag(self, tag: tuple[str, int]) -> None:
        name, version = tag[0], self._newest(tag[1])
        path = f"/v1/tasks/{TASK}/tags/{name}"
        if self.attempt(lambda: self.h.ask("PUT", path, json={"version": version})):
            self.tags[name] = version

    def _untag(self, name: str) -> None:
        if self.attempt(lambda: self.h.ask("DELETE", f"/v1/tasks/{TASK}/tags/{name}")):
            self.tags.pop(name, None)

    def _rollback(self, behind: int) -> None:
        version = self._newest(behind)
        self.attempt(lambda: self.h.operate("rollback", version=version))

    def _pause(self, _: None) -> None:
        self.paused = self.attempt(lambda: self.h.operate("pause")) or self.paused

    def _resume(self, _: None) -> None:
        self.paused = not self.attempt(lambda: self.h.operate("resume")) and self.paused

    def _tick(self, _: None) -> None:
        self.attempt(self.h.tick)
        self.h.clock.advance(61.0)

    def check(self) -> None:
        """Checks that what should be stored is, unchanged, and that the operator's words stand."""
        h = self.h
        views = CheckpointList.decode(h.retry(lambda: h.ask("GET", f"/v1/tasks/{TASK}/checkpoints"))).checkpoints
        stored = {view.version for view in views if view.stored}
        for version in stored:
            assert self.states.setdefault(version, h.checkpoint(version)) == h.checkpoint(version)
        task = h.record()
        assert dict(task.tags) == self.tags
        assert set(self.tags.values()) <= stored, "a tagged version is stored"
        if task.checkpoint is not None:
            assert task.checkpoint.version in stored
        for round_ in h.rounds():
            if isinstance(round_, Collecting | Aggregating) and round_.key == task.current:
                assert round_.terms.base.version in stored

    def finish(self) -> None:
        """Checks that the task is neither stuck nor resumed by itself."""
        self.settle(minutes=5)
        self.check()
        status = self.h.task().status
        if status is not TaskStatus.COMPLETED:
            assert status is (TaskStatus.PAUSED if self.paused else TaskStatus.ACTIVE)
        assert self.h.leftovers() == []


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(st.tuples(st.integers(0, 3), COMMANDS), min_size=4, max_size=10),
    write=st.integers(1, 300),
    when=st.sampled_from(list(When)),
)
def test_commands_with_a_crash_keep_what_they_do_not_name(steps, write, when):
    with tempfile.TemporaryDirectory() as folder:
        steered = Steered(Path(folder), Fault(write, when))
        for rounds, (command, argument) in steps:
            steered.run_rounds(rounds)
            steered.run(command, argument)
        steered.run_rounds(2)
        steered.finish()
