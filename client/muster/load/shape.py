"""What a load looks like: how many clients, when they come, which of them vanish or are late, and what a round asks of them."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from muster.wire.messages import TaskPolicy

_MINUTE, _DAY = 60.0, 86400.0  # seconds
_LONGEST_ROUND = 30 * _DAY  # seconds, the policy's own limit
_CAP = 10.0  # the policy's own limit of over-selection
_OPEN_LANES = 256  # requests at once in open loop, where a client that comes should not wait for others' answers
_CLOSED_LANES = 32
ARRIVALS = ("uniform", "poisson", "burst", "file")


@dataclass(frozen=True)
class LoadShape:
    """A load.

    Attributes:
      clients: Clients of every round.
      rounds: Rounds; one that is abandoned counts.
      concurrency: Closed loop: so many clients are at it at a time, and the next one comes when one is done; None: 32. Open loop, over
        sockets: the most requests at a time; None: 256.
      arrivals: Open loop: how they come, whatever becomes of them: `uniform`, `poisson`, `burst` (all at once) or `file`. None: closed
        loop.
      rate: Open loop: clients a second. None: all of them within a minute.
      file: For `file`: a time in seconds from the round's opening in each line, in any order.
      dropout: The part of clients that vanish after their check-in, with its slot.
      stragglers: The part of clients whose work takes `straggle` times as long; those that come after their assignment has run out
        check in again.
      straggle: See `stragglers`.
      work: Seconds from an assignment to its upload.
      assignment_seconds: How long an assignment is good for.
      goal: Updates that close a round. None: those of all clients that do not vanish.
      over_selection: Slots for each update of the goal. None: one for each client without a `goal`, else 1.
      minimum: Updates below which a round is abandoned at its deadline.
      round_seconds: From a round's opening to its deadline. None: so long that nobody comes too late.
      seed: Of arrivals and of who straggles.
    """

    clients: int
    rounds: int = 1
    concurrency: Optional[int] = None
    arrivals: Optional[str] = None
    rate: Optional[float] = None
    file: Optional[Path] = None
    dropout: float = 0.0
    stragglers: float = 0.0
    straggle: float = 1.0
    work: float = 0.0
    assignment_seconds: float = 300.0
    goal: Optional[int] = None
    over_selection: Optional[float] = None
    minimum: int = 1
    round_seconds: Optional[float] = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.clients < 1 or self.rounds < 1 or (self.concurrency is not None and self.concurrency < 1):
            raise ValueError("There must be at least one client, one round, and one client at a time")
        self._check_arrivals()
        if not (0 <= self.dropout < 1 and 0 <= self.stragglers <= 1 and self.straggle >= 0):
            raise ValueError("The part of clients that drop out is from 0 to below 1, that of stragglers from 0 to 1")
        if self.survivors < 1:
            raise ValueError("Every client drops out; give more clients, or a smaller part")
        if self.goal is None and self.clients / self.survivors > _CAP:
            raise ValueError(
                f"{self.dropout:.0%} drop out, and a round has at most {_CAP:g} slots for each update of its goal: give a smaller "
                "part, or a goal"
            )
        if self.goal is not None and self.goal > self.survivors and self.round_seconds is None:
            raise ValueError(
                f"Of {self.clients} clients {self.survivors} do not drop out, so that no round reaches a goal of {self.goal}: give a "
                "smaller one, or after how many seconds a round closes"
            )

    def _check_arrivals(self) -> None:
        if self.arrivals is not None and self.arrivals not in ARRIVALS:
            raise ValueError(f"Arrivals are {', '.join(ARRIVALS)}, not {self.arrivals!r}")
        if (self.file is None) == (self.arrivals == "file"):
            raise ValueError("The arrivals `file` and the file of times go together: give both, or neither")
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise ValueError("The rate must be above 0 clients a second")
        if self.rate is not None and self.arrivals not in ("uniform", "poisson"):
            raise ValueError("A rate is for arrivals that are uniform or poisson: all at once, or by a file, have none")
        if self.last_arrival > _LONGEST_ROUND:
            raise ValueError(
                f"The last client would come {self.last_arrival / _DAY:.0f} days after its round's opening; a round lasts 30 at most"
            )

    @property
    def lanes(self) -> int:
        """How many requests may be under way at once."""
        if self.concurrency is not None:
            return self.concurrency
        return _CLOSED_LANES if self.arrivals is None else min(_OPEN_LANES, self.clients)

    @property
    def survivors(self) -> int:
        """Clients that do not vanish."""
        return self.clients - int(self.clients * self.dropout)

    @property
    def last_arrival(self) -> float:
        """When a round's last client comes, or by chance is expected, in seconds from the opening."""
        if self.arrivals in (None, "burst"):
            return 0.0
        return (self.clients - 1) / self._rate if self.file is None else max(self.times(1))

    @property
    def _rate(self) -> float:
        return self.rate or max(self.clients / _MINUTE, 1.0)

    def policy(self) -> TaskPolicy:
        """The task's.

        Raises:
          ProblemError: a field is not what a policy may have; it names the field.
        """
        goal = self.survivors if self.goal is None else self.goal
        over = self.over_selection
        if over is None:
            over = self.clients / goal if self.goal is None else 1.0
        fields: dict[str, Any] = {
            "rounds": self.rounds,
            "goal": goal,
            "minimum": self.minimum,
            "over_selection": over,
            "round_seconds": self._round_seconds() if self.round_seconds is None else self.round_seconds,
            "assignment_seconds": self.assignment_seconds,
        }
        return TaskPolicy.from_dict(fields)

    def _round_seconds(self) -> float:
        """Enough for the last client, even where each needs a second assignment; chance may bring a later round's somewhat later."""
        waves = math.ceil(self.clients / self.lanes) if self.arrivals is None else 1
        slowest = self.work * max(1.0, self.straggle if self.stragglers else 1.0)
        needed = 2 * self.last_arrival + 2 * waves * (slowest + self.work) + 2 * self.assignment_seconds
        return min(max(needed, _DAY), _LONGEST_ROUND)

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
        rate = self._rate
        if self.arrivals == "uniform":
            return (client / rate for client in range(self.clients))
        randomness = random.Random(f"{self.seed} arrivals {number}")  # noqa: S311
        return itertools.accumulate(randomness.expovariate(rate) for _ in range(self.clients))


def _times_of(file: Path, clients: int) -> list[float]:
    try:
        times = sorted(float(line) for line in file.read_text().split())
    except ValueError as error:
        raise ValueError(f"{file} must have a time in seconds in each line: {error}") from error
    if len(times) < clients:
        raise ValueError(f"{file} has {len(times)} times, for {clients} clients; give --clients {len(times)}")
    if not all(0 <= time < math.inf for time in times):
        raise ValueError(f"{file} must have times from 0 on, in seconds from a round's opening")
    return times[:clients]
