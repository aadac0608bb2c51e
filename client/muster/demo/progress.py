"""What the demo shows: a live bar in a terminal, plain lines elsewhere."""

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

_BAR = 30  # columns
_PER_SECOND = 8


@dataclass(frozen=True)
class TrainingProgress:
    """Where the training is. `round` is the open one; loss and accuracy are those of the last checkpoint, on held-out digits."""

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
    """The display, as a context manager.

    Args:
      console: Where to; its being a terminal or not decides on the form.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._started = time.monotonic()
        self._doing = ""
        self._standing: Optional[TrainingProgress] = None
        self._spinner = Spinner("dots")
        self._live = (
            Live(self, console=console, refresh_per_second=_PER_SECOND, transient=True) if console.is_terminal else None
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
        """Seconds since the start."""
        return time.monotonic() - self._started

    def doing(self, text: str) -> None:
        """Says what is going on until something else is."""
        if text and text != self._doing and self._live is None:
            self.line(f"{text} ...")
        self._doing = text

    def line(self, text: str, *, style: str = "") -> None:
        """A line that stays, above the bar."""
        self.console.print(Text(f"[{self.elapsed:5.1f} s] {text}", style=style), soft_wrap=True)

    def standing(self, standing: TrainingProgress) -> None:
        """Moves the bar."""
        self._standing = standing

    def round_done(self, standing: TrainingProgress) -> None:
        """A round was committed. Only where no bar shows it, it gets a line."""
        if self._live is None:
            self.line(f"round {standing.round} of {standing.rounds}: {_numbers(standing)}")
        self._standing = replace(standing, round=min(standing.round + 1, standing.rounds), clients_in=0)

    def __rich__(self) -> RenderableType:
        parts: list[RenderableType] = []
        if self._standing is not None:
            parts.append(self._bar(self._standing))
        if self._doing:
            self._spinner.update(text=Text(f"{self._doing} ({self.elapsed:.0f} s)"))
            parts.append(self._spinner)
        return Group(*parts)

    def _bar(self, now: TrainingProgress) -> RenderableType:
        within = min(now.clients_in / now.goal, 1.0) if now.goal else 0.0
        grid = Table.grid(padding=(0, 1))
        grid.add_row(
            Text(f"round {now.round} of {now.rounds}", style="bold"),
            ProgressBar(total=now.rounds, completed=now.round - 1 + within, width=_BAR),
            Text(f"{self.elapsed:.0f} s, clients alive: {now.alive}"),
        )
        return Group(grid, Text(_numbers(now)))


def _numbers(now: TrainingProgress) -> str:
    score = f"loss {now.loss:.3f}, accuracy {now.accuracy:.1%}" if math.isfinite(now.loss) else "not scored yet"
    return f"{now.clients_in} clients in (goal {now.goal}), {score}, {size(now.up)} up, {size(now.down)} down"
