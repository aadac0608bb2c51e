"""Follows a load's rounds as an operator does: their opening, their end and their sum."""

from __future__ import annotations

import time
from collections import Counter
from datetime import datetime
from typing import Callable, Optional, TypeVar

import numpy as np

from muster.load.clients import ACCEPTED, Tally
from muster.load.loop import LoadError
from muster.load.result import LoadRound
from muster.load.targets import Target
from muster.operator import EndedRounds, Operator
from muster.wire.dtypes import DType
from muster.wire.manifest import FoldKind
from muster.wire.messages import Phase, RoundView, TaskStatus, TaskView
from muster.wire.plan import Plan
from muster.wire.tensors import Array

_STALLED = 300.0  # seconds that overdue work may take
T = TypeVar("T")


def ones(plan: Plan) -> dict[str, Array]:
    """Returns an update of ones for a plan. Open dimensions are 1, and strings are empty."""
    update: dict[str, Array] = {}
    for spec in plan.manifest.update:
        shape = [1 if size is None else size for size in spec.shape or ()]
        if spec.dtype is DType.STRING:
            update[spec.path] = np.full(shape, b"", object)
        else:
            update[spec.path] = np.ones(shape, spec.dtype.numpy)
    return update


class KnownSum:
    """The expected sum of a round: every client uploads the same update of ones.

    Args:
      target: Provides the accumulator, where it is in reach.
      operator: Provides the result, where the accumulator is not.
      plan: The plan.
      result_is_sum: True if the plan's result is the sum itself.
    """

    def __init__(self, target: Target, operator: Operator, plan: Plan, *, result_is_sum: bool) -> None:
        self.update = ones(plan)
        self._target = target
        self._operator = operator
        self.plan = plan
        self._result_is_sum = result_is_sum

    def is_exact(self, view: RoundView) -> Optional[bool]:
        """Returns whether a committed round has the sum of what it counted; None if unknown."""
        accumulator = self._target.accumulator()
        if accumulator is None:
            if not self._result_is_sum:
                return None
            result = self._operator.result(view.task, view.round)
            return all(bool(np.all(value == view.folded)) for value in result.values())
        for rule in self.plan.manifest.folds:
            update = self.update.get(rule.update or "")
            if rule.kind is FoldKind.TENSORFLOW or update is None:
                return None
            expected = update * view.folded if rule.kind is FoldKind.SUM else update
            actual = accumulator.get(rule.path)
            if actual is not None and not np.array_equal(actual, expected.astype(actual.dtype)):
                return False
        return True


class Rounds:
    """The rounds of a load's task.

    Args:
      target: The coordinator.
      operator: An operator of it.
      task: The task's name.
      known_sum: The expected sum of a round.
      round_seconds: Seconds to a round's deadline, if the load should wait for it; None: it should
        not.
      now: Returns POSIX seconds of the load's clock.
    """

    def __init__(
        self,
        target: Target,
        operator: Operator,
        task: str,
        *,
        known_sum: KnownSum,
        round_seconds: Optional[float],
        now: Callable[[], float],
    ) -> None:
        self._target = target
        self._operator = operator
        self._task = task
        self._known_sum = known_sum
        self._round_seconds = round_seconds
        self._now = now
        self._ended_rounds = EndedRounds(operator, task, page=1)
        self._attempts: Counter[int] = Counter()  # by round
        self._current = (0, 0)  # round and epoch
        # POSIX seconds of the load's clock:
        self._began = 0.0
        self._last_open = 0.0  # when the round was last seen before its end
        self._first_ended: Optional[float] = None  # when it was first seen after its end
        self._stalled_at = 0.0
        self._deadline: Optional[datetime] = None  # by the coordinator's clock

    async def opened(self) -> RoundView:
        """Returns the next round once it is open. Raises `LoadError`."""

        def poll() -> Optional[RoundView]:
            view = self._active_task().current
            is_new = view is not None and (view.round, view.epoch) > self._current
            return view if view is not None and is_new and view.phase is Phase.COLLECTING else None

        return await self._poll_until(poll, "The next round does not open")

    async def begin(self) -> RoundView:
        """Returns the next round once it is open; it is the current one now. Raises `LoadError`."""
        view = await self.opened()
        self._current = view.round, view.epoch
        self._attempts[view.round] += 1
        self._began = self._last_open = self._now()
        self._first_ended = self._deadline = None
        return view

    def is_over(self) -> bool:
        """Returns whether the round takes no more updates. Raises `LoadError` if it is overdue."""
        view, now = self._active_task().current, self._now()
        if view is None:
            raise LoadError("The task has no round any more")
        if (view.round, view.epoch) == self._current and view.phase in (Phase.COLLECTING, Phase.AGGREGATING):
            self._last_open = now
            if view.phase is Phase.COLLECTING:
                self._check_deadline(view, now)
            return view.phase is Phase.AGGREGATING
        self._first_ended = self._first_ended or now
        return True

    async def end(self, tally: Tally) -> LoadRound:
        """Returns the current round once it is committed or abandoned. Raises `LoadError`."""

        def poll() -> Optional[RoundView]:
            for view in self._ended_rounds.poll():
                if (view.round, view.epoch) == self._current:
                    self._first_ended = self._first_ended or self._now()
                    return view
            self._last_open = self._now()
            self._check_reachable(tally)
            return None

        failure = f"Round {self._current[0]} does not end, with all of its clients done ({_text_of(tally)})"
        view = await self._poll_until(poll, failure, extra_seconds=self._round_seconds or 0.0)
        return self._result(view, tally)

    def _result(self, view: RoundView, tally: Tally) -> LoadRound:
        if self._target.same_clock and view.ended_at is not None:
            ended, within = view.ended_at.timestamp(), 0.0
        else:
            ended = self._first_ended or self._now()
            within = max(0.0, ended - max(self._last_open, tally.last_upload))
        accepted = tally.outcomes[ACCEPTED]
        committed = view.phase is Phase.COMMITTED
        closed_early = view.ended_at is not None and view.ended_at < view.deadline
        return LoadRound(
            number=view.round,
            attempt=self._attempts[view.round],
            committed=committed,
            goal=view.goal,
            accepted=accepted,
            folded=view.folded,
            lost=max(0, min(accepted, view.goal) - view.folded) if committed and closed_early else 0,
            seconds=ended - self._began,
            # A response takes time too, so the last upload may seem later than the end.
            commit=max(0.0, ended - tally.last_upload) if tally.last_upload else None,
            within=within,
            exact=self._known_sum.is_exact(view) if committed else None,
            reason=view.reason,
        )

    def _active_task(self) -> TaskView:
        view = self._operator.task(self._task)
        if view.status is TaskStatus.CANCELLED:
            raise LoadError("The task was cancelled by an operator")
        if view.status is TaskStatus.PAUSED:
            raise LoadError(f"The task was paused: {view.note or 'by an operator'}")
        return view

    def _check_deadline(self, view: RoundView, now: float) -> None:
        if view.deadline != self._deadline:  # moved, since no client had checked in
            self._deadline = view.deadline
            self._stalled_at = now + (view.deadline - view.opened_at).total_seconds() + _STALLED
        if now > self._stalled_at:
            raise LoadError(
                f"Round {view.round} is open {_STALLED:.0f} s after its deadline: check that the scheduler's tick "
                "arrives and that the queue delivers"
            )

    def _check_reachable(self, tally: Tally) -> None:
        """Raises `LoadError` if the round lacks updates and would wait for the default deadline."""
        if self._target.lanes == 1 or self._round_seconds is not None or self.is_over():
            return
        view = self._active_task().current
        if view is None or (view.round, view.epoch) != self._current or view.phase is not Phase.COLLECTING:
            return
        if tally.outcomes[ACCEPTED] < view.goal:
            seconds = (view.deadline - view.opened_at).total_seconds()
            raise LoadError(
                f"All clients are done, and {tally.outcomes[ACCEPTED]} of {view.goal} updates have arrived "
                f"({_text_of(tally)}): the round would close after {seconds:.0f} s; give --round-seconds"
            )

    async def _poll_until(self, poll: Callable[[], Optional[T]], failure: str, *, extra_seconds: float = 0.0) -> T:
        """Polls until there is a value. Raises `LoadError` after `_STALLED` and `extra_seconds`."""
        until = time.monotonic() + _STALLED + extra_seconds
        while (value := await self._target.call(poll)) is None:
            if time.monotonic() > until:
                raise LoadError(f"{failure}; `muster task show {self._task}` may show why")
            await self._target.changed(self._target.poll_seconds)
        return value


def _text_of(tally: Tally) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(tally.outcomes.items())) or "no client checked in"
