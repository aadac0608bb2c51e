"""A crash before and after every write to a port: whoever comes next completes the rounds with the same bytes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from support.faults import Crash, Fault, FaultyBlobs, FaultyDocuments, FaultyQueue, Schedule, When
from support.harness import Harness
from support.plans import sum_update

from muster.wire.messages import Assignment, TaskStatus
from muster.wire.problems import ProblemError

T = TypeVar("T")
CLIENTS = 3  # of which two fold early, and the one that is left over folds onto their partial
POLICY = {
    "rounds": 3,
    "goal": CLIENTS,
    "minimum": CLIENTS,
    "over_selection": 2.0,  # a crash may cost a slot until its assignment runs out
    "chunk": 2,
    "shards": 1,
    "round_seconds": 1e6,  # so that nothing is mended by a deadline
    "assignment_seconds": 5e4,
}


class Play:
    """A task's whole life, played to its end whatever one fault does.

    Whoever called a process that died calls again, as a client or an operator does. A delivery that died is delivered again or,
    if `lose_work`, everything that was queued is lost, and ticks alone go on from there.
    """

    def __init__(self, root: Path, *faults: Fault, lose_work: bool = False) -> None:
        self.schedule = Schedule(*faults)
        self.lose_work = lose_work
        self.crashes = 0
        self.h = Harness(
            root,
            wrap=lambda inner: replace(
                inner,
                documents=FaultyDocuments(inner.documents, self.schedule),
                blobs=FaultyBlobs(inner.blobs, self.schedule),
                queue=FaultyQueue(inner.queue, self.schedule),
            ),
        )

    def insist(self, step: Callable[[], T]) -> T:
        try:
            return step()
        except Crash:
            self.crashes += 1
            self.h.restart()
            if self.lose_work:
                self.h.queue.held.clear()
            return step()

    def until(self, reached: Callable[[], bool]) -> None:
        self.insist(self.h.deliver_all)
        for _ in range(5):
            if reached():
                return
            self.insist(self.h.tick)
            self.insist(self.h.deliver_all)
            self.h.clock.advance(61)
        assert reached(), self.h.task()

    def contribute(self, client: int) -> None:
        answer = self.insist(lambda: self.h.checkin(client))
        assert isinstance(answer, Assignment), answer
        self.insist(lambda: self.h.upload(answer.token, sum_update(client)))

    def round(self, number: int) -> None:
        self.until(lambda: self.h.task().status is TaskStatus.ACTIVE and self.h.task().current.round == number)
        quitter = self.insist(lambda: self.h.assigned(40))
        self.insist(lambda: self.h.report(quitter.token))
        for client in range(CLIENTS):
            self.contribute(client)
            self.insist(self.h.deliver_all)
        self.until(lambda: self.h.task().checkpoint == number)

    def begin(self) -> None:
        self.insist(self.h.put_plan)
        self.insist(lambda: self.h.create_task(**POLICY))

    def operate(self, verb: str, **more: int) -> None:
        self.insist(lambda: self.h.operate(verb, **more))

    def end(self) -> list[bytes]:
        """Cancels the task; all checkpoints' bytes. Nothing else may be left."""
        self.operate("cancel")
        for _ in range(3):
            self.insist(self.h.tick)
            self.insist(self.h.deliver_all)
            self.h.clock.advance(61)
        assert self.h.leftovers() == []
        assert self.h.blobs("updates/") == self.h.blobs("partials/") == self.h.blobs("broadcasts/") == []
        versions = [round_.key.number for round_ in self.h.committed()]
        return [self.h.checkpoint(version) for version in (0, *versions)]


def clients(play: Play) -> list[bytes]:
    play.begin()
    play.round(1)
    play.until(lambda: play.h.task().current.round == 2)
    return play.end()


def operators(play: Play) -> list[bytes]:
    play.begin()
    play.until(lambda: play.h.task().status is TaskStatus.ACTIVE)
    play.operate("pause")
    play.operate("resume")
    play.contribute(7)
    play.operate("rollback", version=0)
    play.round(1)
    return play.end()


@pytest.mark.parametrize("story", [clients, operators])
def test_a_crash_at_any_write_changes_no_byte(story, tmp_path):
    clean = Play(tmp_path / "clean")
    expected = story(clean)
    assert len(expected) == 2
    writes = list(clean.schedule.writes)
    assert len(writes) > 70
    for (number, write), when in itertools.product(enumerate(writes, start=1), When):
        # Half of the crashes lose all queued work as well: before the even writes, after the odd ones.
        lose_work = (number % 2 == 0) is (when is When.BEFORE)
        play = Play(tmp_path / f"{number}-{when.value}", Fault(number, when), lose_work=lose_work)
        try:
            found = story(play)
        except (AssertionError, Crash, ProblemError) as error:
            raise AssertionError(f"after a crash {when.value} write {number}, {write}; {lose_work=}") from error
        assert play.crashes == 1
        assert found == expected, (write, when)
        assert set(play.h.runtime.reported) == {CLIENTS}
