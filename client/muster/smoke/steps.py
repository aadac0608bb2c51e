"""Checklist of steps, each of which passes or fails with a reason and advice."""

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

_POLL_SECONDS = 0.2
_REPORT_SECONDS = 5.0  # between calls of `on_wait` during a wait


@dataclass(frozen=True)
class Step:
    """Result of one step.

    Attributes:
      name: The step, as a statement that it proves.
      passed: Whether the statement holds.
      seconds: The duration of the step.
      detail: The facts, or the reason of the failure.
      look_at: Advised checks after a failure, one per line.
      unreachable: Whether it failed because there was no answer.
    """

    name: str
    passed: bool
    seconds: float
    detail: str = ""
    look_at: tuple[str, ...] = ()
    unreachable: bool = False


@dataclass(frozen=True)
class SmokeResult:
    """Result of a smoke test.

    Attributes:
      task: The name of its task and population. The ended task stays in the list of tasks.
      steps: The steps in order, up to the first fatal failure.
    """

    task: str
    steps: tuple[Step, ...]

    @property
    def passed(self) -> bool:
        """Returns whether all steps passed."""
        return all(step.passed for step in self.steps)

    @property
    def unreachable(self) -> bool:
        """Returns whether a step failed because there was no answer."""
        return any(step.unreachable for step in self.steps)


class StepFailedError(Exception):
    """Error raised when a step fails. `look_at`: advised checks."""

    def __init__(self, reason: str, look_at: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.look_at = look_at


class StoppedError(Exception):
    """Error raised to end the smoke test after a fatal failure, which is already reported."""


@dataclass
class Checklist:
    """Runner of steps that records their results.

    Args:
      patience: Longest wait of one step, in seconds.
      on_step: Called with the result of each step.
      on_wait: Called with a step's name when it starts, and then every few seconds with its status.
    """

    patience: float
    on_step: Callable[[Step], None] = lambda _: None
    on_wait: Callable[[str, str], None] = lambda *_: None
    steps: list[Step] = field(default_factory=list)
    _pause: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def step(self, name: str, *, fatal: bool = True, hints: Optional[advice.Hints] = None) -> Iterator[list[str]]:
        """Runs the block as a step, which passes unless the block raises.

        The block may append facts to the list that it receives.

        Args:
          name: The step's name.
          fatal: Whether a failure ends the smoke test.
          hints: Checks to advise if the coordinator refuses a call in the block.

        Raises:
          StoppedError: the step failed and is fatal.
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

    def wait(self, name: str, poll: Callable[[], Optional[str]], *, reason: str, look_at: tuple[str, ...]) -> float:
        """Waits until `poll` returns None. Returns the seconds that it took.

        Args:
          name: The step's name.
          poll: Returns the current status, or None once the step is complete.
          reason: The reason of a failure; the last status is appended.
          look_at: Checks to advise after a failure.

        Raises:
          StepFailedError: the step was not complete within `patience` seconds.
        """
        started = reported = time.monotonic()
        while True:
            status = poll()
            now = time.monotonic()
            if status is None:
                return now - started
            if now - started > self.patience:
                raise StepFailedError(f"{reason} ({status} after {self.patience:.0f} s)", look_at)
            if now - reported > _REPORT_SECONDS:
                reported = now
                self.on_wait(name, f"{status}, {now - started:.0f} s")
            self._pause.wait(_POLL_SECONDS)
