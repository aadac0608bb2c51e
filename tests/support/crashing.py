"""A coordinator whose process crashes at scheduled writes, and restarts over its stores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from support.faults import Crash, Fault, FaultyBlobs, FaultyDocuments, FaultyQueue, Schedule, When
from support.harness import Harness

T = TypeVar("T")


class CrashingHarness(Harness):
    """Harness whose process crashes as scheduled.

    Attributes:
      schedule: The schedule of faults, with the calls so far.
      lose_work: Whether a crash loses all queued work.
      crashes: The number of crashes so far.
    """

    def __init__(self, root: Path, *faults: Fault, lose_work: bool = False) -> None:
        self.schedule = Schedule(*faults)
        self.lose_work = lose_work
        self.crashes = 0
        super().__init__(
            root,
            wrap=lambda inner: replace(
                inner,
                documents=FaultyDocuments(inner.documents, self.schedule),
                blobs=FaultyBlobs(inner.blobs, self.schedule),
                queue=FaultyQueue(inner.queue, self.schedule),
            ),
        )

    def crash_at(self, write: int | None, when: When) -> None:
        """Schedules one crash at a write from now on (1: the next one), or none."""
        number = None if write is None else len(self.schedule.writes) + write
        self.schedule.arm(None if number is None else Fault(number, when))

    def retry(self, step: Callable[[], T]) -> T:
        """Runs a step, and once more in a new process if it crashed."""
        try:
            return step()
        except Crash:
            self.crashes += 1
            self.restart()
            if self.lose_work:
                self.queue.held.clear()
            return step()
