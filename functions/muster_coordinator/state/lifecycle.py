"""What follows an ended round: the next one, the next attempt, or the task's end."""

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
    Collecting,
    Committed,
    Ended,
    Round,
    abandon,
    next_round,
)
from muster_coordinator.domain.tasks import Task, at_round, completed
from muster_coordinator.ports import AlreadyExistsError, ConflictError
from muster_coordinator.state.plan_repository import PlanRepository
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.records import Versioned
from muster_coordinator.state.round_cache import tally_assignments


def advance(platform: Platform, task_name: str, *, plans: PlanRepository) -> None:
    """Opens the round that follows the task's current one, if that has ended. Safe to repeat, by several at once."""
    found = platform.task(task_name)
    if found.value.current is None:
        return
    round_ = platform.round(found.value.current)
    if round_ is not None and isinstance(round_.value, Ended):
        follow(platform, found, round_.value, plans=plans)


def follow(platform: Platform, found: Versioned[Task], ended: Ended, *, plans: PlanRepository) -> None:
    """Opens the round that follows `ended`, the current one of the task as it was `found`. Safe to repeat, by several at once."""
    task = found.value
    if task.status is not TaskStatus.ACTIVE:
        return
    checkpoint = ended.checkpoint if isinstance(ended, Committed) else ended.terms.base
    policy = effective_policy(task.spec.policy, plans.manifest(task.spec.plan))
    following = next_round(ended, policy, now=platform.clock.now())
    if following is None:
        after = platform.change_task(
            task.name, lambda now: completed(now, checkpoint) if now == task else now, found=found
        )
        if after.ended:
            leave_population(platform, task)
        platform.enqueue(queued_work.sweep(ended.key), ended.key)
        return
    opened = platform.rounds.ensure(names.round_path(following.key), following).value

    def move(now: Task) -> Task:
        # Paused or rolled back meanwhile: the round stays as it is, and whoever resumes or opens takes it from there.
        return at_round(now, following.key, checkpoint) if now.status is TaskStatus.ACTIVE else now

    platform.change_task(task.name, move, found=found)
    schedule_close(platform, opened)
    # Last, since nobody waits for it; should it be lost, the tick sweeps.
    platform.enqueue(queued_work.sweep(ended.key), ended.key)


def schedule_close(platform: Platform, round_: Round) -> None:
    """Has the round judged at its deadline."""
    delay = max(0.0, round_.terms.deadline - platform.clock.now())
    platform.enqueue(queued_work.close(round_.key), round_.key, hint="deadline", delay=delay)


def join_population(platform: Platform, task: Task) -> None:
    """Puts a task where check-ins look. A repeat changes nothing."""
    member = names.member_path(task.spec.population, task.name)
    if platform.documents.get(member) is None:
        with suppress(AlreadyExistsError):
            platform.documents.create(member, {})


def leave_population(platform: Platform, task: Task) -> None:
    """Takes an ended task out of what check-ins look at."""
    platform.documents.delete(names.member_path(task.spec.population, task.name))


def abandon_current(platform: Platform, task: Task, *, reason: str) -> None:
    """Abandons the task's open round, if it has one. A round that has ended stays as it ended."""
    if task.current is None:
        return
    while (found := platform.round(task.current)) is not None and isinstance(found.value, Collecting | Aggregating):
        abandoned: Abandoned = abandon(
            found.value, reason=reason, tally=tally_assignments(platform, found.value), now=platform.clock.now()
        )
        try:
            platform.rounds.replace(found, abandoned)
        except ConflictError:
            continue
        events.round_abandoned(abandoned, below_minimum=False)
        platform.enqueue(queued_work.sweep(task.current), task.current)


def next_key(platform: Platform, task: Task) -> names.RoundKey:
    """The key under which an opening task goes on: a number that is committed is never used again."""
    if task.current is None:
        return names.RoundKey(task.name, 1, 0)
    found = platform.round(task.current)
    if found is not None and isinstance(found.value, Committed):
        return names.RoundKey(task.name, task.number + 1, 0)
    return replace(task.current, epoch=task.epoch + 1)
