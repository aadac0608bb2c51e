"""Continues a task after a round has ended: by the next round or attempt, or by the task's end."""

from __future__ import annotations

from contextlib import suppress

from muster.wire.manifest import PlanManifest
from muster.wire.messages import TaskPolicy, TaskStatus
from muster_coordinator import events, queued_work
from muster_coordinator.domain import names
from muster_coordinator.domain.budget import has_next, shortfall
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
from muster_coordinator.domain.tasks import Task, at_round, completed, reopened, unanswered
from muster_coordinator.ports import AlreadyExistsError, ConflictError
from muster_coordinator.state import evaluations
from muster_coordinator.state.guarding import final_note, pause_if_tripped
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
    if pause_if_tripped(platform, record, ended):
        platform.enqueue(queued_work.sweep(ended.key), ended.key)
        return
    checkpoint = _newest_checkpoint(task, ended)
    if task.driven and is_last_round(task, ended):
        after = platform.change_task(task.name, lambda latest: finished(latest, ended.key, checkpoint), current=record)
        evaluations.follow(platform, after)
        platform.enqueue(queued_work.sweep(ended.key), ended.key)
        return
    manifest = plans.manifest(task.spec.plan)
    policy = run_policy(task.run, effective_policy(task.spec.policy, manifest))
    following = next_round(ended, policy, now=platform.clock.now(), retries=task.retries)
    if following is None:
        _end_or_reopen(platform, record, ended, policy=policy, manifest=manifest)
        return
    opened = platform.rounds.ensure(names.round_path(following.key), following).value

    def move(latest: Task) -> Task:
        # If the task was paused or rolled back meanwhile, resuming or opening it continues from
        # this round.
        return at_round(latest, following.key, checkpoint) if latest.status is TaskStatus.ACTIVE else latest

    platform.change_task(task.name, move, current=record)
    schedule_close(platform, opened)
    if isinstance(ended, Committed):
        evaluations.follow(platform, task)
    # Last, since no client waits for it. If this call is lost, the tick sweeps.
    platform.enqueue(queued_work.sweep(ended.key), ended.key)


def _newest_checkpoint(task: Task, ended: Ended) -> Checkpoint:
    """Returns the task's newest checkpoint after a round.

    An abandoned attempt of a driven task may have started from an older checkpoint, or from a state
    outside the task.
    """
    if isinstance(ended, Committed):
        return ended.checkpoint
    from_newest = not task.driven and ended.terms.origin is None
    return ended.terms.base if from_newest or task.checkpoint is None else task.checkpoint


def _end_or_reopen(
    platform: Platform, record: Versioned[Task], ended: Ended, *, policy: TaskPolicy, manifest: PlanManifest
) -> None:
    """Completes a task after its last round, or reopens it if its budget was raised since.

    The commit of the last round computes no broadcast, so the committer opens the next round. If
    the task was changed since the caller has read it, a later call decides.
    """
    task, checkpoint = record.value, _newest_checkpoint(record.value, ended)
    line = checkpoint.rounds_on_line
    if isinstance(ended, Committed) and has_next(task, ended.key, line=line, policy=policy, manifest=manifest):
        after = platform.change_task(
            task.name, lambda latest: reopened(latest, checkpoint) if latest == task else latest, current=record
        )
        if after.status is TaskStatus.OPENING:
            platform.enqueue(queued_work.open_task(task.name), ended.key)
    else:
        end = _completed(task, ended, checkpoint, note=shortfall(task, line=line, policy=policy))
        after = platform.change_task(task.name, lambda latest: end if latest == task else latest, current=record)
        if after.ended:
            leave_population(platform, task)
        evaluations.follow(platform, after)
    platform.enqueue(queued_work.sweep(ended.key), ended.key)


def _completed(task: Task, ended: Ended, checkpoint: Checkpoint, *, note: str) -> Task:
    """Returns the task after its last round, or after the attempt at its only one."""
    if isinstance(ended, Abandoned):
        return unanswered(task, checkpoint, reason=ended.reason)
    return completed(task, checkpoint, note=" ".join(filter(None, (note, final_note(task, ended)))))


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
