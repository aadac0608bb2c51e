"""The round committer computes a round's result and the next state. It runs TensorFlow.

The first compare-and-set wins. The sweep deletes the outputs of the other attempts unread, so a
retry can't redraw differential-privacy noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING

from muster.wire.manifest import PlanManifest
from muster.wire.messages import TaskStatus
from muster.wire.plan import Plan
from muster.wire.tensors import Array
from muster_coordinator import events, queued_work
from muster_coordinator.concurrency.claims import Claims
from muster_coordinator.concurrency.memory_budget import MemoryBudget
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
    Terms,
    abandon,
    commit,
)
from muster_coordinator.domain.tally import Tally
from muster_coordinator.domain.tasks import Task
from muster_coordinator.plan_runner import PlanRunner, encode_output, memory_of_run, plan_refused, read_state
from muster_coordinator.ports import BlobNotFoundError, ConflictError
from muster_coordinator.state.checkpoints import find_committed
from muster_coordinator.state.encoded_copies import EncodedCopies
from muster_coordinator.state.lifecycle import (
    continue_after_round,
    continue_task,
)
from muster_coordinator.state.parallel import map_concurrently
from muster_coordinator.state.partial_builder import PartialBuilder
from muster_coordinator.state.pausing import is_at_round, pause_on_final_problem
from muster_coordinator.state.plan_repository import PlanRepository
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.records import Versioned
from muster_coordinator.state.round_ledger import FrozenClosing, RoundLedger

if TYPE_CHECKING:
    from muster.runtime import Runtime

_CHECKPOINT, _RESULT, _BROADCAST = "checkpoints", "results", "broadcasts"


@dataclass(frozen=True)
class RoundCommitter:
    """Committer of rounds.

    Tasks do not wait for one another, except for memory. A second delivery of work that is in
    progress in this process returns at once: if the first one fails, it is delivered again, and the
    tick recovers work of a dead process.

    Attributes:
      runtime: Returns the runtime of a plan.
      memory: Memory of the process, which the runs of plans share.
    """

    platform: Platform
    _: KW_ONLY
    plans: PlanRepository
    partials: PartialBuilder
    runtime: Callable[[Plan], Runtime]
    memory: MemoryBudget
    _claims: Claims = field(default_factory=Claims)

    def commit(self, key: RoundKey) -> None:
        """Commits the round: computes the next state and makes it the task's, once.

        Idempotent, safe to run concurrently.
        """
        with self._claims.claim(key) as claimed:
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

    def _commit(self, record: Versioned[Round], round_: Aggregating, task: Task, frozen: FrozenClosing) -> Ended | None:
        """Ends the round and returns it, or None if a partial is missing or a write lost."""
        key, terms = round_.key, round_.terms
        minimum = effective_minimum(terms, self._check_release(round_, task))
        with self.memory.take(memory_of_run(self.plans.manifest(terms.plan))):
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
            raise plan_refused(
                f"it runs plan {plan[:12]}…, and its task has plan {task.spec.plan[:12]}…, "
                "so one of their documents was changed"
            )
        manifest = self.plans.manifest(plan)
        if not may_commit(round_.key.number, manifest):
            raise plan_refused("the plan's author does not allow a task to commit so many rounds")
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
        data = encode_output(tensors, what=f"output ({kind})")
        stored = self.platform.put_output(kind, key, data)
        if kind == _BROADCAST:
            EncodedCopies(self.platform.blobs).make(stored.name, data)
        return stored

    def _replace(self, record: Versioned[Round], value: Round) -> bool:
        """Replaces the round by compare-and-set. Returns False if another writer was faster."""
        try:
            self.platform.rounds.replace(record, value)
        except ConflictError:
            return False
        return True


def _may_commit(task: Task) -> bool:
    """Returns whether the task's current round may be committed.

    The open round of a driven task that was rolled back is to be abandoned, even if it is paused.
    """
    return task.status in (TaskStatus.ACTIVE, TaskStatus.PAUSED) and not task.stopped and not task.resting
