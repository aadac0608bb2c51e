"""Polls the rounds of a task for those that have ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from muster.operator.operator import Operator
from muster.wire.messages import Phase, RoundView

_ENDED = (Phase.COMMITTED, Phase.ABANDONED)


class EndedRounds:
    """Poller that returns each ended attempt of a task's rounds once, in order.

    Args:
      operator: The operator at the task's coordinator.
      task: The task's name.
      page: Rounds in one request. A poll reads the last page again, so a small page makes frequent
        polls cheap, and a large one catches up with many rounds in few requests.
    """

    def __init__(self, operator: Operator, task: str, *, page: int = 100) -> None:
        self._operator = operator
        self._task = task
        self._page = page
        self._after: Optional[str] = None
        self._seen: set[tuple[int, int]] = set()  # (round, attempt) of the page behind `_after`

    def poll(self) -> Iterator[RoundView]:
        """Yields the attempts that have ended since the last call, oldest first.

        An attempt that was not yielded, because a request failed, is yielded by a later call.

        Raises:
          ProblemError: the coordinator refused.
          UnreachableError: the coordinator did not answer.
        """
        while True:
            page = self._operator.rounds_page(self._task, after=self._after, limit=self._page)
            for view in page.rounds:
                attempt = (view.round, view.epoch)
                if view.phase in _ENDED and attempt not in self._seen:
                    self._seen.add(attempt)
                    yield view
            # Only a full page whose attempts have all ended is complete.
            if page.next is None or any(view.phase not in _ENDED for view in page.rounds):
                return
            self._after = page.next
            self._seen.clear()
