"""The commit, and the opening of a task: the two that compute with TensorFlow. The first compare-and-set wins; what a loser
computed is swept unread, so that a retry can't redraw differential-privacy noise."""  # noqa: D205, D209

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from muster.wire.manifest import PlanManifest
from muster.wire.messages import TaskPolicy, TaskStatus
from muster.wire.plan import Plan
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import Array, encode
from muster_coordinator import events, queued_work
from muster_coordinator.concurrency.memory_budget import MemoryBudget
from muster_coordinator.domain import names
from muster_coordinator.domain.metrics import scalar_metrics
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.release import effective_minimum, effective_policy, may_commit
from muster_coordinator.domain.rounds import (
    Aggregating,
    BlobRef,
    Checkpoint,
    Collecting,
    CommitResult,
    Ended,
    Round,
    Tally,
    abandon,
    commit,
    open_round,
)
from muster_coordinator.domain.tasks import Task, opened
from muster_coordinator.plan_runner import PlanRunner, plan_failures, read_state
from muster_coordinator.ports import BlobNotFoundError, ConflictError
from muster_coordinator.state.encoded_copies import EncodedCopies
from muster_coordinator.state.lifecycle import abandon_current, advance, follow, next_key, schedule_close
from muster_coordinator.state.parallel import map_concurrently
from muster_coordinator.state.pausing import at_round, stops_task
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.records import Versioned
from muster_coordinator.state.round_ledger import Frozen, RoundLedger
from muster_coordinator.use_cases.update_aggregator import UpdateAggregator

if TYPE_CHECKING:
    from muster.runtime import Runtime

_CHECKPOINT, _RESULT, _BROADCAST = "checkpoints", "results", "broadcasts"
_COPIES = 4  # approximate copies of a plan's state and accumulator that a run holds at once


@dataclass(frozen=True)
class RoundCommitter:
    """Committer of rounds and opener of tasks; `runtime` returns the runtime of a plan.

    Tasks do not wait for one another, except for memory (`MemoryBudget`). A second delivery of work that is in progress
    in this process returns at once: if the first one fails, it is delivered again, and the tick recovers work of a dead
    process.
    """

    platform: Platform
    folding: UpdateAggregator
    runtime: Callable[[Plan], Runtime]
    _memory: MemoryBudget = field(default_factory=MemoryBudget)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _under_way: set[object] = field(default_factory=set)

    def commit(self, key: RoundKey) -> None:
        """Computes the next state and makes it the task's, once. Safe to repeat, by several at once."""
        with self._alone(key) as alone:
            if alone:
                self._commit_once(key)

    def _commit_once(self, key: RoundKey) -> None:
        found = self.platform.round(key)
        if found is None or isinstance(found.value, Collecting):
            return
        if isinstance(found.value, Aggregating):
            task_found = self.platform.task(key.task)
            task = task_found.value
            if task.current != key or task.stopped or task.status not in (TaskStatus.ACTIVE, TaskStatus.PAUSED):
                return
            frozen = RoundLedger(self.platform, key).frozen()
            with stops_task(self.platform, task.name, f"Round {key.number} can't be committed", concerns=at_round(key)):
                ended = None if frozen is None else self._commit(found, found.value, task, frozen)
                if ended is not None and task.status is TaskStatus.ACTIVE:
                    follow(self.platform, task_found, ended, plans=self.folding.plans)
                else:
                    advance(self.platform, key.task, plans=self.folding.plans)
            return
        advance(self.platform, key.task, plans=self.folding.plans)

    @contextmanager
    def _alone(self, work: object) -> Iterator[bool]:
        """Claims `work` in this process during the body. Yields False if it is in progress already."""
        with self._lock:
            alone = work not in self._under_way
            self._under_way.add(work)
        try:
            yield alone
        finally:
            if alone:
                with self._lock:
                    self._under_way.discard(work)

    def _turn(self, plan: str) -> AbstractContextManager[None]:
        """Waits for the memory of a run of the plan."""
        manifest = self.folding.plans.manifest(plan)
        return self._memory.take(_COPIES * (manifest.initial_state.size + manifest.zero.size))

    def _commit(self, found: Versioned[Round], round_: Aggregating, task: Task, frozen: Frozen) -> Ended | None:
        """The round as it has ended now; None if it was not for us to end it."""
        key, terms = round_.key, round_.terms
        minimum = effective_minimum(terms, self._check_release(round_, task))
        with self._turn(terms.plan):
            accumulator = self.folding.start(terms)
            try:
                merged = self.folding.merge(accumulator, RoundLedger(self.platform, key), frozen.closing.parts())
            except BlobNotFoundError:
                # Delivered too early or too late: the close makes the missing parts.
                self.platform.enqueue(queued_work.close(key), key)
                return None
            tally = frozen.tally.plus(merged)
            if tally.folded < minimum:
                reason = f"{tally.folded} updates could be folded; the minimum is {minimum}"
                abandoned = abandon(round_, reason=reason, tally=tally, now=self.platform.clock.now())
                if not self._replace(found, abandoned):
                    return None
                events.round_abandoned(abandoned, below_minimum=True)
                return abandoned
            outcome = self._compute(round_, task, accumulator.tensors(), tally)
        committed = commit(round_, outcome, now=self.platform.clock.now(), floor=minimum)
        if self._replace(found, committed):
            events.round_committed(committed)
            return committed
        # What was computed is nobody's: the sweep removes it unread. The committer itself may delete nothing.
        self.platform.enqueue(queued_work.sweep(key), key)
        return None

    def _check_release(self, round_: Aggregating, task: Task) -> PlanManifest:
        """Returns the manifest of the round's plan, which decides on the release, whatever the documents say.

        Raises:
          ProblemError: `plan_invalid`, if the round runs another plan than its task, or exceeds the rounds that the
            plan's author allows.
        """
        plan = round_.terms.plan
        if plan != task.spec.plan:
            raise _refused(
                f"it runs plan {plan[:12]}…, and its task has plan {task.spec.plan[:12]}…, so one of their documents was changed"
            )
        manifest = self.folding.plans.manifest(plan)
        if not may_commit(round_.key.number, manifest):
            raise _refused("the plan's author does not allow a task to commit so many rounds")
        return manifest

    def _compute(self, round_: Aggregating, task: Task, tensors: Mapping[str, Array], tally: Tally) -> CommitResult:
        key, terms = round_.key, round_.terms
        plan = self.folding.plans.full(terms.plan)
        runner = PlanRunner(self.runtime(plan), terms.graph_seconds)
        clear = {item.path for item in plan.manifest.clear_sums}
        aggregate = runner.report({name: value for name, value in tensors.items() if name not in clear})
        state = read_state(self.platform.blobs.read(terms.base.blob.name))
        after = runner.update(state, aggregate, {name: value for name, value in tensors.items() if name in clear})
        outputs = {_CHECKPOINT: after.state, _RESULT: after.result}
        if key.number < effective_policy(task.spec.policy, plan.manifest).rounds:
            outputs[_BROADCAST] = runner.prepare(after.state)
        refs = map_concurrently(self.platform, lambda kind: self._put(kind, key, outputs[kind]), outputs)
        stored = dict(zip(outputs, refs, strict=True))
        return CommitResult(
            tally,
            Checkpoint(key.number, stored[_CHECKPOINT], self.platform.clock.now()),
            stored[_RESULT],
            stored.get(_BROADCAST),
            scalar_metrics(after.result),
        )

    def _put(self, kind: str, key: RoundKey, tensors: Mapping[str, Array]) -> BlobRef:
        """Stores an output, and of a broadcast its encoded copies."""
        data = _encoded(tensors, what=f"output ({kind})")
        stored = self.platform.put_output(kind, key, data)
        if kind == _BROADCAST:
            EncodedCopies(self.platform.blobs).make(stored.name, data)
        return stored

    def open(self, task_name: str) -> None:
        """Computes a task's first broadcast (after a rollback, its new one) and opens the round. Safe to repeat."""
        task = self.platform.task(task_name).value
        if task.status is not TaskStatus.OPENING:
            return
        # A rollback during an opening starts another opening, which does not wait for the first.
        with self._alone((task.name, task.created_at, task.number, task.epoch, task.restore)) as alone:
            if alone:
                with stops_task(
                    self.platform,
                    task_name,
                    "The first broadcast can't be computed",
                    concerns=lambda now: _is_same_opening(now, task),
                ):
                    self._open(task)

    def _open(self, task: Task) -> None:
        abandon_current(self.platform, task, reason="rolled back")
        plan = self.folding.plans.full(task.spec.plan)
        key = next_key(self.platform, task)
        if not may_commit(key.number, plan.manifest):
            raise _refused("the plan's author does not allow a task to commit so many rounds")
        base = task.restore or self._initial(plan, key)
        with self._turn(task.spec.plan):
            state = read_state(self.platform.blobs.read(base.blob.name))
            prepared = PlanRunner(self.runtime(plan), task.spec.policy.graph_seconds).prepare(state)
            broadcast = self._first_broadcast(key, _encoded(prepared, what="broadcast"))
        policy = effective_policy(task.spec.policy, plan.manifest)
        round_ = self._open_round(task, key, base, broadcast, policy=policy)
        if round_ is None:
            return
        # Rolled back again meanwhile, to another checkpoint perhaps: then that opening makes its own round.
        after = self.platform.change_task(
            task.name, lambda now: opened(now, round_.key, base) if _is_same_opening(now, task) else now
        )
        if after.current == round_.key:
            schedule_close(self.platform, round_)

    def _initial(self, plan: Plan, key: RoundKey) -> Checkpoint:
        part, name = plan.manifest.initial_state, names.output_prefix("checkpoints", key.task, 0) + "initial"
        self.platform.blobs.create(name, [plan.part(part)])
        return Checkpoint(0, BlobRef(name, part.sha256, part.size), self.platform.clock.now())

    def _first_broadcast(self, key: RoundKey, data: bytes) -> BlobRef:
        """Freezes the broadcast: of several tries, `prepare` being random perhaps, the first one's bytes stand."""
        name = names.output_prefix("broadcasts", key.task, key.number) + f"open{key.epoch}"
        self.platform.blobs.create(name, [data])
        stored = self.platform.blobs.read(name)
        EncodedCopies(self.platform.blobs).make(name, stored)
        return BlobRef(name, hashlib.sha256(stored).hexdigest(), len(stored))

    def _open_round(
        self, task: Task, key: RoundKey, base: Checkpoint, broadcast: BlobRef, *, policy: TaskPolicy
    ) -> Round | None:
        """Makes the round, or takes the one that an earlier try made; one from another state is given up and passed over.

        None if the task has gone on meanwhile: a late repeat must not give up the round that an earlier one opened.
        """
        starts_at = policy.starts_at
        now = self.platform.clock.now()
        while True:
            made = open_round(
                key,
                policy,
                plan=task.spec.plan,
                base=base,
                broadcast=broadcast,
                sums_in_the_clear=task.sums_in_the_clear,
                opens_at=max(now, starts_at.timestamp()) if starts_at is not None else now,
                expected_seconds=None,
            )
            found = self.platform.rounds.ensure(names.round_path(key), made)
            if found.value == made:
                return made
            if found.value.terms.base.version == base.version and isinstance(found.value, Collecting):
                return found.value
            if not _is_same_opening(self.platform.task(task.name).value, task):
                return None
            abandon_current(self.platform, replace(task, number=key.number, epoch=key.epoch), reason="superseded")
            key = replace(key, epoch=key.epoch + 1)

    def _replace(self, found: Versioned[Round], value: Round) -> bool:
        try:
            self.platform.rounds.replace(found, value)
        except ConflictError:
            return False
        return True


def _refused(detail: str) -> ProblemError:
    return ProblemError(ProblemType.PLAN_INVALID, detail)


def _is_same_opening(now: Task, task: Task) -> bool:
    """Returns whether the task is still at the opening of `task`, whether or not it is paused afterwards."""
    return replace(now, pause_once_open=task.pause_once_open) == task


def _encoded(tensors: Mapping[str, Array], *, what: str) -> bytes:
    with plan_failures(f"The plan's {what}"):
        return encode(tensors)
