"""Follows a task's rounds to their ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from muster.operator import Operator
from muster.wire.messages import Phase, RoundView

_OVER = (Phase.COMMITTED, Phase.ABANDONED)


class EndedRounds:
    """Iterator over a task's rounds, each of whose attempts is returned once, after its end.

    Args:
      operator: An operator of the coordinator.
      task: The task's name.
    """

    def __init__(self, operator: Operator, task: str) -> None:
        self._operator = operator
        self._task = task
        self._after: Optional[str] = None

    def fresh(self) -> Iterator[RoundView]:
        """Yields the attempts that ended since the last call, oldest first."""
        while True:
            # One at a time: a page's `next` is then the place of just that round, and an open one
            # is not passed over.
            page = self._operator.rounds_page(self._task, after=self._after, limit=1)
            if not page.rounds or page.rounds[0].phase not in _OVER:
                return
            self._after = page.next
            yield page.rounds[0]
