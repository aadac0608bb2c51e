"""What a load looks like: how many clients, when they come, which of them vanish or are late."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

_MINUTE = 60.0  # seconds, over which clients come where no rate is given
ARRIVALS = ("uniform", "poisson", "burst", "file")


@dataclass(frozen=True)
class LoadShape:
    """A load.

    Attributes:
      clients: Clients of every round.
      rounds: Rounds.
      concurrency: Closed loop: so many clients are at it at a time, and the next one comes when one is done.
      arrivals: Open loop: how they come, whatever becomes of them: `uniform`, `poisson`, `burst` (all at once) or `file`. None: closed
        loop.
      rate: Open loop: clients a second. None: all of them within a minute.
      file: For `file`: a time in seconds from the round's opening in each line, ascending.
      dropout: The part of clients that vanish after their check-in, with its slot.
      stragglers: The part of clients whose work takes `straggle` times as long; those that come after their assignment has run out
        check in again.
      work: Seconds from an assignment to its upload.
      assignment_seconds: How long an assignment is good for.
      seed: Of arrivals and of who straggles.
    """

    clients: int
    rounds: int = 1
    concurrency: int = 32
    arrivals: Optional[str] = None
    rate: Optional[float] = None
    file: Optional[Path] = None
    dropout: float = 0.0
    stragglers: float = 0.0
    straggle: float = 1.0
    work: float = 0.0
    assignment_seconds: float = 300.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.clients < 1 or self.rounds < 1 or self.concurrency < 1:
            raise ValueError("There must be at least one client, one round, and one client at a time")
        if self.arrivals is not None and self.arrivals not in ARRIVALS:
            raise ValueError(f"Arrivals are {', '.join(ARRIVALS)}, not {self.arrivals!r}")
        if (self.file is None) == (self.arrivals == "file"):
            raise ValueError("The arrivals `file` and the file of times go together: give both, or neither")
        if self.rate is not None and not self.rate > 0:
            raise ValueError("The rate must be above 0 clients a second")
        if not (0 <= self.dropout < 1 and 0 <= self.stragglers <= 1):
            raise ValueError("The part of clients that drop out is from 0 to below 1, that of stragglers from 0 to 1")
        if self.goal < 1:
            raise ValueError("Every client drops out; give more clients, or a smaller part")

    @property
    def goal(self) -> int:
        """Updates of a round: of all that do not drop out."""
        return sum(not self.drops(client) for client in range(self.clients))

    def drops(self, client: int) -> bool:
        """Whether a client vanishes: evenly spread, so that just this part of them does."""
        return int((client + 1) * self.dropout) > int(client * self.dropout)

    def seconds_of_work(self, client: int, *, attempt: int) -> float:
        """How long the client's `attempt`-th try (from 0) takes. A straggler is slow once."""
        if attempt or not self.stragglers:
            return self.work
        slow = random.Random(f"{self.seed} {client}").random() < self.stragglers  # noqa: S311
        return self.work * self.straggle if slow else self.work

    def times(self, number: int) -> Iterator[float]:
        """When the clients come, in seconds from the opening of the `number`-th round; in closed loop all at once.

        Raises:
          ValueError: the file has no time for every client, or one that is no number.
        """
        if self.arrivals in (None, "burst"):
            return itertools.repeat(0.0, self.clients)
        if self.file is not None:
            return iter(_times_of(self.file, self.clients))
        rate = self.rate or max(self.clients / _MINUTE, 1.0)
        if self.arrivals == "uniform":
            return (client / rate for client in range(self.clients))
        chance = random.Random(f"{self.seed} arrivals {number}")  # noqa: S311
        return itertools.accumulate(chance.expovariate(rate) for _ in range(self.clients))


def _times_of(file: Path, clients: int) -> list[float]:
    try:
        times = sorted(float(line) for line in file.read_text().split())
    except ValueError as error:
        raise ValueError(f"{file} must have a time in seconds in each line: {error}") from error
    if len(times) < clients:
        raise ValueError(f"{file} has {len(times)} times, for {clients} clients; give --clients {len(times)}")
    return times[:clients]
