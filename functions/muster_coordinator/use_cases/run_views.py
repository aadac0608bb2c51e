"""Views of a driven task's runs."""

from __future__ import annotations

from muster.wire.messages import BaseView, RoundView, RunView
from muster_coordinator.domain.rounds import Checkpoint, Origin, Round
from muster_coordinator.domain.runs import run_status
from muster_coordinator.domain.tasks import Run, Task


def base_view(task: str, checkpoint: Checkpoint, origin: Origin | None) -> BaseView:
    """Returns the view of a base: a checkpoint of the task itself, or what `origin` names."""
    if origin is None:
        return BaseView(task=task, version=checkpoint.version)
    return BaseView(task=origin.task, version=origin.version, state=origin.state, leaves=origin.leaves)


def run_view(task: Task, run: Run, newest: Round | None, view: RoundView | None) -> RunView:
    """Returns the view of a run.

    Args:
      task: The task.
      run: The run.
      newest: The run's newest attempt, or None if none has opened.
      view: The view of that attempt.
    """
    return RunView(
        request=run.request,
        status=run_status(task, run, newest),
        base=base_view(task.name, run.base, run.origin),
        first_round=run.first,
        rounds=run.rounds,
        goal=run.goal,
        round=view,
    )


def current_run_view(task: Task, current: Round | None, view: RoundView | None) -> RunView | None:
    """Returns the view of a task's newest run, or None if it has none.

    Args:
      task: The task.
      current: The task's current round. An older run may have opened it.
      view: The view of that round.
    """
    run = task.run
    if run is None:
        return None
    if current is None or current.terms.request != run.request:
        return run_view(task, run, None, None)
    return run_view(task, run, current, view)
