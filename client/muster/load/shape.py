"""The shape of a load: number, arrivals and behavior of clients, and the policy of its rounds."""

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
_MAX_ROUND = 30 * _DAY  # seconds, a policy's limit
_MAX_OVER_SELECTION = 10.0  # a policy's limit
_OPEN_LANES = 256  # many, as a client that arrives should not wait for responses to others
_CLOSED_LANES = 32
ARRIVALS = ("uniform", "poisson", "burst", "file")


@dataclass(frozen=True)
class LoadShape:
    """A load.

    Attributes:
      clients: Clients of every round.
      rounds: Rounds; one that is abandoned counts.
      concurrency: Closed loop: clients at once; the next one arrives when one is done; None: 32.
        Open loop, over sockets: most requests at once; None: 256.
      arrivals: Open loop: the schedule of arrivals: `uniform`, `poisson`, `burst` (all at once) or
        `file`. None: closed loop.
      rate: Open loop: clients per second. None: all of them within a minute.
      file: For `file`: a time in seconds from the round's opening in each line, in any order.
      dropout: Fraction of clients that vanish after their check-in, and occupy a slot.
      stragglers: Fraction of clients whose work takes `straggle` times as long. A client whose
        assignment has expired meanwhile checks in again.
      straggle: See `stragglers`.
      work: Seconds from an assignment to its upload.
      assignment_seconds: Seconds for which an assignment is valid.
      goal: Updates that close a round. None: those of all clients that do not vanish.
      over_selection: Slots per update of the goal. None: 1; without a `goal`, one per client.
      minimum: Updates below which a round is abandoned at its deadline.
      round_seconds: Seconds from a round's opening to its deadline. None: enough for all clients.
      seed: Seed of arrivals and of who straggles.
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
            raise ValueError("There must be at least one client, one round, and one client at once")
        self._check_arrivals()
        if not (0 <= self.dropout < 1 and 0 <= self.stragglers <= 1 and self.straggle >= 0):
            raise ValueError(
                "The fraction of clients that drop out is from 0 to below 1, that of stragglers from 0 to 1"
            )
        if self.survivors < 1:
            raise ValueError("Every client drops out; give more clients, or a smaller fraction")
        if self.goal is None and self.clients / self.survivors > _MAX_OVER_SELECTION:
            raise ValueError(
                f"{self.dropout:.0%} drop out, and a round has at most {_MAX_OVER_SELECTION:g} slots per update of "
                "its goal: give a smaller fraction, or a goal"
            )
        if self.goal is not None and self.goal > self.survivors and self.round_seconds is None:
            raise ValueError(
                f"Of {self.clients} clients {self.survivors} do not drop out, so no round reaches a goal of "
                f"{self.goal}: give a smaller one, or after how many seconds a round closes"
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
        if self.last_arrival > _MAX_ROUND:
            raise ValueError(
                f"The last client would arrive {self.last_arrival / _DAY:.0f} days after its round's opening; "
                "a round lasts 30 at most"
            )

    @property
    def lanes(self) -> int:
        """Most requests at once."""
        if self.concurrency is not None:
            return self.concurrency
        return _CLOSED_LANES if self.arrivals is None else min(_OPEN_LANES, self.clients)

    @property
    def survivors(self) -> int:
        """Clients that do not vanish."""
        return self.clients - int(self.clients * self.dropout)

    @property
    def last_arrival(self) -> float:
        """Seconds from a round's opening to its last client's arrival, or the expected one."""
        if self.arrivals in (None, "burst"):
            return 0.0
        return (self.clients - 1) / self._rate if self.file is None else max(self.times(1))

    @property
    def _rate(self) -> float:
        return self.rate or max(self.clients / _MINUTE, 1.0)

    def policy(self) -> TaskPolicy:
        """Returns the policy of the load's task.

        Raises:
          ProblemError: A field is not valid for a policy; it names the field.
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
        """Returns seconds that suffice even if every client needs a second assignment."""
        waves = math.ceil(self.clients / self.lanes) if self.arrivals is None else 1
        slowest = self.work * max(1.0, self.straggle if self.stragglers else 1.0)
        needed = 2 * self.last_arrival + 2 * waves * (slowest + self.work) + 2 * self.assignment_seconds
        return min(max(needed, _DAY), _MAX_ROUND)

    def drops(self, client: int) -> bool:
        """Returns whether a client vanishes; they are evenly spread."""
        return int((client + 1) * self.dropout) > int(client * self.dropout)

    def seconds_of_work(self, client: int, *, attempt: int) -> float:
        """Returns seconds of work of a try (from 0). A straggler is slow once."""
        if attempt or not self.stragglers:
            return self.work
        slow = random.Random(f"{self.seed} {client}").random() < self.stragglers  # noqa: S311
        return self.work * self.straggle if slow else self.work

    def times(self, number: int) -> Iterator[float]:
        """Returns the clients' arrivals, in seconds from the `number`-th round's opening.

        Raises:
          ValueError: The file has fewer times than there are clients, or an invalid one.
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
