"""Checks the specification of an evaluation against the training task that it evaluates."""

from __future__ import annotations

from typing import NoReturn

from muster.wire.messages import Evaluation, TaskKind, TaskSpec, TaskStatus
from muster.wire.problems import FieldError, ProblemError, ProblemType
from muster_coordinator.domain import names
from muster_coordinator.domain.states import check_taken
from muster_coordinator.domain.tasks import Task
from muster_coordinator.state.plan_repository import PlanRepository
from muster_coordinator.state.platform import Platform


def check_evaluation(platform: Platform, spec: TaskSpec, *, plans: PlanRepository) -> None:
    """Refuses a new evaluation that could not run. A task that evaluates no other always passes.

    A repeat for an existing task is accepted, since its training task may be deleted by then.

    Raises:
      ProblemError: `invalid_request` if the training task does not exist, is of another kind or
        population, or lacks a tensor that the evaluation's plan takes, with its dtype and shape.
    """
    if spec.evaluates is None or platform.tasks.get(names.task_path(spec.name)) is not None:
        return
    training = _training(platform, spec, spec.evaluates)
    check_taken(
        {item.path: item for item in plans.manifest(training.spec.plan).state},
        plans.manifest(spec.plan).state,
        spec.evaluates.leaves,
        what=f"The state of task {training.name!r}",
    )


def _training(platform: Platform, spec: TaskSpec, evaluates: Evaluation) -> Task:
    """Returns the training task. Raises `ProblemError` if it can't be evaluated."""
    name = evaluates.task
    record = platform.tasks.get(names.task_path(name))
    if record is None or record.value.status is TaskStatus.DELETING:
        _refuse(f"there is no task {name!r}; create the training task first")
    training = record.value
    if training.spec.evaluates is not None:
        _refuse(f"task {name!r} is an evaluation itself; name the task that it evaluates")
    if training.spec.kind is not TaskKind.TRAIN:
        _refuse(f"task {name!r} is of kind {training.spec.kind.value}; name a task of kind train")
    if training.spec.population != spec.population:
        _refuse(
            f"task {name!r} is of population {training.spec.population!r}, and an evaluation shares the clients of "
            "its training task; use that population"
        )
    return training


def _refuse(reason: str) -> NoReturn:
    raise ProblemError(
        ProblemType.INVALID_REQUEST,
        f"TaskSpec is not valid: evaluates.task: {reason}",
        fields=(FieldError(path="evaluates.task", reason=reason),),
    )
