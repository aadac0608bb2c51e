"""Changes the policy of a task from its next round or attempt on."""

from __future__ import annotations

import json
from dataclasses import KW_ONLY, dataclass
from typing import Any

from pydantic import Field, ValidationError

from muster.wire.base import Message, invalid
from muster.wire.messages import TaskChange, TaskPolicy, TaskSpec, TaskStatus, TaskView
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator import queued_work
from muster_coordinator.domain import tasks as domain
from muster_coordinator.domain.release import effective_policy, may_commit
from muster_coordinator.domain.tasks import Task, TransitionError
from muster_coordinator.domain.windows import unknown_zones
from muster_coordinator.state.lifecycle import join_population
from muster_coordinator.state.plan_repository import PlanRepository
from muster_coordinator.state.platform import Platform
from muster_coordinator.use_cases.policy_checks import floor_faults, norm_faults
from muster_coordinator.use_cases.task_operations import TaskOperations


class _ChangedPolicy(Message):
    """Changed policy, in whose faults each path starts with `policy`."""

    policy: TaskPolicy = Field(description="Policy after the change.")


@dataclass(frozen=True)
class TaskChanges:
    """Changes of tasks' policies.

    Attributes:
      least_minimum: The deployment's floor for the minimum of a task.
    """

    platform: Platform
    _: KW_ONLY
    plans: PlanRepository
    operations: TaskOperations
    least_minimum: int = 1

    def change(self, name: str, change: TaskChange) -> TaskView:
        """Changes fields of a task's policy. A change that changes nothing has no effect.

        An open round keeps its terms; its next attempt and later rounds have the new ones. Guards,
        retention and the number of rounds apply after each round, so also after the open one.
        A completed task whose number of rounds is raised opens again from its newest checkpoint.

        The change is one compare-and-set of the task. What follows it is repeated by the tick: it
        adds a task that opens again to its population, and enqueues its opening.

        Raises:
          ProblemError: `invalid_request` if the new policy is not valid or below a floor;
            `conflict` if the task is cancelled, or archived and would open again; `not_found`.
        """

        def apply(task: Task) -> Task:
            spec = _changed(task.spec, change.policy)
            changed = domain.changed(task, spec)
            if changed is task:
                return task
            self._check(spec)
            manifest = self.plans.manifest(spec.plan)
            newest = task.checkpoint
            if newest is None or not domain.may_reopen(task, rounds=effective_policy(spec.policy, manifest).rounds):
                return changed
            if not may_commit(task.number + 1, manifest):
                raise TransitionError(
                    f"Task {name} can't run more rounds: it has run as many as the plan's author allows"
                )
            return domain.reopened(changed, newest)

        before = self.platform.task(name).value
        try:
            task = self.platform.change_task(name, apply)
        except TransitionError as error:
            raise ProblemError(ProblemType.CONFLICT, str(error)) from error
        if task.status is TaskStatus.OPENING:
            join_population(self.platform, task)
            self.operations.enqueue_opening(task)
        if task.current is not None and task.spec.policy.retention != before.spec.policy.retention:
            self.platform.enqueue(queued_work.sweep(task.current), task.current)
        return self.operations.get(name)

    def _check(self, spec: TaskSpec) -> None:
        """Refuses a policy that does not suit the plan, or is below a floor."""
        manifest = self.plans.manifest(spec.plan)
        faults = (
            *norm_faults(spec.policy, manifest),
            *floor_faults(spec, manifest, least_minimum=self.least_minimum),
            *unknown_zones(spec.policy),
        )
        if faults:
            reasons = "; ".join(f"{fault.path} {fault.reason}" for fault in faults)
            raise ProblemError(ProblemType.INVALID_REQUEST, f"TaskChange is not valid: {reasons}", fields=faults)


def _changed(spec: TaskSpec, changes: dict[str, Any]) -> TaskSpec:
    """Returns the specification with changed fields of its policy.

    None restores a field's default. The result is validated like the specification of a new task.

    Raises:
      ProblemError: `invalid_request`, with the path of each fault.
    """
    values = {**spec.policy.to_dict(), **changes}
    merged = {"policy": {name: value for name, value in values.items() if value is not None}}
    fields = {name: getattr(spec, name) for name in TaskSpec.model_fields}
    try:
        policy = _ChangedPolicy.model_validate_json(json.dumps(merged), strict=True).policy
        return TaskSpec.model_validate({**fields, "policy": policy})
    except ValidationError as error:
        raise invalid(TaskChange.__name__, error) from error
