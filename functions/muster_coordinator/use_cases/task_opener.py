"""The task opener computes a task's first broadcast, or that after a rollback, and opens a round.

It runs TensorFlow. A driven task gets its version 0 first, and is opened again for each run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from muster.wire.messages import TaskPolicy, TaskStatus
from muster.wire.plan import Plan
from muster.wire.tensors import Array
from muster_coordinator.concurrency.claims import Claims
from muster_coordinator.concurrency.memory_budget import MemoryBudget
from muster_coordinator.domain import names
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.release import effective_policy, may_commit
from muster_coordinator.domain.rounds import BlobRef, Checkpoint, Collecting, Round, open_round
from muster_coordinator.domain.runs import ready, run_policy
from muster_coordinator.domain.tasks import Task, opened
from muster_coordinator.plan_runner import PlanRunner, encode_output, memory_of_run, plan_refused, read_state
from muster_coordinator.ports import BlobNotFoundError
from muster_coordinator.state import evaluations
from muster_coordinator.state.base_blobs import BaseBlobs
from muster_coordinator.state.bases import BaseResolver, ResolvedBase
from muster_coordinator.state.encoded_copies import EncodedCopies
from muster_coordinator.state.lifecycle import abandon_current, schedule_close
from muster_coordinator.state.pausing import pause_on_final_problem
from muster_coordinator.state.plan_repository import PlanRepository
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.round_keys import next_round_key

if TYPE_CHECKING:
    from muster.runtime import Runtime


@dataclass(frozen=True)
class TaskOpener:
    """Opener of tasks and runs.

    Attributes:
      runtime: Returns the runtime of a plan.
      memory: Memory of the process, which the runs of plans share.
    """

    platform: Platform
    _: KW_ONLY
    plans: PlanRepository
    runtime: Callable[[Plan], Runtime]
    memory: MemoryBudget
    _claims: Claims = field(default_factory=Claims)

    def open(self, task_name: str) -> None:
        """Computes a task's first broadcast (after a rollback, its new one) and opens the round.

        A new driven task only gets its version 0, and its runs are opened like a task. Idempotent.
        """
        task = self.platform.task(task_name).value
        if task.status is not TaskStatus.OPENING:
            return
        # A rollback during an opening starts another opening, which does not wait for the first.
        with self._claims.claim(
            (task.name, task.created_at, task.number, task.epoch, task.restore, _request(task))
        ) as claimed:
            if claimed:
                with pause_on_final_problem(
                    self.platform,
                    task_name,
                    "The first broadcast can't be computed",
                    concerns=lambda now: _is_same_opening(now, task),
                ):
                    self._open(task)

    def _open(self, task: Task) -> None:
        abandon_current(self.platform, task, reason="rolled back")
        plan = self.plans.full(task.spec.plan)
        key = next_round_key(self.platform, task)
        if not may_commit(key.number, plan.manifest):
            raise plan_refused("the plan's author does not allow a task to commit so many rounds")
        with self.memory.take(memory_of_run(plan.manifest)):
            if task.driven and not task.running:
                self._make_ready(task, plan)
                return
            base = self._base(task, plan, key)
            state = self._read_base(base.checkpoint)
            prepared = PlanRunner(self.runtime(plan), task.spec.policy.graph_seconds).prepare(state)
            broadcast = self._first_broadcast(key, base.checkpoint, encode_output(prepared, what="broadcast"))
        policy = run_policy(task.run, effective_policy(task.spec.policy, plan.manifest))
        round_ = self._open_round(task, key, base, broadcast, policy=policy)
        if round_ is None:
            return
        # If the task was rolled back again meanwhile, perhaps to another checkpoint, that opening
        # makes its own round. A base from outside the task is no checkpoint of the task.
        checkpoint = base.checkpoint if base.origin is None else task.checkpoint or base.checkpoint
        after = self.platform.change_task(
            task.name, lambda now: opened(now, round_.key, checkpoint) if _is_same_opening(now, task) else now
        )
        if after.current == round_.key:
            schedule_close(self.platform, round_)

    def _make_ready(self, task: Task, plan: Plan) -> None:
        """Stores version 0 of a driven task, which then waits for a request. Idempotent."""
        initial = self._initial_checkpoint(plan, task)
        self.platform.change_task(task.name, lambda now: ready(now, initial) if _is_same_opening(now, task) else now)
        evaluations.advance(self.platform, task.name)

    def _read_base(self, base: Checkpoint) -> dict[str, Array]:
        """Returns the state of a base. Raises `ProblemError` if retention has removed its blob."""
        try:
            return read_state(self.platform.blobs.read(base.blob.name))
        except BlobNotFoundError as error:
            raise plan_refused(
                f"version {base.version} is not stored any more; roll back to a version that is"
            ) from error

    def _base(self, task: Task, plan: Plan, key: RoundKey) -> ResolvedBase:
        """Returns the base of the opening's round, stored under a name of the task. Idempotent."""
        if task.restore is None:
            return ResolvedBase(self._initial_checkpoint(plan, task))
        origin = task.run.origin if task.run is not None and task.run.base == task.restore else None
        checkpoint = self._base_blobs.base(task, plan, task.restore, origin=origin, number=key.number)
        return ResolvedBase(checkpoint, origin)

    def _initial_checkpoint(self, plan: Plan, task: Task) -> Checkpoint:
        """Stores the task's start, or the plan's initial state, as version 0. Idempotent."""
        return self._base_blobs.first_checkpoint(task, plan)

    @cached_property
    def _base_blobs(self) -> BaseBlobs:
        return BaseBlobs(self.platform, resolver=BaseResolver(self.platform, plans=self.plans))

    def _first_broadcast(self, key: RoundKey, base: Checkpoint, data: bytes) -> BlobRef:
        """Stores the broadcast of `base`.

        If several attempts compute it, perhaps with randomness, the first one's bytes remain. An
        opening of the same round from another base, which a crash left half done, has another name.
        """
        prefix = names.output_prefix("broadcasts", key.task, key.number)
        name = f"{prefix}{base.blob.sha256[:16]}-open{key.epoch}"
        self.platform.blobs.create(name, [data])
        stored = self.platform.blobs.read(name)
        EncodedCopies(self.platform.blobs).make(name, stored)
        return BlobRef(name, hashlib.sha256(stored).hexdigest(), len(stored))

    def _open_round(
        self, task: Task, key: RoundKey, base: ResolvedBase, broadcast: BlobRef, *, policy: TaskPolicy
    ) -> Round | None:
        """Creates the round, or returns the one that an earlier call created for the same opening.

        Abandons a round of another state or request, and creates the next attempt. Returns None if
        the task is past this opening, since a late repeat must not abandon the round that an
        earlier one opened.
        """
        starts_at = policy.starts_at
        now = self.platform.clock.now()
        while True:
            new_round = open_round(
                key,
                policy,
                plan=task.spec.plan,
                base=base.checkpoint,
                broadcast=broadcast,
                sums_in_the_clear=task.sums_in_the_clear,
                opens_at=max(now, starts_at.timestamp()) if starts_at is not None else now,
                expected_seconds=None,
                origin=base.origin,
                request=_request(task),
            )
            stored = self.platform.rounds.ensure(names.round_path(key), new_round).value
            if stored == new_round:
                return new_round
            if _has_same_start(stored, new_round) and isinstance(stored, Collecting):
                return stored
            if not _is_same_opening(self.platform.task(task.name).value, task):
                return None
            abandon_current(self.platform, replace(task, number=key.number, epoch=key.epoch), reason="superseded")
            key = replace(key, epoch=key.epoch + 1)


def _is_same_opening(now: Task, task: Task) -> bool:
    """Returns whether `now` is still at the opening of `task`, whether or not it pauses next.

    An operator may change its policy, tags and archive flag meanwhile.
    """
    return task == replace(
        now,
        pause_once_open=task.pause_once_open,
        spec=task.spec,
        created=task.created,
        tags=task.tags,
        archived=task.archived,
    )


def _has_same_start(stored: Round, new: Round) -> bool:
    """Returns whether two attempts start from the same state for the same request."""
    ours, theirs = stored.terms, new.terms
    return (ours.base.blob, ours.origin, ours.request) == (theirs.base.blob, theirs.origin, theirs.request)


def _request(task: Task) -> str:
    """Returns the request that an opening answers; empty unless the task is driven."""
    return "" if task.run is None else task.run.request
