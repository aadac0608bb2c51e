"""What a load came to, and what that says of the capacity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from muster.load.arrivals import Arrivals
from muster.load.targets import Use
from muster.load.shape import LoadShape
from muster.load.times import Histogram, Phase

_HOUR = 3600.0  # seconds
_BUSY = 0.9  # of a core, or of the requests that may be under way, above which that is the limit


@dataclass(frozen=True)
class LoadRound:
    """An attempt at a round.

    Attributes:
      number: The round's.
      attempt: Which one at this round, from 1.
      committed: Whether it was; else it was abandoned.
      goal: Updates that would have closed it.
      accepted: Updates whose clients were told that they are accepted.
      folded: Updates that were counted.
      lost: Updates that were accepted and should have been counted, as the round closed before its deadline, and were not.
      seconds: From its first check-in to its end.
      commit: From the last accepted upload to its end, in seconds; None: there was none.
      within: By how much `seconds` and `commit` may be too long, in seconds: the time between looks, where the coordinator has another
        clock.
      exact: Whether the sum is that of `folded` updates; None: it can't be seen there, or there is none.
      reason: Why it was abandoned.
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
        """As JSON-compatible data."""
        return dict(vars(self))


@dataclass(frozen=True)
class LoadResult:
    """What a load came to.

    Attributes:
      shape: The load.
      wall: Seconds, without the start.
      lanes: How many requests could be under way at once.
      cpu: Seconds that this process computed, the coordinator's included where it is in it.
      came: Clients that checked in, over all rounds: its client-rounds.
      rounds: The rounds.
      phases: Requests and work by kind, each without what is nested in it; only requests where the coordinator is elsewhere.
      waits: How long clients were told to wait.
      outcomes: What became of clients' tries.
      arrivals: How clients came; None in closed loop.
      processes: What the coordinator's processes used, by role; none where it is in this one, or can't be seen.
    """

    shape: LoadShape
    wall: float
    lanes: int
    cpu: float
    came: int
    rounds: tuple[LoadRound, ...]
    phases: tuple[Phase, ...]
    waits: Histogram
    outcomes: Mapping[str, int]
    arrivals: Optional[Arrivals] = None
    processes: Mapping[str, Use] = field(default_factory=dict)

    @property
    def exact(self) -> Optional[bool]:
        """Whether every sum was that of the updates that were counted, and all that should be were; None if no sum could be seen."""
        if self.folded > self.accepted or any(each.lost for each in self.rounds):
            return False
        seen = [each.exact for each in self.rounds if each.exact is not None]
        return all(seen) if seen else None

    @property
    def folded(self) -> int:
        """Updates that were counted."""
        return sum(each.folded for each in self.rounds)

    @property
    def accepted(self) -> int:
        """Updates that were accepted."""
        return sum(each.accepted for each in self.rounds)

    @property
    def throughput(self) -> float:
        """Updates that were folded, for each second."""
        return self.folded / self.wall

    @property
    def server_cpu(self) -> Optional[float]:
        """Seconds that the coordinator computed; None where it can't be seen."""
        if self.processes:
            return sum(use.cpu for use in self.processes.values())
        seen = [phase.cpu for phase in self.phases if phase.cpu is not None]
        return sum(seen) if seen else None

    @property
    def capacity(self) -> Optional[Capacity]:
        """What one core of the coordinator serves; None where it can't be seen, or nobody came."""
        cpu = self.server_cpu
        return Capacity(cpu / self.came, self.folded / cpu, _HOUR * self.came / cpu) if cpu and self.came else None

    def moved(self) -> tuple[float, float]:
        """Bytes of bodies up and down for each client that came; a plan is fetched once, as by devices that keep it."""
        up, down = (sum(getattr(phase, way) for phase in self.phases) for way in ("up", "down"))
        came = max(1, self.came)
        return up / came, down / came

    @property
    def limit(self) -> str:
        """What could not keep up with the clients; empty, if nothing."""
        if self.arrivals is None or self.arrivals.kept_up is not False:
            return ""
        if self.lanes == 1:
            return "the coordinator's code, on the one core that it has here"
        if self.arrivals.in_time:
            return "the coordinator: clients came when they were due, and it answered fewer than came"
        if self.cpu > _BUSY * self.wall:
            return f"this process, which computed {self.cpu / self.wall:.0%} of a core: give it a machine of its own, or several"
        if sum(phase.total for phase in self.phases) > _BUSY * self.lanes * self.wall:
            return f"the coordinator, which kept all {self.lanes} requests waiting (--concurrency allows more)"
        return "the machine or the coordinator"

    def to_dict(self) -> dict[str, Any]:
        """As JSON-compatible data."""
        capacity, (up, down) = self.capacity, self.moved()
        return {
            "clients": self.shape.clients,
            "came": self.came,
            "goal": self.rounds[0].goal if self.rounds else None,
            "wall_seconds": self.wall,
            "cpu_seconds": self.cpu,
            "ms_for_a_client": 1000 * self.wall / max(1, self.came),
            "updates_per_second": self.throughput,
            "exact": self.exact,
            "bytes_up_for_a_client": up,
            "bytes_down_for_a_client": down,
            "server_cpu_seconds": self.server_cpu,
            "capacity": None if capacity is None else capacity.to_dict(),
            "processes": {name: use.to_dict() for name, use in self.processes.items()},
            "arrivals": None if self.arrivals is None else {**self.arrivals.to_dict(), "limit": self.limit},
            "rounds": [each.to_dict() for each in self.rounds],
            "phases": [phase.to_dict() for phase in self.phases],
            "waits": self.waits.to_dict(),
            "outcomes": dict(self.outcomes),
        }


@dataclass(frozen=True)
class Capacity:
    """What one core of the coordinator serves.

    Attributes:
      seconds: That it computes for a client in a round.
      updates: Counted, for each second that it computes.
      clients: That come, for each hour.
    """

    seconds: float
    updates: float
    clients: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON-compatible data."""
        return {
            "server_cpu_ms_for_a_client": 1000 * self.seconds,
            "updates_per_second_and_core": self.updates,
            "clients_per_hour_and_core": self.clients,
        }
