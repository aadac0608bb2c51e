"""A task under commands of an operator, with a model of what each command may change.

`Session` runs commands, which may crash, and checks the invariants of `test_invariants_commands`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from muster.wire.messages import Assignment, RunStatus, TaskStatus
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import decode
from muster_coordinator.domain.names import rounds_path, task_path
from muster_coordinator.domain.rounds import Abandoned, Aggregating, Collecting, Committed
from muster_coordinator.domain.tasks import Run, Task
from support.crashing import CrashingHarness
from support.faults import Crash, When
from support.plans import sum_update

OTHER = "other"  # a task that no command names
COMMANDS = ("create", "pause", "resume", "rollback", "run", "cancel", "complete")
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


NO_CRASH = Interruption(None, When.BEFORE, lose_work=False, repeat=False)


def documents(h: CrashingHarness, *paths: str) -> dict[str, Any]:
    """Returns the documents at the paths and in the collections of that name."""
    stored = [h.inner.documents.get(path) for path in paths if path.count("/") % 2]
    listed = [document for path in paths if not path.count("/") % 2 for document in h.inner.documents.list(path)]
    return {document.path: document.data for document in [*stored, *listed] if document is not None}


class Session:
    """Session with a task, and with another one that no command names.

    Attributes:
      h: The coordinator.
      driven: Whether the task is driven.
      paused: Whether an operator has paused it.
    """

    def __init__(self, root: Path, *, driven: bool, goal: int = 2) -> None:
        """Creates both tasks. The first broadcast or version 0 of the task is not computed yet."""
        self.h = CrashingHarness(root)
        self.driven = driven
        self.policy: dict[str, Any] = {
            "rounds": 6,
            "goal": goal,
            "minimum": 2,
            "chunk": 2,
            "round_seconds": 1e4,
            "over_selection": 2.0,
        }
        self.h.put_plan()
        self.h.create_task(driven=driven, **self.policy)
        created = self.h.record()
        other = replace(created, spec=created.spec.model_copy(update={"name": OTHER}), status=TaskStatus.PAUSED)
        self.h.inner.tasks.create(task_path(OTHER), other)
        self.clients = 0
        self.requests: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, Run] = {}
        self.over: dict[str, RunStatus] = {}
        self.states: dict[int, bytes] = {}
        self.paused = False

    def finish(self) -> None:
        """Asserts that the task still works, can be ended, and leaves nothing obsolete."""
        h = self.h
        h.settle(minutes=1)
        for _ in range(2):  # a task that is paused once it has opened
            if h.record().status is TaskStatus.PAUSED:
                h.operate("resume")
                self.paused = False
                h.settle(minutes=1)
        self.check_all()
        before = len(h.committed())
        if h.record().status is TaskStatus.IDLE:
            h.run("last")
            h.deliver_all()
        if not h.record().ended:
            assert h.record().status is TaskStatus.ACTIVE, "the task is stuck"
            self.contribute()
            h.settle(minutes=1)
            assert len(h.committed()) > before, "the task is stuck"
        self.check_all()
        if h.record().status is not TaskStatus.COMPLETED:
            h.operate("cancel")
        h.settle(minutes=1)
        assert not [round_ for round_ in h.rounds() if isinstance(round_, Collecting | Aggregating)]
        assert [name for name in h.leftovers() if f"/{OTHER}/" not in name] == []
        self.check_all()

    # Commands.

    def allows(self, command: str) -> bool | None:
        """Returns whether the task's phase allows a command; None if both answers are right."""
        task = self.h.record()
        steady = task.status in (TaskStatus.ACTIVE, TaskStatus.IDLE, TaskStatus.PAUSED)
        begun = task.checkpoint is not None if self.driven else task.number > 0
        settling = None if task.running and task.status is TaskStatus.ACTIVE else False
        return {
            "create": True,
            "pause": steady,
            "resume": steady or (task.pause_once_open and not task.ended),
            "rollback": begun and not task.ended,
            "run": True if task.status is TaskStatus.IDLE else settling,
            "cancel": task.status is not TaskStatus.COMPLETED,
            "complete": task.resting or (self.driven and task.status is TaskStatus.COMPLETED) or settling,
        }[command]

    def command(self, name: str, crash: Interruption = NO_CRASH, *, pick: int = 0) -> bool | None:
        """Runs a command, and checks that it is accepted or refused as its phase requires.

        Args:
          name: The command.
          crash: The crash during the call.
          pick: Number that chooses the command's arguments.

        Returns:
          Whether it was accepted; None if a crash has hidden it.
        """
        if name == "run":
            return self._run(crash, pick)
        if name == "rollback":
            return self._roll_back(crash, pick)
        call: Callable[[], Any] = lambda: self.h.operate(name)  # noqa: E731
        if name == "create":
            call = lambda: self.h.create_task(driven=self.driven, **self.policy)  # noqa: E731
        accepted = self._checked(name, call, crash, allowed=self.allows(name))
        task = self.h.record()
        if name == "pause":
            self.paused = self.paused or task.status is TaskStatus.PAUSED
        self.paused = self.paused and (task.status is TaskStatus.PAUSED or task.pause_once_open)
        return accepted

    def _roll_back(self, crash: Interruption, pick: int) -> bool | None:
        versions = [0, *self.states]
        version = versions[pick % len(versions)]
        call = lambda: self.h.operate("rollback", version=version)  # noqa: E731
        accepted = self._checked("rollback", call, crash, allowed=self.allows("rollback"))
        task = self.h.record()
        base = task.checkpoint if self.driven else task.restore
        assert accepted is not True or (base is not None and base.version == version)
        return accepted

    def _run(self, crash: Interruption, pick: int) -> bool | None:
        """Starts a run, or repeats the request of an earlier one."""
        request = f"r{pick % (len(self.requests) + 2)}"
        versions = [0, *self.states]
        base = {"base": {"version": versions[pick % len(versions)]}} if pick % 3 == 0 else {}
        options = self.requests.setdefault(request, {"rounds": 1 + pick % 2, **base})
        known = request in self.runs
        allowed = True if known else self.allows("run")
        accepted = self._checked("run", lambda: self.h.run(request, **options), crash, allowed=allowed)
        run = self.h.record().run
        if not known and (run is None or run.request != request):
            del self.requests[request]  # it was not started, so its arguments are free again
        if run is not None:
            assert self.runs.setdefault(run.request, run) == run, "a request has got another run"
        return accepted

    def _checked(
        self, name: str, call: Callable[[], Any], crash: Interruption, *, allowed: bool | None = None
    ) -> bool | None:
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
        accepted = self.interrupted(call, crash, allowed=allowed)
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
        return accepted

    def interrupted(self, call: Callable[[], Any], crash: Interruption, *, allowed: bool | None = None) -> bool | None:
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
            _check_refusal(problem, allowed=allowed)
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
                _check_refusal(problem, allowed=None)
        return None

    # Progress.

    def contribute(self) -> None:
        """Uploads the updates of as many clients as the goal, and delivers all due work."""
        for _ in range(self.policy["goal"]):
            self.upload()
        self.h.deliver_all()

    def upload(self) -> None:
        """Uploads the update of a new client, if it is assigned work."""
        self.clients += 1
        client = self.clients % 40
        answer = self.h.checkin(client)
        if isinstance(answer, Assignment):
            assert not self.paused
            self.h.upload(answer.token, sum_update(client))

    # Invariants.

    def check_all(self) -> None:
        """Checks the invariants of the stored state."""
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


def _check_refusal(problem: ProblemError, *, allowed: bool | None) -> None:
    assert problem.type in (ProblemType.CONFLICT, ProblemType.UNAVAILABLE, ProblemType.NOT_FOUND), problem
    assert allowed is not True, problem
