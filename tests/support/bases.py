"""Starts a round of a task from a state outside the task, like a request to a driven task."""

from __future__ import annotations

from dataclasses import replace

from muster.wire.messages import StateRef, TaskStatus
from muster_coordinator.domain.tasks import Run
from muster_coordinator.state.bases import BaseResolver
from muster_coordinator.state.plan_repository import PlanRepository
from support.harness import TASK, Harness


def start_from(h: Harness, ref: StateRef, *, request: str = "a request") -> None:
    """Makes the task open its next attempt from the state that `ref` names."""
    record = h.inner.task(TASK)
    task = record.value
    base = BaseResolver(h.inner, plans=PlanRepository(h.inner.blobs)).resolve(task, ref)
    run = Run(
        request,
        first=max(1, task.number),
        rounds=1,
        goal=task.spec.policy.goal,
        base=base.checkpoint,
        origin=base.origin,
    )
    opening = replace(task, status=TaskStatus.OPENING, run=run, restore=base.checkpoint)
    h.inner.tasks.replace(record, opening)
