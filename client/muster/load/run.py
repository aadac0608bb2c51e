"""A load of synthetic clients on the real HTTP application: how many it serves, where the time goes, and whether the sum is exact.

Nobody trains: every client uploads the same update of ones, so the exact sum of a round is known by how many it counted. In this
process nothing waits for real (the clock is put forward), so a load of hours takes as long as its work does.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Callable, Optional

from muster.client import UnreachableError
from muster.load.arrivals import Arriving
from muster.load.clients import Clients
from muster.load.known_sum import KnownSum, ones
from muster.load.processes import Use
from muster.load.result import LoadResult, LoadRound
from muster.load.rounds import Rounds
from muster.load.served import Access, Served
from muster.load.shape import LoadShape
from muster.load.steps import LoadError, Steps
from muster.load.targets import Target, in_process
from muster.load.times import Histogram, Times
from muster.operator import Operator
from muster.wire.enrolment import Enrolment, PrivateKey
from muster.wire.messages import TaskPolicy
from muster.wire.plan import Plan
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import encode

__all__ = ["Access", "LoadError", "LoadResult", "LoadRound", "LoadShape", "ones", "run_load"]

_ENROLLED = 86400.0  # seconds


def run_load(
    shape: LoadShape,
    *,
    plan: Optional[Plan] = None,
    url: Optional[str] = None,
    access: Optional[Access] = None,
    served: bool = False,
    workers: Optional[int] = None,
    task: Optional[str] = None,
    progress: Callable[[int, int], None] = lambda _round, _clients: None,
    stage: Callable[[str], None] = lambda _stage: None,
) -> LoadResult:
    """Puts a load on a coordinator.

    Args:
      shape: The load.
      plan: The plan; None: a small one that sums ten integers.
      url: A deployment's address; the task that is made there stays, and is over.
      access: What that deployment asks for, or by its settings in the environment a coordinator of its own.
      served: Whether a coordinator of its own is started, with processes and sockets. Neither: the application in this process.
      workers: Of that coordinator: its web processes; None: one for each core.
      task: The task's name, and its population's; None: at a deployment one that nobody else has, else `load`.
      progress: Is told the number of the round, from 1, and how many of its clients are done.
      stage: Is told what begins.

    Raises:
      LoadError: a request was refused, or the load can't go on.
      ProblemError: the coordinator refused the task or its plan, or the policy is none.
      UnreachableError: the coordinator can't be reached.
    """
    policy, given = shape.policy(), access or Access()
    times = Times(cpu=url is None and not served)
    with ExitStack() as stack:
        target: Target
        if url is not None:
            target = Served(url, threads=max(2, shape.lanes), access=given)
            name = task or time.strftime("load-%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(2)
        else:
            name = task or "load"
            stage("starting a coordinator")
            if served:
                from muster.local.coordinator import LocalCoordinator

                folder = stack.enter_context(TemporaryDirectory(prefix="muster-load-"))
                own = stack.enter_context(LocalCoordinator(Path(folder), workers=workers or os.cpu_count() or 1))
                target = Served(own.url, threads=max(2, shape.lanes), access=given, pids=own.pids)
            else:
                target = stack.enter_context(in_process(times))
        operator = stack.enter_context(Operator(target.operator()))
        load = _Load(target, operator, shape, policy, plan, times=times, task=name, access=given)
        return load.run(progress, stage)


class _Load:
    def __init__(
        self,
        target: Target,
        operator: Operator,
        shape: LoadShape,
        policy: TaskPolicy,
        plan: Optional[Plan],
        *,
        times: Times,
        task: str,
        access: Access,
    ) -> None:
        from muster.smoke import smoke_plan

        self._target = target
        self._operator = operator
        self._shape = shape
        self._policy = policy
        self._plan = plan or smoke_plan()
        self._times = times
        self._task = task
        self._access = access
        self._sum = KnownSum(target, operator, self._plan, known=plan is None)
        self._rounds = Rounds(target, operator, task, known=self._sum, patient=shape.round_seconds)

    def run(self, progress: Callable[[int, int], None], stage: Callable[[str], None]) -> LoadResult:
        operator = self._operator
        if any(view.spec.name == self._task for view in operator.tasks().tasks):
            raise LoadError(f"There is a task {self._task} already; give another --task")
        signing = self._access.signing_key
        plan = self._plan if signing is None else self._plan.signed(signing)
        stage("opening the task")
        try:
            operator.create_task(self._task, population=self._task, plan=plan, policy=self._policy)
            self._rounds.opened()
            self._times.clear()  # loading TensorFlow is no round's
            return self._play(progress, stage)
        except ProblemError as problem:
            if problem.type is ProblemType.PLAN_INVALID and signing is None:
                raise LoadError(f"{problem.detail}; or give --key") from problem
            raise
        finally:
            if self._target.remote:
                # Completed it is over already.
                with contextlib.suppress(ProblemError, UnreachableError):
                    operator.cancel(self._task)

    def _play(self, progress: Callable[[int, int], None], stage: Callable[[str], None]) -> LoadResult:
        shape, target = self._shape, self._target
        arriving, outcomes, waits = Arriving(), Counter[str](), Histogram()
        key = self._access.enrolment_key
        steps = Steps(
            target,
            shape,
            update=self._sum.update,
            encoded=encode(self._sum.update),
            population=self._task,
            token_of=None if key is None else _enrolling(key, self._task),
            times=self._times,
        )
        rounds: list[LoadRound] = []
        came = 0
        before, start, cpu = target.used(), time.perf_counter(), time.process_time()
        for number in range(1, shape.rounds + 1):
            view = self._rounds.begin()
            stage(f"round {number} of {shape.rounds}")
            clients = Clients(
                target,
                shape,
                steps,
                arriving=arriving,
                over=self._rounds.is_over,
                progress=lambda done, number=number: progress(number, done),  # type: ignore[misc]
            )
            clients.play(number, round_=view.round)
            stage(f"waiting for the end of round {number}")
            rounds.append(self._rounds.end(clients.tally))
            outcomes.update(clients.tally.outcomes)
            waits.merge(clients.tally.waits)
            came += clients.came
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        none = Use(0.0, 0, 0)
        return LoadResult(
            shape,
            wall,
            target.threads,
            cpu,
            came,
            tuple(rounds),
            tuple(self._times.phases()),
            waits,
            outcomes,
            arriving.result() if shape.arrivals else None,
            {name: use.since(before.get(name, none)) for name, use in target.used().items()},
        )


def _enrolling(key: PrivateKey, population: str) -> Callable[[str], str]:
    def token_of(client: str) -> str:
        now = time.time()
        return key.issue(Enrolment(population, client, issued_at=now, expires_at=now + _ENROLLED))

    return token_of
