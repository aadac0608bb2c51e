"""The round committer computes a round's result and the next state, and opens tasks.

Both run TensorFlow.

The first compare-and-set wins. The sweep deletes the outputs of the other attempts unread, so a
retry can't redraw differential-privacy noise.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from muster.wire.manifest import PlanManifest
from muster.wire.messages import TaskPolicy, TaskStatus
from muster.wire.plan import Plan
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import Array, encode
from muster_coordinator import events, queued_work
from muster_coordinator.concurrency.memory_budget import MemoryBudget
from muster_coordinator.domain import names
from muster_coordinator.domain.budget import has_next
from muster_coordinator.domain.guards import judge_result
from muster_coordinator.domain.metrics import scalar_metrics
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.release import effective_minimum, effective_policy, may_commit
from muster_coordinator.domain.rounds import (
    Aggregating,
    BlobRef,
    Checkpoint,
    Collecting,
    CommitResult,
    Committed,
    Ended,
    Round,
    Tally,
    Terms,
    abandon,
    commit,
    open_round,
)
from muster_coordinator.domain.runs import ready, run_policy
from muster_coordinator.domain.tasks import Task, opened
from muster_coordinator.plan_runner import PlanRunner, plan_failures, read_state
from muster_coordinator.ports import BlobNotFoundError, ConflictError
from muster_coordinator.state import evaluations
from muster_coordinator.state.base_blobs import BaseBlobs
from muster_coordinator.state.bases import BaseResolver, ResolvedBase
from muster_coordinator.state.checkpoints import find_committed
from muster_coordinator.state.encoded_copies import EncodedCopies
from muster_coordinator.state.lifecycle import (
    abandon_current,
    continue_after_round,
    continue_task,
    schedule_close,
)
from muster_coordinator.state.parallel import map_concurrently
from muster_coordinator.state.partial_builder import PartialBuilder
from muster_coordinator.state.pausing import is_at_round, pause_on_final_problem
from muster_coordinator.state.plan_repository import PlanRepository
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.records import Versioned
from muster_coordinator.state.round_keys import next_round_key
from muster_coordinator.state.round_ledger import FrozenClosing, RoundLedger

if TYPE_CHECKING:
    from muster.runtime import Runtime

_CHECKPOINT, _RESULT, _BROADCAST = "checkpoints", "results", "broadcasts"
_COPIES_PER_RUN = 4  # approximate copies of a plan's state and accumulator that a run holds at once


@dataclass(frozen=True)
class RoundCommitter:
    """Committer of rounds and opener of tasks; `runtime` returns the runtime of a plan.

    Tasks do not wait for one another, except for memory (`MemoryBudget`). A second delivery of work
    that is in progress in this process returns at once: if the first one fails, it is delivered
    again, and the tick recovers work of a dead process.
    """

    platform: Platform
    _: KW_ONLY
    plans: PlanRepository
    partials: PartialBuilder
    runtime: Callable[[Plan], Runtime]
    _memory: MemoryBudget = field(default_factory=MemoryBudget)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _in_progress: set[object] = field(default_factory=set)

    def commit(self, key: RoundKey) -> None:
        """Commits the round: computes the next state and makes it the task's, once.

        Idempotent, safe to run concurrently.
        """
        with self._claim(key) as claimed:
            if claimed:
                self._commit_claimed(key)

    def _commit_claimed(self, key: RoundKey) -> None:
        record = self.platform.round(key)
        if record is None or isinstance(record.value, Collecting):
            return
        if isinstance(record.value, Aggregating):
            task = self.platform.task(key.task).value
            if task.current != key or not _may_commit(task):
                return
            frozen = RoundLedger(self.platform, key).frozen()
            with pause_on_final_problem(
                self.platform, task.name, f"Round {key.number} can't be committed", concerns=is_at_round(key)
            ):
                ended = None if frozen is None else self._commit(record, record.value, task, frozen)
                self._continue(key, ended)
            return
        continue_task(self.platform, key.task, plans=self.plans)

    def _continue(self, key: RoundKey, ended: Ended | None) -> None:
        """Continues the task of a round that this process has ended, unless it could not end it."""
        if ended is not None:
            # Read again: the policy may have been changed during the computations.
            task = self.platform.task(key.task)
            if task.value.current == key:
                continue_after_round(self.platform, task, ended, plans=self.plans)
                return
        continue_task(self.platform, key.task, plans=self.plans)

    @contextmanager
    def _claim(self, work: object) -> Iterator[bool]:
        """Claims `work` in this process during the body.

        Yields False if it is in progress already.
        """
        with self._lock:
            claimed = work not in self._in_progress
            self._in_progress.add(work)
        try:
            yield claimed
        finally:
            if claimed:
                with self._lock:
                    self._in_progress.discard(work)

    def _memory_for_run(self, plan: str) -> AbstractContextManager[None]:
        """Waits for, and holds, the memory of a run of the plan."""
        manifest = self.plans.manifest(plan)
        return self._memory.take(_COPIES_PER_RUN * (manifest.initial_state.size + manifest.zero.size))

    def _commit(self, record: Versioned[Round], round_: Aggregating, task: Task, frozen: FrozenClosing) -> Ended | None:
        """Ends the round and returns it, or None if a partial is missing or a write lost."""
        key, terms = round_.key, round_.terms
        minimum = effective_minimum(terms, self._check_release(round_, task))
        with self._memory_for_run(terms.plan):
            accumulator = self.partials.start(terms)
            try:
                merged = self.partials.merge(accumulator, RoundLedger(self.platform, key), frozen.closing.parts())
            except BlobNotFoundError:
                # This delivery is too early or too late. The close makes the missing partials.
                self.platform.enqueue(queued_work.close(key), key)
                return None
            tally = frozen.tally.plus(merged)
            if tally.folded < minimum:
                reason = f"{tally.folded} updates could be folded; the minimum is {minimum}"
                abandoned = abandon(round_, reason=reason, tally=tally, now=self.platform.clock.now())
                if not self._replace(record, abandoned):
                    return None
                events.round_abandoned(abandoned, below_minimum=True)
                return abandoned
            result = self._compute(round_, task, accumulator.tensors(), tally)
        committed = commit(round_, result, now=self.platform.clock.now(), floor=minimum)
        if self._replace(record, committed):
            events.round_committed(committed)
            return committed
        # The sweep deletes this attempt's outputs unread. The committer itself has no permission to
        # delete.
        self.platform.enqueue(queued_work.sweep(key), key)
        return None

    def _check_release(self, round_: Aggregating, task: Task) -> PlanManifest:
        """Returns the manifest of the round's plan, which decides on the release.

        It decides even if a document was tampered with.

        Raises:
          ProblemError: `plan_invalid` if the round runs another plan than its task, or exceeds the
            rounds that the plan's author allows.
        """
        plan = round_.terms.plan
        if plan != task.spec.plan:
            raise _refused(
                f"it runs plan {plan[:12]}…, and its task has plan {task.spec.plan[:12]}…, "
                "so one of their documents was changed"
            )
        manifest = self.plans.manifest(plan)
        if not may_commit(round_.key.number, manifest):
            raise _refused("the plan's author does not allow a task to commit so many rounds")
        return manifest

    def _compute(self, round_: Aggregating, task: Task, tensors: Mapping[str, Array], tally: Tally) -> CommitResult:
        """Runs the plan's server part over the merged accumulator, and stores the outputs."""
        key, terms = round_.key, round_.terms
        plan = self.plans.full(terms.plan)
        runner = PlanRunner(self.runtime(plan), terms.graph_seconds)
        clear_paths = {item.path for item in plan.manifest.clear_sums}
        aggregate = runner.report({path: value for path, value in tensors.items() if path not in clear_paths})
        clear_sums = {path: value for path, value in tensors.items() if path in clear_paths}
        state = read_state(self.platform.blobs.read(terms.base.blob.name))
        after = runner.update(state, aggregate, clear_sums)
        outputs = {_CHECKPOINT: after.state, _RESULT: after.result}
        line = terms.base.rounds_on_line + 1
        policy = effective_policy(task.spec.policy, plan.manifest)
        if has_next(task, key, line=line, policy=policy, manifest=plan.manifest):
            outputs[_BROADCAST] = runner.prepare(after.state)
        refs = map_concurrently(self.platform, lambda kind: self._put(kind, key, outputs[kind]), outputs)
        stored = dict(zip(outputs, refs, strict=True))
        guards = task.spec.policy.guards
        parent = self._parent(key.task, terms) if guards.worsening is not None else None
        verdict = judge_result(guards, base=state, state=after.state, result=after.result, parent=parent)
        return CommitResult(
            tally,
            Checkpoint(key.number, stored[_CHECKPOINT], self.platform.clock.now(), line=line),
            stored[_RESULT],
            stored.get(_BROADCAST),
            scalar_metrics(after.result),
            tripped=verdict.tripped,
            compared=verdict.compared,
            worsened=verdict.worsened,
        )

    def _parent(self, task: str, terms: Terms) -> Committed | None:
        """Returns the round that made the base, or None if no round of the task did."""
        if terms.origin is not None or not terms.base.version:
            return None
        record = find_committed(self.platform, task, terms.base.version)
        return None if record is None else record.value

    def _put(self, kind: str, key: RoundKey, tensors: Mapping[str, Array]) -> BlobRef:
        """Stores an output, and the encoded copies of a broadcast."""
        data = _encode(tensors, what=f"output ({kind})")
        stored = self.platform.put_output(kind, key, data)
        if kind == _BROADCAST:
            EncodedCopies(self.platform.blobs).make(stored.name, data)
        return stored

    def open(self, task_name: str) -> None:
        """Computes a task's first broadcast (after a rollback, its new one) and opens the round.

        A new driven task only gets its version 0, and its runs are opened like a task. Idempotent.
        """
        task = self.platform.task(task_name).value
        if task.status is not TaskStatus.OPENING:
            return
        # A rollback during an opening starts another opening, which does not wait for the first.
        with self._claim(
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
            raise _refused("the plan's author does not allow a task to commit so many rounds")
        with self._memory_for_run(task.spec.plan):
            if task.driven and not task.running:
                self._make_ready(task, plan)
                return
            base = self._base(task, plan, key)
            state = self._read_base(base.checkpoint)
            prepared = PlanRunner(self.runtime(plan), task.spec.policy.graph_seconds).prepare(state)
            broadcast = self._first_broadcast(key, base.checkpoint, _encode(prepared, what="broadcast"))
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
            raise _refused(f"version {base.version} is not stored any more; roll back to a version that is") from error

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

    def _replace(self, record: Versioned[Round], value: Round) -> bool:
        """Replaces the round by compare-and-set. Returns False if another writer was faster."""
        try:
            self.platform.rounds.replace(record, value)
        except ConflictError:
            return False
        return True


def _refused(detail: str) -> ProblemError:
    return ProblemError(ProblemType.PLAN_INVALID, detail)


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


def _may_commit(task: Task) -> bool:
    """Returns whether the task's current round may be committed.

    The open round of a driven task that was rolled back is to be abandoned, even if it is paused.
    """
    return task.status in (TaskStatus.ACTIVE, TaskStatus.PAUSED) and not task.stopped and not task.resting


def _has_same_start(stored: Round, new: Round) -> bool:
    """Returns whether two attempts start from the same state for the same request."""
    ours, theirs = stored.terms, new.terms
    return (ours.base.blob, ours.origin, ours.request) == (theirs.base.blob, theirs.origin, theirs.request)


def _request(task: Task) -> str:
    """Returns the request that an opening answers; empty unless the task is driven."""
    return "" if task.run is None else task.run.request


def _encode(tensors: Mapping[str, Array], *, what: str) -> bytes:
    """Returns the tensors as safetensors.

    Raises `ProblemError` if the plan made tensors that can't be encoded.
    """
    with plan_failures(f"The plan's {what}"):
        return encode(tensors)
