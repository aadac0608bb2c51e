"""How clients came in open loop, against when they were due: what a load's own delay would hide else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Optional

from muster.load.times import Histogram

_LATE = 0.25  # seconds: of the clients' 99th percentile, above which the load was not kept up with
_SHORT = 0.95  # of the rate, likewise
_FEW = 20  # clients, whose rate says little


@dataclass(frozen=True)
class Arrivals:
    """The clients that came in open loop.

    Attributes:
      offered: Clients a second that were due; None: all at once, or too few to tell.
      achieved: Clients a second whose check-ins were answered.
      lateness: From when a client was due to its check-in.
      answered: From when a client was due to the answer to its check-in: what it would have waited.
      backlog: The most clients that were due and not answered yet.
    """

    offered: Optional[float]
    achieved: Optional[float]
    lateness: Histogram
    answered: Histogram
    backlog: int

    @property
    def kept_up(self) -> Optional[bool]:
        """Whether clients came when they were due, and were answered as fast; None where they all were due at once."""
        if self.offered is None or self.achieved is None:
            return None
        return self.in_time and self.achieved >= _SHORT * self.offered

    @property
    def in_time(self) -> bool:
        """Whether clients came when they were due."""
        return self.lateness.quantile(0.99) <= _LATE

    def to_dict(self) -> dict[str, Any]:
        """As JSON-compatible data."""
        return {
            "offered_per_second": self.offered,
            "achieved_per_second": self.achieved,
            "lateness": self.lateness.to_dict(),
            "answered": self.answered.to_dict(),
            "largest_backlog": self.backlog,
            "kept_up": self.kept_up,
        }


class Arriving:
    """Takes down how clients come, over all rounds. Not for several threads at once."""

    def __init__(self) -> None:
        self._lateness = Histogram()
        self._answered = Histogram()
        self._backlog = 0
        self._due: Iterator[float] = iter(())
        self._next: Optional[float] = None
        self._waiting = 0
        self._rounds: list[_Span] = []

    def begin(self, due: Iterator[float]) -> None:
        """A round begins, whose clients are due at these instants, in order."""
        self._due = due
        self._next = next(due, None)
        self._waiting = 0
        self._rounds.append(_Span())

    def came(self, due: float, now: float) -> None:
        """A client that was due at `due` comes at `now`."""
        while self._next is not None and self._next <= now:
            self._waiting += 1
            self._next = next(self._due, None)
        self._backlog = max(self._backlog, self._waiting)
        self._lateness.add(max(0.0, now - due))

    def answered(self, due: float, now: float) -> None:
        """A client that was due at `due` has its answer at `now`."""
        self._waiting -= 1
        self._answered.add(max(0.0, now - due))
        self._rounds[-1].add(due, now)

    def result(self) -> Arrivals:
        """How it was."""
        intervals = sum(span.count - 1 for span in self._rounds)
        due = sum(span.due[1] - span.due[0] for span in self._rounds)
        answered = sum(span.answered[1] - span.answered[0] for span in self._rounds)
        told = intervals >= _FEW and due > 0
        return Arrivals(
            intervals / due if told else None,
            intervals / answered if told and answered > 0 else None,
            self._lateness,
            self._answered,
            self._backlog,
        )


class _Span:
    """From the first client of a round to its last one, as they were due and as they were answered."""

    def __init__(self) -> None:
        self.count = 0
        self.due = self.answered = (0.0, 0.0)  # POSIX seconds

    def add(self, due: float, now: float) -> None:
        if not self.count:
            self.due, self.answered = (due, due), (now, now)
        self.due = min(self.due[0], due), max(self.due[1], due)
        self.answered = min(self.answered[0], now), max(self.answered[1], now)
        self.count += 1
