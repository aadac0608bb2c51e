"""Continues a task after a round has ended: by the next round or attempt, or by the task's end."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from muster.wire.messages import TaskStatus
from muster_coordinator import events, queued_work
from muster_coordinator.domain import names
from muster_coordinator.domain.release import effective_policy
from muster_coordinator.domain.rounds import (
    Abandoned,
    Aggregating,
    Checkpoint,
    Collecting,
    Committed,
    Ended,
    Round,
    abandon,
    next_round,
)
from muster_coordinator.domain.runs import finished, is_last_round, run_policy
from muster_coordinator.domain.tasks import Task, at_round, completed
from muster_coordinator.ports import AlreadyExistsError, ConflictError
from muster_coordinator.state.plan_repository import PlanRepository
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.records import Versioned
from muster_coordinator.state.round_cache import tally_assignments


def continue_task(platform: Platform, task_name: str, *, plans: PlanRepository) -> None:
    """Opens the round that follows the task's current one, if that has ended.

    Idempotent, and safe to call concurrently.
    """
    record = platform.task(task_name)
    if record.value.current is None:
        return
    round_ = platform.round(record.value.current)
    if round_ is not None and isinstance(round_.value, Ended):
        continue_after_round(platform, record, round_.value, plans=plans)


def continue_after_round(platform: Platform, record: Versioned[Task], ended: Ended, *, plans: PlanRepository) -> None:
    """Opens the round that follows `ended`, or ends the run or the task after its last round.

    A driven task is idle after the last round of its run, and others are completed after their last
    round. Idempotent, and safe to call concurrently.

    Args:
      platform: The ports.
      record: The task, as the caller has just read it.
      ended: The task's current round.
      plans: The plans.
    """
    task = record.value
    if task.status is not TaskStatus.ACTIVE:
        return
    checkpoint = _newest_checkpoint(task, ended)
    if task.driven and is_last_round(task, ended):
        platform.change_task(task.name, lambda latest: finished(latest, ended.key, checkpoint), current=record)
        platform.enqueue(queued_work.sweep(ended.key), ended.key)
        return
    policy = effective_policy(task.spec.policy, plans.manifest(task.spec.plan))
    following = next_round(ended, run_policy(task.run, policy), now=platform.clock.now())
    if following is None:
        after = platform.change_task(
            task.name, lambda latest: completed(latest, checkpoint) if latest == task else latest, current=record
        )
        if after.ended:
            leave_population(platform, task)
        platform.enqueue(queued_work.sweep(ended.key), ended.key)
        return
    opened = platform.rounds.ensure(names.round_path(following.key), following).value

    def move(latest: Task) -> Task:
        # If the task was paused or rolled back meanwhile, resuming or opening it continues from
        # this round.
        return at_round(latest, following.key, checkpoint) if latest.status is TaskStatus.ACTIVE else latest

    platform.change_task(task.name, move, current=record)
    schedule_close(platform, opened)
    # Last, since no client waits for it. If this call is lost, the tick sweeps.
    platform.enqueue(queued_work.sweep(ended.key), ended.key)


def _newest_checkpoint(task: Task, ended: Ended) -> Checkpoint:
    """Returns the task's newest checkpoint after a round.

    An attempt of a driven task that was abandoned may have started from another base.
    """
    if isinstance(ended, Committed):
        return ended.checkpoint
    return ended.terms.base if task.checkpoint is None or not task.driven else task.checkpoint


def schedule_close(platform: Platform, round_: Round) -> None:
    """Enqueues the check that closes or abandons the round at its deadline."""
    delay = max(0.0, round_.terms.deadline - platform.clock.now())
    platform.enqueue(queued_work.close(round_.key), round_.key, hint="deadline", delay=delay)


def join_population(platform: Platform, task: Task) -> None:
    """Adds a task to the population that check-ins read. Idempotent."""
    member = names.member_path(task.spec.population, task.name)
    if platform.documents.get(member) is None:
        with suppress(AlreadyExistsError):
            platform.documents.create(member, {})


def leave_population(platform: Platform, task: Task) -> None:
    """Removes an ended task from the population that check-ins read. Idempotent."""
    platform.documents.delete(names.member_path(task.spec.population, task.name))


def abandon_current(platform: Platform, task: Task, *, reason: str) -> None:
    """Abandons the task's open round, if it has one. A round that has ended stays unchanged."""
    if task.current is None:
        return
    while (record := platform.round(task.current)) is not None and isinstance(record.value, Collecting | Aggregating):
        abandoned: Abandoned = abandon(
            record.value, reason=reason, tally=tally_assignments(platform, record.value), now=platform.clock.now()
        )
        try:
            platform.rounds.replace(record, abandoned)
        except ConflictError:
            continue
        events.round_abandoned(abandoned, below_minimum=False)
        platform.enqueue(queued_work.sweep(task.current), task.current)


def next_round_key(platform: Platform, task: Task) -> names.RoundKey:
    """Returns the key of an opening task's next round: no committed number is used again."""
    if task.current is None:
        return names.RoundKey(task.name, 1, 0)
    record = platform.round(task.current)
    if record is not None and isinstance(record.value, Committed):
        return names.RoundKey(task.name, task.number + 1, 0)
    return replace(task.current, epoch=task.epoch + 1)
