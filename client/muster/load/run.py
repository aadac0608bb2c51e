"""Puts synthetic clients on a coordinator, measures it, and checks the sum of every round.

No client trains: each uploads the same update of ones, so the exact sum of a round follows from how
many updates it counted. In this process idle time is skipped, so a load of hours takes as long as
its work.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Callable, Optional

from muster.client import UnreachableError
from muster.load.arrivals import ArrivalRecorder
from muster.load.clients import Contribution, RoundClients
from muster.load.loop import LoadError, LoadLoop, run_beside
from muster.load.result import LoadResult, LoadRound
from muster.load.rounds import KnownSum, Rounds, ones
from muster.load.served import Access, Served
from muster.load.shape import LoadShape
from muster.load.targets import Target, Use, in_process
from muster.load.times import Histogram, Times
from muster.operator import Operator
from muster.wire.enrolment import Enrolment, PrivateKey
from muster.wire.plan import Plan
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import encode

__all__ = ["Access", "LoadError", "LoadResult", "LoadRound", "LoadShape", "ones", "run_load"]

_ENROLLED = 86400.0  # seconds for which an enrolment token is valid
_NOTHING = Use(0.0, 0, 0)


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
    """Puts a load on a coordinator: at `url`, newly started (`served`), or in this process.

    Args:
      shape: The load.
      plan: The plan; None: a small one that sums ten integers.
      url: A deployment's URL. The load's task stays there, and is over.
      access: What that deployment requires; or, by its settings in the environment, a new
        coordinator.
      served: True to start a new coordinator with its own processes and sockets.
      workers: Web processes of the new coordinator; None: one for each core.
      task: Name of the task and of its population; None: a unique one at a deployment, else `load`.
      progress: Called with the round's number in the load, from 1, and how many of its clients are
        done.
      stage: Called with the name of each stage of the load.

    Raises:
      LoadError: A request was refused, or the load can't continue.
      ProblemError: The policy is not valid, or the coordinator refused the task or its plan.
      UnreachableError: The coordinator can't be reached.
    """
    from muster.smoke import smoke_plan

    shape.policy()  # fails before a coordinator is started
    access = access or Access()
    remote, in_this_process = url is not None, url is None and not served
    times = Times(cpu=in_this_process)
    loop = LoadLoop(skip_idle=in_this_process)
    if task is None:
        task = time.strftime("load-%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(2) if remote else "load"
    with ExitStack() as stack:
        stack.callback(loop.close)
        target: Target
        if in_this_process:
            stage("starting a coordinator")
            target = stack.enter_context(in_process(loop, times))
        else:
            pids = None
            if url is None:
                from muster.local.coordinator import LocalCoordinator

                stage("starting a coordinator")
                folder = Path(stack.enter_context(TemporaryDirectory(prefix="muster-load-")))
                coordinator = LocalCoordinator(folder, workers=workers or os.cpu_count() or 1)
                stack.enter_context(coordinator)
                url, pids = coordinator.url, coordinator.pids
            served_target = Served(url, lanes=max(2, shape.lanes), access=access, pids=pids)
            target = stack.enter_context(closing(served_target))
        operator = stack.enter_context(Operator(target.operator()))
        known_sum = KnownSum(target, operator, plan or smoke_plan(), result_is_sum=plan is None)
        rounds = Rounds(target, operator, task, known_sum=known_sum, round_seconds=shape.round_seconds, now=loop.time)
        load = _Load(target, operator, shape, known_sum, rounds, times, task, access)
        return loop.run(run_beside(target.work(), load.run(progress, stage)))


@dataclass
class _Load:
    """One load: its task, its rounds, and what is measured."""

    target: Target
    operator: Operator
    shape: LoadShape
    known_sum: KnownSum
    rounds: Rounds
    times: Times
    task: str
    access: Access

    async def run(self, progress: Callable[[int, int], None], stage: Callable[[str], None]) -> LoadResult:
        operator = self.operator
        if any(view.spec.name == self.task for view in operator.tasks().tasks):
            raise LoadError(f"There is a task {self.task} already; give another --task")
        signing_key = self.access.signing_key
        plan = self.known_sum.plan
        if signing_key is not None:
            plan = plan.signed(signing_key)
        stage("opening the task")
        try:
            operator.create_task(self.task, population=self.task, plan=plan, policy=self.shape.policy())
            await self.rounds.opened()
            self.times.clear()  # without the time of loading TensorFlow
            return await self._measure(progress, stage)
        except ProblemError as problem:
            if problem.type is ProblemType.PLAN_INVALID and signing_key is None:
                raise LoadError(f"{problem.detail}; or give --key") from problem
            raise
        finally:
            if self.target.remote:
                # A completed task can't be cancelled, and need not be.
                with suppress(ProblemError, UnreachableError):
                    operator.cancel(self.task)

    async def _measure(self, progress: Callable[[int, int], None], stage: Callable[[str], None]) -> LoadResult:
        shape, target = self.shape, self.target
        recorder = None if shape.arrivals is None else ArrivalRecorder()
        outcomes, waits = Counter[str](), Histogram()
        rounds: list[LoadRound] = []
        checked_in = 0
        plans: set[str] = set()
        contribution = self._contribution()
        usage, start, cpu = target.used(), time.perf_counter(), time.process_time()
        for number in range(1, shape.rounds + 1):
            view = await self.rounds.begin()
            stage(f"round {number} of {shape.rounds}")
            clients = RoundClients(
                target, shape, contribution, number, view.round, self.times, recorder=recorder, plans=plans
            )
            await clients.run(is_over=self.rounds.is_over, progress=partial(progress, number))
            stage(f"waiting for the end of round {number}")
            rounds.append(await self.rounds.end(clients.tally))
            outcomes.update(clients.tally.outcomes)
            waits.merge(clients.tally.waits)
            checked_in += clients.tally.checked_in
        return LoadResult(
            shape=shape,
            wall=time.perf_counter() - start,
            lanes=target.lanes,
            cpu=time.process_time() - cpu,
            checked_in=checked_in,
            rounds=tuple(rounds),
            phases=tuple(self.times.phases()),
            waits=waits,
            outcomes=outcomes,
            arrivals=None if recorder is None else recorder.result(),
            processes={role: use.since(usage.get(role, _NOTHING)) for role, use in target.used().items()},
            unmeasured=target.unmeasured,
        )

    def _contribution(self) -> Contribution:
        key, update = self.access.enrolment_key, self.known_sum.update
        token_of = None if key is None else partial(_enrolment_token, key, self.task)
        return Contribution(self.task, update, encode(update), token_of)


def _enrolment_token(key: PrivateKey, population: str, client: str) -> str:
    now = time.time()
    return key.issue(Enrolment(population, client, issued_at=now, expires_at=now + _ENROLLED))
