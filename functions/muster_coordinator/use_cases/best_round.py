"""Finds a task's best round by a metric of its result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.domain import names
from muster_coordinator.domain.metrics import counts_no_example
from muster_coordinator.domain.rounds import Committed
from muster_coordinator.state.platform import Platform

_PAGE = 500  # attempts that are read with one call
_MAX_NAMED = 20  # metrics in a refusal


def best_round(platform: Platform, task: str, *, metric: str, better: Literal["lower", "higher"]) -> Committed:
    """Returns the committed round with the best value of a metric, the earliest of equal ones.

    Rounds that count no example do not take part, and unreadable ones neither.

    Args:
      platform: The ports.
      task: The task's name.
      metric: Path of the metric in the result.
      better: Whether a lower or a higher value is better.

    Raises:
      ProblemError: `not_found`, if there is no such task, or no committed round has the metric.
    """
    platform.task(task)
    best: Committed | None = None
    known: set[str] = set()
    sign = 1.0 if better == "lower" else -1.0
    for round_ in _committed(platform, task):
        if counts_no_example(round_.metrics):
            continue
        known.update(round_.metrics)
        value = round_.metrics.get(metric)
        if value is not None and (best is None or sign * value < sign * best.metrics[metric]):
            best = round_
    if best is None:
        raise ProblemError(
            ProblemType.NOT_FOUND, f"No committed round of task {task} has the metric {metric!r}: it has {_list(known)}"
        )
    return best


def _committed(platform: Platform, task: str) -> Iterator[Committed]:
    after: str | None = None
    while True:
        page = platform.rounds.page(names.rounds_path(task), after=after, limit=_PAGE)
        yield from (record.value for record in page.records if isinstance(record.value, Committed))
        if page.last is None:
            return
        after = page.last


def _list(known: set[str]) -> str:
    if not known:
        return "no metrics yet"
    named = sorted(known)[:_MAX_NAMED]
    more = len(known) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")
