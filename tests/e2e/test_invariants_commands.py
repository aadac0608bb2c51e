"""Commands of operators in every phase of a task, with a crash at any write.

Hypothesis draws a task (driven or not), and a sequence of commands (create, pause, resume, cancel,
rollback, run, complete), contributions, deliveries and ticks. Each of them may crash before or
after any of its writes, may lose all queued work then, and is repeated or not.

A failure is:

* a checkpoint whose bytes change, or a round that starts from other bytes than its base has, as
  after a rollback to that base;
* a chain of bases that does not reach version 0;
* a paused task that continues before it is resumed;
* a command that changes a field of the task, a round, or another task that it does not name, or a
  refused command that changes anything;
* a request that gets more than one run, another run after a crash, or a round twice;
* a task that gets stuck, or obsolete data at the end.

Not a failure: a refusal of a repeat whose first call took effect, and a run that its caller gave up
after a crash.

Out of scope: concurrent commands (`tests/http/test_runs.py`), and crashes of the data plane alone
(`test_invariants_crash`).
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.crashing import CrashingHarness
from support.faults import Crash, When
from support.harness import TASK
from support.plans import sum_update

from muster.wire.messages import Assignment, RunStatus, TaskSpec, TaskStatus
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import decode
from muster_coordinator.domain.names import rounds_path, task_path
from muster_coordinator.domain.rounds import Abandoned, Aggregating, Collecting, Committed
from muster_coordinator.domain.tasks import Run, Task

OTHER = "other"  # a task that no command names
PICK = st.integers(0, 1000)
# Fields of a task that a command may change. A resumed task continues, so it may have ended its run
# or opened its next round. `:run` and `:complete` may end a run whose last round is committed.
_CONTINUES = {"status", "number", "epoch", "checkpoint", "running"}
_ENDS_RUN = {"status", "checkpoint", "running"}
NAMED = {
    "create": set[str](),
    "pause": {"status"},
    "resume": {"note", "pause_once_open", *_CONTINUES},
    "cancel": {"status", "restore", "running"},
    "rollback": {"status", "restore", "note", "pause_once_open"},
    "rollback driven": {"status", "restore", "note", "checkpoint", "running"},
    "run": {"run", "restore", "note", *_ENDS_RUN},
    "complete": {"restore", *_ENDS_RUN},
}


@dataclass(frozen=True)
class Interruption:
    """Crash of a command or delivery.

    Attributes:
      write: Number of the write, from 1; None for no crash.
      when: Before or after the write.
      lose_work: Whether all queued work is lost.
      repeat: Whether the caller repeats the command.
    """

    write: int | None
    when: When
    lose_work: bool
    repeat: bool


INTERRUPTIONS = st.builds(
    Interruption,
    write=st.none() | st.integers(1, 8),
    when=st.sampled_from(When),
    lose_work=st.booleans(),
    repeat=st.sampled_from([True, True, False]),
)


def documents(h: CrashingHarness, *paths: str) -> dict[str, Any]:
    """Returns the documents at the paths and in the collections of that name."""
    stored = [h.inner.documents.get(path) for path in paths if path.count("/") % 2]
    listed = [document for path in paths if not path.count("/") % 2 for document in h.inner.documents.list(path)]
    return {document.path: document.data for document in [*stored, *listed] if document is not None}


class CommandMachine(RuleBasedStateMachine):
    """State machine of a task, and of another one that no command names."""

    @initialize(driven=st.booleans(), goal=st.integers(2, 3))
    def begin(self, *, driven, goal):
        self.folder = tempfile.TemporaryDirectory()
        self.h = CrashingHarness(Path(self.folder.name))
        self.driven = driven
        self.policy = {"rounds": 6, "goal": goal, "minimum": 2, "chunk": 2, "round_seconds": 100, "over_selection": 2.0}
        self.h.put_plan()
        other = TaskSpec(name=OTHER, population="tablets", plan=self.h.plan.sha256)
        self.h.ask("POST", "/v1/tasks", body=other.encode())
        self.h.deliver_all()
        self.create(Interruption(None, When.BEFORE, lose_work=False, repeat=False))
        self.clients = 0
        self.requests: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, Run] = {}
        self.over: dict[str, RunStatus] = {}
        self.states: dict[int, bytes] = {}
        self.paused = False

    def teardown(self):
        if not hasattr(self, "paused"):
            return
        try:
            if sys.exc_info()[0] is None:  # otherwise the earlier failure is the one to report
                self.finish()
        finally:
            self.folder.cleanup()

    def finish(self):
        """Asserts that the task still works, can be ended, and leaves nothing obsolete."""
        h = self.h
        h.crash_at(None, When.BEFORE)
        h.settle()
        for _ in range(2):  # a task that is paused once it has opened
            if h.record().status is TaskStatus.PAUSED:
                h.operate("resume")
                self.paused = False
                h.settle()
        self.check_all()
        before = len(h.committed())
        if h.record().status is TaskStatus.IDLE:
            h.run("last")
            h.deliver_all()
        if h.record().status is TaskStatus.ACTIVE:
            self.contribute_all()
            h.settle()
            assert len(h.committed()) > before
        self.check_all()
        if h.record().status is not TaskStatus.COMPLETED:
            h.operate("cancel")
        h.settle()
        assert not [round_ for round_ in h.rounds() if isinstance(round_, Collecting | Aggregating)]
        assert [name for name in h.leftovers() if OTHER not in name] == []
        self.check_all()

    # Commands.

    def command(self, name: str, call: Callable[[], Any], crash: Interruption, *, allowed: bool | None = None) -> bool:
        """Runs a command, checks what it changed, and returns whether it was accepted.

        Args:
          name: The command: a key of `NAMED`.
          call: Sends the request.
          crash: The crash during the call.
          allowed: Whether the command has to be accepted, or None if both answers are right.
        """
        h = self.h
        task, before = h.record(), documents(h, task_path(OTHER), rounds_path(OTHER))
        rounds = {round_.key: round_ for round_ in h.rounds()}
        accepted = self.attempt(call, crash, allowed=allowed)
        changed = {field.name for field in fields(Task) if getattr(task, field.name) != getattr(h.record(), field.name)}
        named = NAMED["rollback driven" if name == "rollback" and task.checkpoint and self.driven else name]
        assert changed <= (named if accepted is not False else _ENDS_RUN), (name, changed)
        assert documents(h, task_path(OTHER), rounds_path(OTHER)) == before, name
        after = {round_.key: round_ for round_ in h.rounds()}
        changed_rounds = {key for key, round_ in rounds.items() if after[key] != round_}
        if name in ("cancel", "rollback", "run", "complete"):
            # They end the open round; `:run` and `:complete` only one that a rollback has left.
            assert all(isinstance(after[key], Abandoned) for key in changed_rounds)
            assert name in ("cancel", "rollback") or task.resting or not changed_rounds
        else:
            assert not changed_rounds, name
        assert after.keys() == rounds.keys() or name == "resume", name
        return accepted is True

    def attempt(self, call: Callable[[], Any], crash: Interruption, *, allowed: bool | None) -> bool | None:
        """Returns whether the call was accepted, or None if a crash has hidden it."""
        h = self.h
        h.crash_at(crash.write, crash.when)
        crashed = False
        try:
            call()
        except Crash:
            crashed = True
            h.restart()
            if crash.lose_work:
                h.queue.held.clear()
        except ProblemError as problem:
            self.check_refusal(problem, allowed=allowed)
            return False
        finally:
            h.crash_at(None, When.BEFORE)
        if not crashed:
            assert allowed is not False
            return True
        if crash.repeat:
            try:
                call()
            except ProblemError as problem:
                self.check_refusal(problem, allowed=None)
        return None

    def check_refusal(self, problem: ProblemError, *, allowed: bool | None) -> None:
        assert problem.type in (ProblemType.CONFLICT, ProblemType.UNAVAILABLE, ProblemType.NOT_FOUND), problem
        assert allowed is not True, problem

    @rule(crash=INTERRUPTIONS)
    def create(self, crash):
        def call():
            self.h.create_task(driven=self.driven, **self.policy)

        if self.h.inner.tasks.get(task_path(TASK)) is None:
            call()
        else:
            self.command("create", call, crash, allowed=True)

    @rule(crash=INTERRUPTIONS)
    def pause(self, crash):
        allowed = self.h.record().status in (TaskStatus.ACTIVE, TaskStatus.IDLE, TaskStatus.PAUSED)
        self.command("pause", lambda: self.h.operate("pause"), crash, allowed=allowed)
        self.paused = self.paused or self.h.record().status is TaskStatus.PAUSED

    @rule(crash=INTERRUPTIONS)
    def resume(self, crash):
        task = self.h.record()
        allowed = task.pause_once_open or task.status in (TaskStatus.ACTIVE, TaskStatus.IDLE, TaskStatus.PAUSED)
        self.command("resume", lambda: self.h.operate("resume"), crash, allowed=allowed and not task.ended)
        task = self.h.record()
        self.paused = self.paused and (task.status is TaskStatus.PAUSED or task.pause_once_open)

    @rule(crash=INTERRUPTIONS, pick=PICK)
    def roll_back(self, crash, pick):
        task = self.h.record()
        versions = [0, *self.states]
        version = versions[pick % len(versions)]
        begun = task.checkpoint is not None if self.driven else task.number > 0
        call = lambda: self.h.operate("rollback", version=version)  # noqa: E731
        if self.command("rollback", call, crash, allowed=begun and not task.ended):
            after = self.h.record()
            assert (after.checkpoint if self.driven else after.restore).version == version

    @rule(crash=INTERRUPTIONS, pick=PICK)
    def run_rounds(self, crash, pick):
        """Starts a run, or repeats the request of an earlier one."""
        task, h = self.h.record(), self.h
        request = f"r{pick % (len(self.requests) + 2)}"
        options = self.requests.setdefault(request, self.options(pick))
        known = request in self.runs
        idle = self.driven and task.status is TaskStatus.IDLE
        allowed = True if known or idle else None if task.running else False
        self.command("run", lambda: h.run(request, **options), crash, allowed=allowed)
        run = h.record().run
        if not known and (run is None or run.request != request):
            del self.requests[request]  # it was not started, so its arguments are free again
        if self.driven and run is not None:
            assert self.runs.setdefault(run.request, run) == run, "a request has got another run"

    def options(self, pick: int) -> dict[str, Any]:
        versions = [0, *self.states]
        base = {"base": {"version": versions[pick % len(versions)]}} if pick % 3 == 0 else {}
        return {"rounds": 1 + pick % 2, **base}

    @rule(crash=INTERRUPTIONS, sure=st.integers(0, 7))
    def cancel(self, crash, sure):
        if sure:
            return
        allowed = self.h.record().status is not TaskStatus.COMPLETED
        self.command("cancel", lambda: self.h.operate("cancel"), crash, allowed=allowed)
        self.paused = self.paused and not self.h.record().ended

    @rule(crash=INTERRUPTIONS, sure=st.integers(0, 7))
    def complete(self, crash, sure):
        task = self.h.record()
        if sure and task.resting:
            return
        allowed = True if task.resting else None if task.running else self.driven and task.status.value == "completed"
        self.command("complete", lambda: self.h.operate("complete"), crash, allowed=allowed)
        self.paused = self.paused and not self.h.record().ended

    # Progress.

    def step(self, call: Callable[[], Any], crash: Interruption) -> None:
        """Runs a step of a client or the queue, which may crash."""
        self.attempt(call, crash, allowed=None)

    @rule(crash=INTERRUPTIONS)
    def contribute(self, crash):
        self.clients += 1
        self.step(lambda: self.upload(self.clients % 40), crash)

    @precondition(lambda self: self.h.record().status is TaskStatus.ACTIVE)
    @rule()
    def contribute_all(self):
        for _ in range(self.policy["goal"]):
            self.clients += 1
            self.upload(self.clients % 40)
        self.h.deliver_all()

    def upload(self, client: int) -> None:
        answer = self.h.checkin(client)
        if isinstance(answer, Assignment):
            assert not self.paused
            self.h.upload(answer.token, sum_update(client))

    @rule(crash=INTERRUPTIONS)
    def deliver_all(self, crash):
        self.step(self.h.deliver_all, crash)

    @precondition(lambda self: self.h.queue.held)
    @rule(crash=INTERRUPTIONS, pick=PICK)
    def deliver(self, crash, pick):
        held = self.h.queue.held[pick % len(self.h.queue.held)]
        self.step(lambda: self.h.deliver(held), crash)

    @rule(crash=INTERRUPTIONS)
    def tick(self, crash):
        self.step(self.h.tick, crash)

    @rule(seconds=st.sampled_from([1.0, 61.0, 101.0]))
    def wait(self, seconds):
        self.h.clock.advance(seconds)

    # Invariants.

    @invariant()
    def check_all(self):
        if not hasattr(self, "paused"):
            return
        task = self.h.record()
        committed = {round_.key.number: round_ for round_ in self.h.committed()}
        assert len(committed) == len(self.h.committed()), "a round was committed twice"
        self.check_states(committed)
        self.check_bases(committed)
        self.check_phase(task)
        if self.driven:
            self.check_runs(task)

    def check_states(self, committed: dict[int, Committed]) -> None:
        """A checkpoint never changes, and each state is its base plus the round's updates."""
        for version in committed:
            state = self.h.checkpoint(version)
            assert self.states.setdefault(version, state) == state
        assert self.states.keys() == committed.keys()
        if self.h.record().checkpoint is not None or self.h.record().number:
            assert self.h.checkpoint(0) == bytes(self.h.plan.part(self.h.plan.manifest.initial_state))

    def check_bases(self, committed: dict[int, Committed]) -> None:
        """A round starts from the bytes of its base. The chain of bases reaches version 0."""
        for round_ in self.h.rounds():
            version = round_.terms.base.version
            base = self.h.inner.blobs.read(round_.terms.base.blob.name)
            assert base == self.h.checkpoint(version), "a round starts from other bytes than its base has"
            if isinstance(round_, Collecting):
                broadcast = self.h.inner.blobs.read(round_.terms.broadcast.name)
                assert decode(broadcast) == decode(base), "clients get another state than the round's base"
            if isinstance(round_, Committed):
                added = int(decode(self.h.inner.blobs.read(round_.result.name))["ids"])
                totals = [int(decode(state)["total"]) for state in (base, self.states[round_.key.number])]
                assert totals[1] == totals[0] + added
            while version:
                assert version in committed, "the chain of bases ends before version 0"
                assert committed[version].terms.base.version < version
                version = committed[version].terms.base.version

    def check_phase(self, task: Task) -> None:
        if self.paused:
            assert task.status is TaskStatus.PAUSED or task.pause_once_open, "a paused task has continued"
        if task.status is TaskStatus.IDLE:
            assert task.resting
        if task.status is TaskStatus.ACTIVE:
            assert task.running is self.driven

    def check_runs(self, task: Task) -> None:
        """Each request has one run, whose rounds are its own."""
        if task.run is not None:
            assert self.runs.setdefault(task.run.request, task.run) == task.run, "a request has got another run"
        for round_ in self.h.rounds():
            run = self.runs[round_.terms.request]
            assert run.first <= round_.key.number <= run.last
            if round_.key.number == run.first:
                assert round_.terms.base == run.base
        for request in self.runs:
            status = self.h.get_run(request).status
            if request in self.over:
                assert status is self.over[request], "a run that was over has changed"
            elif status is not RunStatus.RUNNING:
                self.over[request] = status
            assert status is not RunStatus.RUNNING or task.running


TestCommands = CommandMachine.TestCase
TestCommands.settings = settings(
    max_examples=25,
    phases=[Phase.generate],
    stateful_step_count=40,
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=list(HealthCheck),
)
