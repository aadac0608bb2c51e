"""Measures open-loop arrivals against their schedule, so that coordinated omission shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Optional

from muster.load.times import Histogram

# A load kept up if its clients' 99th percentile was no later, and it reached this fraction of the
# rate:
_MAX_LATENESS = 0.25  # seconds
_MIN_RATE = 0.95
_MIN_INTERVALS = 20  # below, a rate is too uncertain to report


@dataclass(frozen=True)
class Arrivals:
    """Arrivals of an open-loop load.

    Attributes:
      offered: Clients per second that were due; None if all were due at once, or too few.
      achieved: Clients per second whose check-ins were answered.
      lateness: Seconds from when a client was due to its check-in.
      answered: Seconds from when a client was due to the response to its check-in.
      backlog: Most clients that were due and not answered yet.
    """

    offered: Optional[float]
    achieved: Optional[float]
    lateness: Histogram
    answered: Histogram
    backlog: int

    @property
    def kept_up(self) -> Optional[bool]:
        """True if clients were on time and answered at the offered rate; None without a rate."""
        if self.offered is None or self.achieved is None:
            return None
        return self.in_time and self.achieved >= _MIN_RATE * self.offered

    @property
    def in_time(self) -> bool:
        """True if clients were on time."""
        return self.lateness.quantile(0.99) <= _MAX_LATENESS

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON-compatible data."""
        return {
            "offered_per_second": self.offered,
            "achieved_per_second": self.achieved,
            "lateness": self.lateness.to_dict(),
            "answered": self.answered.to_dict(),
            "largest_backlog": self.backlog,
            "kept_up": self.kept_up,
        }


class ArrivalRecorder:
    """Recorder of the arrivals of all rounds. Not thread-safe."""

    def __init__(self) -> None:
        self._lateness = Histogram()
        self._answered = Histogram()
        self._backlog = 0
        self._due: Iterator[float] = iter(())
        self._next: Optional[float] = None
        self._waiting = 0
        self._rounds: list[_Span] = []

    def begin(self, due: Iterator[float]) -> None:
        """Starts a round whose clients are due at these times (POSIX seconds, ascending)."""
        self._due = due
        self._next = next(due, None)
        self._waiting = 0
        self._rounds.append(_Span())

    def sent(self, due: float, now: float) -> None:
        """Records that a client that was due at `due` sends its check-in at `now`."""
        while self._next is not None and self._next <= now:
            self._waiting += 1
            self._next = next(self._due, None)
        self._backlog = max(self._backlog, self._waiting)
        self._lateness.add(max(0.0, now - due))

    def answered(self, due: float, now: float) -> None:
        """Records that a client that was due at `due` has its response at `now`."""
        self._waiting -= 1
        self._answered.add(max(0.0, now - due))
        self._rounds[-1].add(due, now)

    def result(self) -> Arrivals:
        """Returns the arrivals of all rounds so far."""
        intervals = sum(span.count - 1 for span in self._rounds)
        due = sum(span.due[1] - span.due[0] for span in self._rounds)
        answered = sum(span.answered[1] - span.answered[0] for span in self._rounds)
        has_rate = intervals >= _MIN_INTERVALS and due > 0
        return Arrivals(
            intervals / due if has_rate else None,
            intervals / answered if has_rate and answered > 0 else None,
            self._lateness,
            self._answered,
            self._backlog,
        )


class _Span:
    """Time from the first client of a round to the last one, as due and as answered."""

    def __init__(self) -> None:
        self.count = 0
        self.due = self.answered = (0.0, 0.0)  # POSIX seconds

    def add(self, due: float, now: float) -> None:
        if not self.count:
            self.due, self.answered = (due, due), (now, now)
        self.due = min(self.due[0], due), max(self.due[1], due)
        self.answered = min(self.answered[0], now), max(self.answered[1], now)
        self.count += 1
