"""The result of a load, and the capacity that follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from muster.load.arrivals import Arrivals
from muster.load.shape import LoadShape
from muster.load.targets import Use
from muster.load.times import Histogram, Phase

_HOUR = 3600.0  # seconds
_SATURATED = 0.9  # fraction of a core, or of the lanes, above which that is the limit


@dataclass(frozen=True)
class LoadRound:
    """An attempt at a round.

    Attributes:
      number: Number of the round.
      attempt: Number of the attempt at this round, from 1.
      committed: True if it was committed; else it was abandoned.
      goal: Updates that close it.
      accepted: Updates that were acknowledged as accepted.
      folded: Updates that were counted.
      lost: Updates that were accepted and not counted, although the round closed before its
        deadline.
      seconds: Seconds from its first check-in to its end.
      commit: Seconds from the last accepted upload to its end; None if there was no upload.
      within: Uncertainty of `seconds` and `commit`, in seconds: they may be too long by the time
        between two polls, if the coordinator has another clock.
      exact: True if the sum is that of `folded` updates; None if the sum is out of reach.
      reason: Why the round was abandoned.
    """

    number: int
    attempt: int
    committed: bool
    goal: int
    accepted: int
    folded: int
    lost: int
    seconds: float
    commit: Optional[float]
    within: float
    exact: Optional[bool]
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON-compatible data."""
        return dict(vars(self))


@dataclass(frozen=True)
class LoadResult:
    """The result of a load.

    Attributes:
      shape: The load.
      wall: Seconds, without the start.
      lanes: Most requests at once.
      cpu: CPU seconds of this process, including the coordinator's if that runs in it.
      checked_in: Clients that checked in, over all rounds.
      rounds: The attempts at rounds.
      phases: Requests, and queued work if the coordinator runs in this process, by kind.
      waits: Seconds for which clients had to wait.
      outcomes: Number of clients or tries, by outcome.
      arrivals: Arrivals in open loop; None in closed loop.
      processes: Usage of the coordinator's processes, by role; empty if it runs in this process.
      unmeasured: Why `processes` is empty although the coordinator's processes run here.
    """

    shape: LoadShape
    wall: float
    lanes: int
    cpu: float
    checked_in: int
    rounds: tuple[LoadRound, ...]
    phases: tuple[Phase, ...]
    waits: Histogram
    outcomes: Mapping[str, int]
    arrivals: Optional[Arrivals] = None
    processes: Mapping[str, Use] = field(default_factory=dict)
    unmeasured: str = ""

    @property
    def exact(self) -> Optional[bool]:
        """True if every sum is exact and no update was lost; None if no sum is in reach."""
        if self.folded > self.accepted or any(attempt.lost for attempt in self.rounds):
            return False
        known = [attempt.exact for attempt in self.rounds if attempt.exact is not None]
        return all(known) if known else None

    @property
    def folded(self) -> int:
        """Updates that were counted."""
        return sum(attempt.folded for attempt in self.rounds)

    @property
    def accepted(self) -> int:
        """Updates that were accepted."""
        return sum(attempt.accepted for attempt in self.rounds)

    @property
    def throughput(self) -> float:
        """Counted updates per second."""
        return self.folded / self.wall

    @property
    def server_cpu(self) -> Optional[float]:
        """CPU seconds of the coordinator; None if unknown."""
        if self.processes:
            return sum(use.cpu for use in self.processes.values())
        known = [phase.cpu for phase in self.phases if phase.cpu is not None]
        return sum(known) if known else None

    @property
    def capacity(self) -> Optional[Capacity]:
        """Capacity of one core of the coordinator; None if its CPU time is unknown."""
        cpu = self.server_cpu
        return (
            Capacity(cpu / self.checked_in, self.folded / cpu, _HOUR * self.checked_in / cpu)
            if cpu and self.checked_in
            else None
        )

    def moved(self) -> tuple[float, float]:
        """Returns bytes of bodies up and down per client; a plan is fetched once."""
        up, down = (sum(getattr(phase, way) for phase in self.phases) for way in ("up", "down"))
        clients = max(1, self.checked_in)
        return up / clients, down / clients

    @property
    def limit(self) -> str:
        """Parts that could not keep up with the clients; empty if all did."""
        if self.arrivals is None or self.arrivals.kept_up is not False:
            return ""
        if self.lanes == 1:
            return "the coordinator's code, on the one core that it has here"
        if self.arrivals.in_time:
            return "the coordinator: clients were on time, and it answered fewer than arrived"
        if self.cpu > _SATURATED * self.wall:
            used = self.cpu / self.wall
            return f"this process, which used {used:.0%} of a core: run it on one or more separate machines"
        if sum(phase.total for phase in self.phases) > _SATURATED * self.lanes * self.wall:
            return f"the coordinator, which kept all {self.lanes} requests waiting (--concurrency allows more)"
        return "the machine or the coordinator"

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON-compatible data."""
        capacity, (up, down) = self.capacity, self.moved()
        return {
            "clients": self.shape.clients,
            "came": self.checked_in,  # prose: name in JSON output
            "goal": self.rounds[0].goal if self.rounds else None,
            "wall_seconds": self.wall,
            "cpu_seconds": self.cpu,
            "ms_for_a_client": 1000 * self.wall / max(1, self.checked_in),
            "updates_per_second": self.throughput,
            "exact": self.exact,
            "bytes_up_for_a_client": up,
            "bytes_down_for_a_client": down,
            "server_cpu_seconds": self.server_cpu,
            "capacity": None if capacity is None else capacity.to_dict(),
            "processes": {name: use.to_dict() for name, use in self.processes.items()},
            "arrivals": None if self.arrivals is None else {**self.arrivals.to_dict(), "limit": self.limit},
            "rounds": [attempt.to_dict() for attempt in self.rounds],
            "phases": [phase.to_dict() for phase in self.phases],
            "waits": self.waits.to_dict(),
            "outcomes": dict(self.outcomes),
        }


@dataclass(frozen=True)
class Capacity:
    """Capacity of one core of the coordinator.

    Attributes:
      seconds: CPU seconds per client and round.
      updates: Counted updates per second.
      clients: Clients per hour.
    """

    seconds: float
    updates: float
    clients: float

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON-compatible data."""
        return {
            "server_cpu_ms_for_a_client": 1000 * self.seconds,
            "updates_per_second_and_core": self.updates,
            "clients_per_hour_and_core": self.clients,
        }
