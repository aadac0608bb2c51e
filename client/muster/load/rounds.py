"""A load's rounds as an operator sees them: when one opens, whether it is over, and how it ended."""

from __future__ import annotations

import time
from collections import Counter
from datetime import datetime
from typing import Any, Callable, Optional

from muster.load.known_sum import KnownSum
from muster.load.result import LoadRound
from muster.load.steps import ACCEPTED, LoadError, Tally
from muster.load.targets import Target
from muster.operator import Operator
from muster.simulation.ended import EndedRounds
from muster.wire.messages import Phase, RoundView, TaskStatus, TaskView

_STALLED = 300.0  # seconds that something which is due may take


class Rounds:
    """Follows the rounds of one task.

    Args:
      target: Whose clock is used, and what has its due work done.
      operator: Where to ask.
      task: The task's name.
      known: What a round should sum up.
      patient: Seconds of a round whose deadline is waited for, if need be; None: nobody waits for it.
    """

    def __init__(
        self, target: Target, operator: Operator, task: str, *, known: KnownSum, patient: Optional[float]
    ) -> None:
        self._target = target
        self._operator = operator
        self._task = task
        self._known = known
        self._patient = patient
        self._over = EndedRounds(operator, task)
        self._attempts: Counter[int] = Counter()  # by round
        self._played = (0, 0)  # the round, and the epoch
        # All in POSIX seconds of the target's clock.
        self._began = 0.0
        self._not_over = 0.0  # when the round was last seen to go on
        self._seen: Optional[float] = None  # when it was first seen to have ended
        self._deadline: Optional[datetime] = None  # as the coordinator says
        self._until_closed = 0.0

    def opened(self) -> RoundView:
        """Waits until another round is open than the one that was played last. Raises `LoadError`."""

        def look() -> Optional[RoundView]:
            now = self._running().current
            new = now is not None and (now.round, now.epoch) > self._played and now.phase is Phase.COLLECTING
            return now if new else None

        view: RoundView = self._until(look, "The next round does not open")
        return view

    def begin(self) -> RoundView:
        """As `opened`; that round is played now."""
        view = self.opened()
        self._played = view.round, view.epoch
        self._attempts[view.round] += 1
        self._began = self._not_over = self._target.now()
        self._seen = self._deadline = None
        return view

    def is_over(self) -> bool:
        """Whether the round that is played takes no more updates. Raises `LoadError`, if it should have closed long ago."""
        view, now = self._running().current, self._target.now()
        if view is None:
            raise LoadError("The task has no round any more")
        if (view.round, view.epoch) == self._played and view.phase in (Phase.COLLECTING, Phase.AGGREGATING):
            self._not_over = now
            if view.phase is Phase.COLLECTING:
                self._check_deadline(view, now)
            return view.phase is Phase.AGGREGATING
        self._seen = self._seen or now
        return True

    def end(self, tally: Tally) -> LoadRound:
        """Waits until the round is committed or abandoned, with its clients done. Raises `LoadError`."""

        def look() -> Optional[RoundView]:
            for view in self._over.fresh():
                if (view.round, view.epoch) == self._played:
                    self._seen = self._seen or self._target.now()
                    return view
            self._not_over = self._target.now()
            self._check_reachable(tally)
            return None

        what = f"Round {self._played[0]} does not end, with all of its clients done ({_told(tally)})"
        return self._ended(self._until(look, what, more=self._patient or 0.0), tally)

    def _ended(self, view: RoundView, tally: Tally) -> LoadRound:
        if self._target.same_clock and view.ended_at is not None:
            at, within = view.ended_at.timestamp(), 0.0
        else:
            at = self._seen or self._target.now()
            within = max(0.0, at - max(self._not_over, tally.last_upload))
        accepted = tally.outcomes[ACCEPTED]
        in_time = view.ended_at is not None and view.ended_at < view.deadline
        committed = view.phase is Phase.COMMITTED
        return LoadRound(
            number=view.round,
            attempt=self._attempts[view.round],
            committed=committed,
            goal=view.goal,
            accepted=accepted,
            folded=view.folded,
            lost=max(0, min(accepted, view.goal) - view.folded) if committed and in_time else 0,
            seconds=at - self._began,
            commit=max(0.0, at - tally.last_upload) if tally.last_upload else None,  # a receipt takes its way too
            within=within,
            exact=self._known.is_exact(view) if committed else None,
            reason=view.reason,
        )

    def _running(self) -> TaskView:
        """The task, which nothing should have stopped."""
        view = self._operator.task(self._task)
        if view.status is TaskStatus.CANCELLED:
            raise LoadError("The task was cancelled by an operator")
        if view.status is TaskStatus.PAUSED:
            raise LoadError(f"The task was paused: {view.note or 'by an operator'}")
        return view

    def _check_deadline(self, view: RoundView, now: float) -> None:
        if view.deadline != self._deadline:  # nobody came until the last one
            self._deadline = view.deadline
            self._until_closed = now + (view.deadline - view.opened_at).total_seconds() + _STALLED
        if now > self._until_closed:
            raise LoadError(
                f"Round {view.round} is open {_STALLED:.0f} s after its deadline: does the scheduler's tick come, and does the queue "
                "deliver?"
            )

    def _check_reachable(self, tally: Tally) -> None:
        """Nobody should wait a day for a round that lacks an update; in this process it takes no time."""
        if self._target.threads == 1 or self._patient is not None or self.is_over():
            return
        view = self._running().current
        open_ = view is not None and (view.round, view.epoch) == self._played and view.phase is Phase.COLLECTING
        if view is not None and open_ and tally.outcomes[ACCEPTED] < view.goal:
            seconds = (view.deadline - view.opened_at).total_seconds()
            raise LoadError(
                f"All clients are done, and {tally.outcomes[ACCEPTED]} of {view.goal} updates are in ({_told(tally)}): the round would "
                f"close after {seconds:.0f} s; give --round-seconds"
            )

    def _until(self, look: Callable[[], Any], what: str, *, more: float = 0.0) -> Any:
        """Looks until there is something. Raises `LoadError` where that takes long, or `more` seconds longer."""
        until = time.monotonic() + _STALLED + more
        while True:
            self._target.settle()
            found = look()
            if found is not None:
                return found
            if time.monotonic() > until:
                raise LoadError(f"{what}; `muster task show {self._task}` may say why")
            self._target.wait_until(max(self._target.now() + self._target.look, self._target.next_due() or 0.0))


def _told(tally: Tally) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(tally.outcomes.items())) or "nobody came"
