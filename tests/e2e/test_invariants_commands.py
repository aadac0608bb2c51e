"""Commands of operators in every phase of a task, with a crash at any write.

The first test takes a task to each of its phases, and runs each command there, once for each write
with a crash after it, which leaves the same state as one before the next write. The second one is a
state machine: Hypothesis draws a task and a sequence of commands and progress, each of which may
crash, may lose all queued work then, and is repeated or not.

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

Out of scope: concurrent commands (`tests/http/test_runs.py`), and several crashes in one command.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.commands import COMMANDS, NO_CRASH, Interruption, Session
from support.faults import When
from support.harness import TASK

from muster.wire.messages import TaskStatus
from muster_coordinator.domain.rounds import Aggregating, Committed

PICK = st.integers(0, 1000)
CRASHES = st.builds(
    Interruption,
    write=st.integers(1, 8),
    when=st.sampled_from(When),
    lose_work=st.booleans(),
    repeat=st.sampled_from([True, True, False]),
)
INTERRUPTIONS = st.just(NO_CRASH) | CRASHES

# Phases, by the steps that take a new task there.


def opening(_: Session) -> None:
    """The first broadcast, or version 0 of a driven task, is not computed yet."""


def opened(session: Session) -> None:
    """The round is open and has no update, or the driven task is idle."""
    session.h.deliver_all()


def run_opening(session: Session) -> None:
    """The broadcast of a run is not computed yet."""
    session.h.deliver_all()
    session.command("run")


def collecting(session: Session) -> None:
    """The second round is open and has an update."""
    session.h.deliver_all()
    if session.driven:
        session.command("run", pick=1)  # two rounds
        session.h.deliver_all()
    session.contribute()
    session.upload()


def aggregating(session: Session) -> None:
    """The second round is closed and not committed yet."""
    collecting(session)
    session.upload()
    while not isinstance(session.h.round(), Aggregating):
        assert session.h.deliver(session.h.queue.held[0]) == 204


def committed(session: Session) -> None:
    """The second round is committed, and the committer died right after that."""
    aggregating(session)
    # While the task is paused, the committer stops there too.
    session.h.inner.change_task(TASK, lambda task: replace(task, status=TaskStatus.PAUSED))
    session.h.deliver_all()
    session.h.inner.change_task(TASK, lambda task: replace(task, status=TaskStatus.ACTIVE))
    assert isinstance(session.h.round(), Committed)


def after_runs(session: Session) -> None:
    """The driven task is idle, and lacks the document of its last run, since a process died."""
    collecting(session)
    session.contribute()
    session.command("run", replace(NO_CRASH, write=2, when=When.AFTER), pick=2)
    session.h.deliver_all()
    session.contribute()


def paused(phase: Callable[[Session], None]) -> Callable[[Session], None]:
    def take(session: Session) -> None:
        phase(session)
        assert session.command("pause") is True

    take.__name__ = f"paused_{phase.__name__}"
    return take


def rolled_back(phase: Callable[[Session], None]) -> Callable[[Session], None]:
    def take(session: Session) -> None:
        phase(session)
        assert session.command("rollback") is True

    take.__name__ = f"rolled_back_{phase.__name__}"
    return take


def cancelled(session: Session) -> None:
    collecting(session)
    session.command("cancel")


def completed(session: Session) -> None:
    session.h.deliver_all()
    if session.driven:
        session.command("complete")
    while not session.h.record().ended:
        session.contribute()


PHASES = {
    False: (
        opening,
        opened,
        collecting,
        aggregating,
        committed,
        paused(collecting),
        paused(committed),
        rolled_back(collecting),
        rolled_back(paused(collecting)),
        cancelled,
        completed,
    ),
    True: (
        opening,
        opened,
        run_opening,
        collecting,
        aggregating,
        committed,
        after_runs,
        paused(opened),
        paused(collecting),
        paused(committed),
        rolled_back(collecting),
        rolled_back(paused(collecting)),
        cancelled,
        completed,
    ),
}
CASES = [(driven, phase) for driven, phases in PHASES.items() for phase in phases]


@pytest.mark.parametrize(
    ("driven", "phase"), CASES, ids=[f"{'driven' if driven else 'free'}-{phase.__name__}" for driven, phase in CASES]
)
def test_each_command_in_each_phase_survives_a_crash_at_each_write(driven, phase, tmp_path):
    for command in COMMANDS:
        clean = Session(tmp_path / command, driven=driven)
        phase(clean)
        before = len(clean.h.schedule.writes)
        accepted = clean.command(command)
        writes = clean.h.schedule.writes[before:]
        clean.check_all()
        clean.finish()
        if not accepted:
            continue
        for number, write in enumerate(writes, start=1):
            session = Session(tmp_path / f"{command}-{number}", driven=driven)
            phase(session)
            try:
                session.command(command, Interruption(number, When.AFTER, lose_work=number % 2 == 0, repeat=True))
                session.check_all()
                if number % 2 == 0:  # with its work, the task is in the phases of the clean run
                    session.finish()
            except AssertionError as error:
                raise AssertionError(f"{command} after a crash after write {number}, {write}") from error


class CommandMachine(RuleBasedStateMachine):
    """State machine over `Session`. It has two rules, so that no example lacks one of many."""

    @initialize(driven=st.booleans(), goal=st.integers(2, 3), is_open=st.booleans())
    def begin(self, *, driven, goal, is_open):
        self.folder = tempfile.TemporaryDirectory()
        self.sessions = 0
        self.renew(driven=driven, goal=goal, is_open=is_open)

    def renew(self, *, driven: bool, goal: int, is_open: bool) -> None:
        """Starts a session with a new task."""
        self.sessions += 1
        self.session = Session(Path(self.folder.name) / str(self.sessions), driven=driven, goal=goal)
        if is_open:
            self.session.h.deliver_all()

    def teardown(self):
        if not hasattr(self, "session"):
            return
        try:
            if sys.exc_info()[0] is None:  # otherwise the earlier failure is the one to report
                self.session.finish()
        finally:
            self.folder.cleanup()

    @rule(crash=INTERRUPTIONS, pick=PICK, chosen=st.integers(0, 99))
    def command(self, crash, pick, chosen):
        """Runs a command: mostly one that the phase allows, and rarely one that ends the task."""
        likely = [name for name in (*COMMANDS[1:5], "run") if self.session.allows(name) is not False]
        names = COMMANDS if chosen >= 90 else COMMANDS[1:5] if chosen >= 70 else likely or COMMANDS[:5]
        self.session.command(names[chosen % len(names)], crash, pick=pick)

    @rule(
        crash=INTERRUPTIONS, pick=PICK, step=st.sampled_from(["round"] * 4 + ["upload", "work", "all", "tick", "wait"])
    )
    def progress(self, crash, pick, step):
        """Makes progress by clients, the queue or the clock."""
        session, held = self.session, self.session.h.queue.held
        if step == "wait":
            session.h.clock.advance(61.0 if pick % 2 else 10001.0)
        elif step == "work" and held:
            work = held[pick % len(held)]
            session.interrupted(lambda: session.h.deliver(work), crash)
        elif step == "round":
            late = None if crash.write is None else crash.write * (1 + pick % 5)  # it has about forty writes
            session.h.deliver_all()
            session.interrupted(session.contribute, replace(crash, write=late))
        else:
            steps = {"upload": session.upload, "tick": session.h.tick}
            session.interrupted(steps.get(step, session.h.deliver_all), crash)
        if session.h.record().ended and pick % 3 == 0:
            session.finish()
            self.renew(driven=session.driven, goal=session.policy["goal"], is_open=pick % 2 == 0)

    @invariant()
    def check(self):
        if hasattr(self, "session"):
            self.session.check_all()


TestCommands = CommandMachine.TestCase
TestCommands.settings = settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=list(HealthCheck),
)
