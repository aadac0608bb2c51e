"""The checklist: steps one after another, each passed or failed with a reason and what to look at."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Callable, Optional

from muster.client import ForeignAnswerError, UnreachableError
from muster.smoke import advice
from muster.wire.problems import ProblemError

_LOOK = 0.2  # seconds between looks at what a step waits for
_TOLD = 5.0  # seconds between words on a wait


@dataclass(frozen=True)
class Step:
    """One line of the checklist.

    Attributes:
      name: What was to be shown.
      passed: Whether it was.
      seconds: How long it took, from the end of the step before.
      detail: What was found or, of a step that failed, the reason.
      look_at: Of a step that failed: what to look at, a line each.
      unreachable: Whether it failed because nobody answered.
    """

    name: str
    passed: bool
    seconds: float
    detail: str = ""
    look_at: tuple[str, ...] = ()
    unreachable: bool = False


@dataclass(frozen=True)
class SmokeResult:
    """What a smoke test came to.

    Attributes:
      task: The name of its task and population; the task stays in the list of tasks, ended.
      steps: Those that were tried, in order. After one that failed nothing more is tried that builds on it.
    """

    task: str
    steps: tuple[Step, ...]

    @property
    def passed(self) -> bool:
        """Whether all of it works."""
        return all(step.passed for step in self.steps)

    @property
    def unreachable(self) -> bool:
        """Whether a step failed because nobody answered."""
        return any(step.unreachable for step in self.steps)


class StepFailedError(Exception):
    """A step found something wrong: the reason, and what to look at."""

    def __init__(self, reason: str, look_at: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.look_at = look_at


class StoppedError(Exception):
    """A step failed, which is told already, and what follows builds on it."""


@dataclass
class Checklist:
    """Runs steps and keeps what they came to.

    Args:
      patience: Longest wait of one step, in seconds.
      on_step: Is told of each step that ended.
      on_wait: Is told of each step that begins, and then every few seconds how it stands.
    """

    patience: float
    on_step: Callable[[Step], None] = lambda _: None
    on_wait: Callable[[str, str], None] = lambda *_: None
    steps: list[Step] = field(default_factory=list)
    _pause: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def step(self, name: str, *, fatal: bool = True, hints: Optional[advice.Hints] = None) -> Iterator[list[str]]:
        """A step: passed if the block ends, and then described by what the block put into the list that it gets.

        Args:
          name: What the block shows.
          fatal: Whether a failure ends the smoke test.
          hints: What to look at when the coordinator refuses a call of the block.

        Raises:
          StoppedError: it failed, and is fatal.
        """
        started, notes = time.monotonic(), list[str]()

        def end(passed: bool, detail: str, look_at: tuple[str, ...] = (), *, unreachable: bool = False) -> None:
            step = Step(name, passed, time.monotonic() - started, detail, look_at, unreachable)
            self.steps.append(step)
            self.on_step(step)

        self.on_wait(name, "")
        try:
            yield notes
        except StepFailedError as error:
            end(False, error.reason, error.look_at)
        except ProblemError as error:
            end(False, str(error), advice.of_problem(error, hints or {}))
        except ForeignAnswerError as error:
            end(False, str(error), advice.of_status(error.status, hints or {}))
        except UnreachableError as error:
            end(False, str(error), advice.UNREACHABLE, unreachable=True)
        else:
            end(True, ", ".join(notes))
            return
        if fatal:
            raise StoppedError(name)

    def wait(self, name: str, look: Callable[[], Optional[str]], *, reason: str, look_at: tuple[str, ...]) -> float:
        """Waits until `look` gives None; gives the seconds that it took.

        Args:
          name: What is waited for.
          look: Gives how it stands while it is not there yet.
          reason: Why the step failed, if it does not come; how it stood is put behind it.
          look_at: What to look at then.

        Raises:
          StepFailedError: it did not come in time.
        """
        started = told = time.monotonic()
        while True:
            standing = look()
            now = time.monotonic()
            if standing is None:
                return now - started
            if now - started > self.patience:
                raise StepFailedError(f"{reason} ({standing} after {self.patience:.0f} s)", look_at)
            if now - told > _TOLD:
                told = now
                self.on_wait(name, f"{standing}, {now - started:.0f} s")
            self._pause.wait(_LOOK)
