"""Resolves the base of a run: the state that its first round starts from."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from muster.wire.messages import StateRef
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.domain import names
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import Checkpoint, Committed, Origin
from muster_coordinator.domain.tasks import Task
from muster_coordinator.state.plan_repository import PlanRepository
from muster_coordinator.state.platform import Platform


@dataclass(frozen=True, slots=True)
class ResolvedBase:
    """Base of a run.

    Attributes:
      checkpoint: The checkpoint or state.
      origin: Where it comes from, or None if it is a checkpoint of the task itself.
    """

    checkpoint: Checkpoint
    origin: Origin | None = None


@dataclass(frozen=True)
class BaseResolver:
    """Resolver of references to states, for a task that starts rounds from them."""

    platform: Platform
    _: KW_ONLY
    plans: PlanRepository

    def resolve(self, task: Task, ref: StateRef | None) -> ResolvedBase:
        """Returns the base that `ref` names, by default the task's newest checkpoint.

        Raises:
          ProblemError: `not_found` if there is no such state.
        """
        if ref is None or ref.version is None:
            if task.checkpoint is None:
                raise ProblemError(ProblemType.NOT_FOUND, f"Task {task.name} has no checkpoint yet")
            return ResolvedBase(task.checkpoint)
        if not ref.version and task.initial is not None:
            return ResolvedBase(task.initial)
        for record in self.platform.rounds.list(
            names.rounds_path(task.name), after=RoundKey(task.name, max(0, ref.version - 1), 9999).id
        ):
            round_ = record.value
            if round_.key.number != ref.version:
                break
            if isinstance(round_, Committed):
                return ResolvedBase(round_.checkpoint)
        raise ProblemError(ProblemType.NOT_FOUND, f"Round {ref.version} of task {task.name} is not committed")
