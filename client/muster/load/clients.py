"""The clients of a load: each a few fields in a queue of events, in which they take turns until their round is over."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
from collections.abc import Iterator
from typing import Callable, Optional

from muster.load.arrivals import Arriving
from muster.load.shape import LoadShape
from muster.load.steps import AFTER, AT_WORK, NO_SLOT, Following, LoadError, Steps, Tally, Turn
from muster.load.targets import Target

_LOOK = 1.0  # seconds between looks at whether the round is over
_END = 10.0  # seconds for requests under way, when the load is broken off


class Clients:
    """Brings every client of one round to its end.

    Args:
      target: What they talk to.
      shape: How many there are, and when they come.
      steps: What they do.
      arriving: Takes down how they come in open loop.
      over: Looks whether the round that is played is over. Raises `LoadError`, if it can't end.
      progress: Is told how many clients are done.

    Attributes:
      came: How many have checked in.
    """

    def __init__(
        self,
        target: Target,
        shape: LoadShape,
        steps: Steps,
        *,
        arriving: Arriving,
        over: Callable[[], bool],
        progress: Callable[[int], None],
    ) -> None:
        self.came = 0
        self._target = target
        self._shape = shape
        self._steps = steps
        self._arriving = arriving
        self._round_over = over
        self._progress = progress
        self._due: list[tuple[float, int, Turn]] = []
        self._arrivals: Iterator[tuple[int, float]] = iter(())
        self._number = 0  # of events, so that equal times keep their order
        self._done = 0
        self._looked = 0.0  # POSIX seconds, by the target's clock
        self._over = False
        self._led = False  # whether a thread waits for the next event, so that no other needs to
        self._lock = threading.RLock()
        self._leading = threading.Condition(self._lock)  # woken for an earlier event
        self._idle = threading.Condition(self._lock)
        self._error: Optional[BaseException] = None

    @property
    def tally(self) -> Tally:
        """What became of them."""
        return self._steps.tally

    def play(self, number: int, *, round_: int) -> None:
        """Plays one attempt at the `round_`-th round, which is open, as the load's `number`-th. Raises `LoadError`."""
        start = self._looked = self._target.now()
        self._steps.begin(number, round_=round_)
        due: Iterator[float] = (start + at for at in self._shape.times(number))
        if self._shape.arrivals:
            due, again = itertools.tee(due)
            self._arriving.begin(again)
        self._arrivals = enumerate(due)
        with self._lock:
            for _ in range(1 if self._shape.arrivals else self._shape.lanes):
                self._arrive()
        if self._target.threads == 1:
            self._run()
        else:
            self._run_threads()
        if self._error is not None:
            raise self._error

    def _run_threads(self) -> None:
        # Not waited for at the end of the process: one may hang in a request that nobody answers.
        threads = [threading.Thread(target=self._run, daemon=True) for _ in range(self._target.threads)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException as error:
            self._fail(error)
            until = self._target.now() + _END
            for thread in threads:
                thread.join(max(0.0, until - self._target.now()))
            raise

    def _run(self) -> None:
        try:
            while (event := self._next()) is not None:
                self._take(*event)
                self._target.settle()
        except BaseException as error:  # of a thread: what it was is told by `play`
            self._fail(error)
            if self._target.threads == 1 or not isinstance(error, Exception):
                raise

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = self._error or error
            self._wake_all()

    def _wake_all(self) -> None:
        self._leading.notify_all()
        self._idle.notify_all()

    def _take(self, due: float, turn: Turn) -> None:
        following = self._steps.take(turn)
        now = self._target.now()
        with self._lock:
            if not turn.came:
                self.came += 1
                if self._shape.arrivals:
                    self._arriving.answered(due, now)
            sent_away = following is not None and following[1].assignment is None
            looking = sent_away and self._look_is_due(now)
        if looking:
            self._look()
        with self._lock:
            self._go_on(following)

    def _go_on(self, following: Following) -> None:
        if following is None or (self._over and self._ends(*following)):
            self._ended()
            if not self._shape.arrivals:
                self._arrive()
        else:
            self._push(*following)

    def _ended(self, clients: int = 1) -> None:
        self._done += clients
        self._progress(self._done)

    def _arrive(self) -> None:
        """Lets the next client come, and in open loop the one after it when it has come."""
        for client, at in self._arrivals:
            self._push(at, Turn(client))
            return

    def _push(self, at: float, turn: Turn) -> None:
        self._number += 1
        heapq.heappush(self._due, (at, self._number, turn))
        if self._due[0][1] == self._number:
            self._leading.notify()

    def _next(self) -> Following:
        """Waits for the next event, and gives it with the instant at which it was due; None when all clients are done."""
        while True:
            with self._lock:
                if self._error is not None or self._done >= self._shape.clients:
                    self._wake_all()
                    return None
                now = self._target.now()
                if self._due and self._due[0][0] <= now:
                    return self._pop(now)
                if not self._look_is_due(now):
                    self._rest(now)
                    continue
                self._idle.notify()  # who looks does not lead
            self._look()

    def _pop(self, now: float) -> tuple[float, Turn]:
        due, _, turn = heapq.heappop(self._due)
        if self._shape.arrivals and not turn.came:
            self._arriving.came(due, now)
            self._arrive()
        if not self._led:
            self._idle.notify()
        return due, turn

    def _rest(self, now: float) -> None:
        at = self._due[0][0] if self._due else math.inf
        if self._target.threads == 1:
            work = self._target.next_due()
            until = at if work is None else min(at, work)
            if until == math.inf:
                raise LoadError("The load stands still: nothing is due, and clients are left")
            self._target.wait_until(until)
            self._target.settle()
        elif self._led:
            self._idle.wait()
        else:
            self._led = True
            try:
                self._leading.wait(min(at - now, _LOOK))
            finally:
                self._led = False

    def _look_is_due(self, now: float) -> bool:
        if self._over or now < self._looked + _LOOK:
            return False
        self._looked = now
        return True

    def _look(self) -> None:
        """Ends clients whose round is over, so that none waits for ever."""
        if not self._round_over():
            return
        with self._lock:
            self._over = True
            left, self._due = self._due, []
            for at, _, turn in left:
                if self._ends(at, turn):
                    self._ended()
                else:
                    self._push(at, turn)
            after = sum(1 for _ in self._arrivals)
            if after:
                self.tally.count(AFTER, after)
                self._ended(after)
            self._wake_all()

    def _ends(self, at: float, turn: Turn) -> bool:
        """Whether a client is done, now that the round is over: all but those whose update is on its way."""
        if turn.assignment is not None and at <= self._target.now():
            return False
        self.tally.count(AT_WORK if turn.assignment is not None else NO_SLOT if turn.full else AFTER)
        return True
