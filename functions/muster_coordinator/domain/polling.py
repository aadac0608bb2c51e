"""Seconds after which an operator who polls a task can expect a change."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from muster.wire.messages import Phase, RoundView, TaskStatus, TaskView

_SOON = 1.0  # seconds; the coordinator works on it
_COLLECTING = 3.0  # seconds, at most; clients act at any time
_LATER = 10.0  # seconds; an operator or a client has to act first
_ENDED = 60.0  # seconds; only an operator changes it
_COLLECTING_DIVISOR = 20  # polls of a round from its opening to its deadline
_BUSY = (TaskStatus.OPENING, TaskStatus.ACTIVE, TaskStatus.DELETING)
_WAITING = (TaskStatus.IDLE, TaskStatus.PAUSED)


def of_round(view: RoundView, *, now: datetime) -> float:
    """Returns the seconds after which a change of the round can be expected."""
    if view.phase in (Phase.COMMITTED, Phase.ABANDONED):
        return _ENDED
    if view.phase is Phase.AGGREGATING:
        return _SOON
    length = (view.deadline - view.opened_at).total_seconds()
    until_opening = (view.opened_at - now).total_seconds()
    wait = min(max(length / _COLLECTING_DIVISOR, _SOON), _COLLECTING)
    return max(wait, min(until_opening, _LATER))


def of_task(view: TaskView, *, now: datetime) -> float:
    """Returns the seconds after which a change of the task can be expected."""
    if view.status in _WAITING:
        return _LATER
    if view.status not in _BUSY:
        return _ENDED
    if view.current is None or view.current.phase in (Phase.COMMITTED, Phase.ABANDONED):
        return _SOON
    return of_round(view.current, now=now)


def of_tasks(views: Iterable[TaskView], *, now: datetime) -> float:
    """Returns the seconds after which a change of one of the tasks can be expected."""
    return min((of_task(view, now=now) for view in views), default=_LATER)
