"""A load of synthetic clients on the real HTTP application: how many it serves, where the time goes, and whether the sum is exact.

Nobody trains: every client uploads the same update of ones, so a round's exact sum is known. In this process nothing waits for real
(the clock is put forward), so a load of hours takes as long as its work does.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Callable, Optional

import numpy as np

from muster.operator import Operator
from muster.wire.dtypes import DType
from muster.wire.manifest import FoldKind
from muster.wire.messages import Phase as RoundPhase
from muster.wire.messages import RoundView, TaskPolicy, TaskStatus
from muster.wire.plan import Plan
from muster.wire.tensors import Array, encode

from .ended import EndedRounds
from .load_clients import Clients, LoadError
from .load_shape import LoadShape
from .load_targets import Served, Target, in_process
from .load_times import Phase, Times

_LOOK = 0.02  # seconds between looks at a round that is being committed elsewhere
_LONGEST = 86400.0  # seconds of a round, on the target's clock
_STALLED = 300.0  # seconds without a commit after the last upload
_CAP = 10.0  # the policy's own limit of over-selection


@dataclass(frozen=True)
class LoadRound:
    """A round. `seconds` from its first check-in to its commit and `commit` from the last upload to it, on the target's clock."""

    number: int
    folded: int
    seconds: float
    commit: float
    exact: Optional[bool]  # None: the sum can't be seen there


@dataclass(frozen=True)
class LoadResult:
    """What a load came to.

    Attributes:
      shape: The load.
      wall: Seconds, without the start.
      lanes: How many requests could be under way at once.
      cpu: Seconds that this process computed, the coordinator's included where it is in it.
      rounds: The rounds.
      phases: Requests and work by kind; only requests where the coordinator is elsewhere.
      waits: How long clients were told to wait.
      outcomes: What became of clients' tries.
    """

    shape: LoadShape
    wall: float
    lanes: int
    cpu: float
    rounds: tuple[LoadRound, ...]
    phases: tuple[Phase, ...]
    waits: Phase
    outcomes: dict[str, int]

    @property
    def exact(self) -> Optional[bool]:
        """Whether every round's sum was; None if none could be seen."""
        seen = [each.exact for each in self.rounds if each.exact is not None]
        return all(seen) if seen else None

    @property
    def throughput(self) -> float:
        """Updates that were folded, for each second."""
        return sum(each.folded for each in self.rounds) / self.wall

    def to_dict(self) -> dict[str, Any]:
        """As JSON-compatible data."""
        return {
            "clients": self.shape.clients,
            "goal": self.shape.goal,
            "wall_seconds": self.wall,
            "cpu_seconds": self.cpu,
            "ms_for_a_client": 1000 * self.wall / (self.shape.clients * len(self.rounds)),
            "updates_per_second": self.throughput,
            "exact": self.exact,
            "rounds": [vars(each) for each in self.rounds],
            "phases": [each.to_dict() for each in self.phases],
            "waits": self.waits.to_dict(),
            "outcomes": self.outcomes,
        }


def run_load(
    shape: LoadShape,
    *,
    plan: Optional[Plan] = None,
    url: Optional[str] = None,
    served: bool = False,
    workers: Optional[int] = None,
    task: str = "load",
    progress: Callable[[int, int], None] = lambda _round, _clients: None,
) -> LoadResult:
    """Puts a load on a coordinator.

    Args:
      shape: The load.
      plan: The plan; None: a small one that sums ten integers.
      url: A deployment's address; the task that is made there stays.
      served: Whether a coordinator of its own is started, with processes and sockets. Neither: the application in this process.
      workers: Of that coordinator: its web processes; None: one for each core.
      task: The task's name, and its population's.
      progress: Is told the round's number and how many of its clients are done.

    Raises:
      LoadError: a request was refused, or a round did not commit.
      UnreachableError: the coordinator can't be reached.
    """
    from muster.smoke import smoke_plan

    loaded = plan or smoke_plan()
    times = Times()
    with ExitStack() as stack:
        target: Target
        if url is None and not served:
            target = stack.enter_context(in_process(times))
        else:
            if url is None:
                from muster.local import LocalCoordinator

                folder = stack.enter_context(TemporaryDirectory(prefix="muster-load-"))
                count = workers or os.cpu_count() or 1
                url = stack.enter_context(LocalCoordinator(Path(folder), workers=count)).url
            target = Served(url, threads=max(2, shape.concurrency))
        return _Load(target, shape, loaded, times=times, task=task, progress=progress).run()


class _Load:
    def __init__(
        self,
        target: Target,
        shape: LoadShape,
        plan: Plan,
        *,
        times: Times,
        task: str,
        progress: Callable[[int, int], None],
    ) -> None:
        self._target = target
        self._shape = shape
        self._plan = plan
        self._times = times
        self._task = task
        self._progress = progress
        self._update = ones(plan)

    def run(self) -> LoadResult:
        shape, target = self._shape, self._target
        operator = Operator(target.operator())
        over = shape.clients / shape.goal
        if over > _CAP:
            raise LoadError(
                f"{shape.dropout:.0%} drop out; a round has at most {_CAP:g} slots for each update of its goal"
            )
        policy = TaskPolicy(
            rounds=shape.rounds,
            goal=shape.goal,
            minimum=1,
            over_selection=over,
            round_seconds=_LONGEST,
            assignment_seconds=shape.assignment_seconds,
        )
        operator.create_task(self._task, population=self._task, plan=self._plan, policy=policy)
        ended, rounds, seen = EndedRounds(operator, self._task), [], set[str]()
        outcomes: dict[str, int] = {}
        waits = Times()
        self._opened(operator, 1)
        self._times.clear()  # loading TensorFlow is no round's
        start, cpu = time.perf_counter(), time.process_time()
        for number in range(1, shape.rounds + 1):
            self._opened(operator, number)
            clients = Clients(
                target,
                shape,
                update=encode(self._update),
                population=self._task,
                times=self._times,
                seen=seen,
                progress=lambda done, number=number: self._progress(number, done),  # type: ignore[misc]
            )
            began = target.now()
            clients.play(number)
            view = self._committed(ended, number)
            at = view.ended_at.timestamp() if view.ended_at is not None else target.now()
            rounds.append(
                LoadRound(number, view.folded, at - began, at - clients.last_upload, self._exact(operator, view))
            )
            for name, count in clients.outcomes.items():
                outcomes[name] = outcomes.get(name, 0) + count
            waits.merge("waits", clients.waits)
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        told = waits.phases()
        none = Phase("waits", 0, 0.0, 0.0, 0.0, 0.0)
        return LoadResult(
            shape,
            wall,
            target.threads,
            cpu,
            tuple(rounds),
            tuple(self._times.phases()),
            told[0] if told else none,
            outcomes,
        )

    def _opened(self, operator: Operator, number: int) -> None:
        """Waits until the round is open."""

        def look() -> Optional[bool]:
            view = operator.task(self._task)
            if view.status not in (TaskStatus.OPENING, TaskStatus.ACTIVE):
                raise LoadError(f"The task is {view.status.value}: {view.note or 'it has no more rounds'}")
            now = view.current
            return True if now is not None and now.round >= number and now.phase is RoundPhase.COLLECTING else None

        self._until(look, f"Round {number} does not open")

    def _committed(self, ended: EndedRounds, number: int) -> RoundView:
        def look() -> Optional[RoundView]:
            for view in ended.fresh():
                if view.phase is RoundPhase.ABANDONED:
                    raise LoadError(f"Round {view.round} was abandoned: {view.reason}")
                return view
            return None

        view: RoundView = self._until(look, f"Round {number} does not commit, with all of its clients done")
        return view

    def _until(self, look: Callable[[], Any], what: str) -> Any:
        until = time.monotonic() + _STALLED
        while True:
            with self._times.phase("queue"):
                self._target.settle()
            found = look()
            if found is not None:
                return found
            if time.monotonic() > until:
                raise LoadError(f"{what}; `muster task show {self._task}` may say why")
            self._pause()

    def _pause(self) -> None:
        self._target.wait_until(self._target.now() + _LOOK, threading.Event())

    def _exact(self, operator: Operator, view: RoundView) -> Optional[bool]:
        """Whether the round's sum is that of as many updates as were asked for."""
        if view.folded != self._shape.goal:
            return False
        accumulators, manifest = self._target.accumulators, self._plan.manifest
        if accumulators is None:
            from muster.smoke import smoke_plan

            if self._plan.sha256 != smoke_plan().sha256:
                return None
            result = operator.result(self._task, view.round)
            return all(bool(np.all(value == view.folded)) for value in result.values())
        found = accumulators[-1]
        for rule in manifest.folds:
            one = self._update.get(rule.update or "")
            if rule.kind is FoldKind.TENSORFLOW or one is None:
                return None
            wanted = one * view.folded if rule.kind is FoldKind.SUM else one
            if rule.path in found and not np.array_equal(found[rule.path], wanted.astype(found[rule.path].dtype)):
                return False
        return True


def ones(plan: Plan) -> dict[str, Array]:
    """An update of ones that the plan takes; dimensions that it leaves open are 1, and strings empty."""
    update: dict[str, Array] = {}
    for spec in plan.manifest.update:
        shape = [1 if size is None else size for size in spec.shape or ()]
        if spec.dtype is DType.STRING:
            update[spec.path] = np.full(shape, b"", object)
        else:
            update[spec.path] = np.ones(shape, spec.dtype.numpy)
    return update
