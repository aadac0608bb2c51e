"""Progress display of the demo: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Optional

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from muster.terminal import size

if TYPE_CHECKING:
    from typing_extensions import Self

_BAR_WIDTH = 30  # columns
_REFRESHES_PER_SECOND = 8


@dataclass(frozen=True)
class TrainingProgress:
    """Progress of the training.

    Attributes:
      round: The open round.
      rounds: The number of rounds.
      clients_in: Clients that have contributed to the open round.
      goal: Updates that the round needs.
      alive: Running client processes.
      loss: Loss of the last checkpoint on held-out digits.
      accuracy: Its accuracy.
      up: Bytes uploaded by clients.
      down: Bytes downloaded by clients.
    """

    round: int
    rounds: int
    clients_in: int = 0
    goal: int = 0
    alive: int = 0
    loss: float = float("nan")
    accuracy: float = float("nan")
    up: int = 0  # bytes
    down: int = 0  # bytes


class ProgressDisplay:
    """Progress display, as a context manager.

    Args:
      console: The console to write to. A live bar is shown only if it is a terminal.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._started = time.monotonic()
        self._status = ""
        self._progress: Optional[TrainingProgress] = None
        self._spinner = Spinner("dots")
        self._live = (
            Live(self, console=console, refresh_per_second=_REFRESHES_PER_SECOND, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        if self._live is not None:
            self._live.stop()

    @property
    def elapsed(self) -> float:
        """Returns the seconds since the start."""
        return time.monotonic() - self._started

    def status(self, text: str) -> None:
        """Shows the current activity until the next call; an empty text clears it."""
        if text and text != self._status and self._live is None:
            self.line(f"{text} ...")
        self._status = text

    def line(self, text: str, *, style: str = "") -> None:
        """Prints a permanent line, above the bar."""
        self.console.print(Text(f"[{self.elapsed:5.1f} s] {text}", style=style), soft_wrap=True)

    def update(self, progress: TrainingProgress) -> None:
        """Updates the bar."""
        self._progress = progress

    def round_done(self, progress: TrainingProgress) -> None:
        """Reports a committed round, with a line if there is no bar."""
        if self._live is None:
            self.line(f"round {progress.round} of {progress.rounds}: {_numbers(progress)}")
        self._progress = replace(progress, round=min(progress.round + 1, progress.rounds), clients_in=0)

    def __rich__(self) -> RenderableType:
        parts: list[RenderableType] = []
        if self._progress is not None:
            parts.append(self._bar(self._progress))
        if self._status:
            self._spinner.update(text=Text(f"{self._status} ({self.elapsed:.0f} s)"))
            parts.append(self._spinner)
        return Group(*parts)

    def _bar(self, now: TrainingProgress) -> RenderableType:
        within = min(now.clients_in / now.goal, 1.0) if now.goal else 0.0
        grid = Table.grid(padding=(0, 1))
        grid.add_row(
            Text(f"round {now.round} of {now.rounds}", style="bold"),
            ProgressBar(total=now.rounds, completed=now.round - 1 + within, width=_BAR_WIDTH),
            Text(f"{self.elapsed:.0f} s, clients alive: {now.alive}"),
        )
        return Group(grid, Text(_numbers(now)))


def _numbers(now: TrainingProgress) -> str:
    score = f"loss {now.loss:.3f}, accuracy {now.accuracy:.1%}" if math.isfinite(now.loss) else "not scored yet"
    return f"{now.clients_in} clients in (goal {now.goal}), {score}, {size(now.up)} up, {size(now.down)} down"
