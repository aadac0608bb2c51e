"""Resolves references to states: own checkpoints, checkpoints of other tasks, and stored states.

A resolved base names the blob that holds the referred state. The committer copies a state from
outside the task under the task's own name before a round starts from it (`state/base_blobs.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, replace

from muster.wire.messages import StateRef, TaskStatus
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import TensorsError, read_file_header
from muster_coordinator.domain import names
from muster_coordinator.domain.rounds import BlobRef, Checkpoint, Origin
from muster_coordinator.domain.states import Described, check_taken
from muster_coordinator.domain.tasks import Task
from muster_coordinator.ports import BlobNotFoundError
from muster_coordinator.state import checkpoints
from muster_coordinator.state.plan_repository import PlanRepository
from muster_coordinator.state.platform import Platform

# Bytes of a stored state whose tensors are checked when a reference names it. A larger one is
# checked when it is used, since a store reads a blob as a whole.
MAX_CHECKED_AT_ONCE = 32 << 20


@dataclass(frozen=True, slots=True)
class ResolvedBase:
    """State that a round, or a task, starts from.

    Attributes:
      checkpoint: The own checkpoint. For a state from outside the task, a checkpoint of version 0
        whose blob is the referred state as it is stored, without regard to `origin.leaves`.
      origin: Where the state comes from, or None for an own checkpoint.
    """

    checkpoint: Checkpoint
    origin: Origin | None = None


@dataclass(frozen=True)
class BaseResolver:
    """Resolver of references to states, with all checks that need no computation."""

    platform: Platform
    _: KW_ONLY
    plans: PlanRepository

    def resolve(self, task: Task, ref: StateRef | None) -> ResolvedBase:
        """Returns the base that a reference of a task names. Reads only.

        Args:
          task: The task whose round starts from it. It need not be stored yet.
          ref: The reference, or None for the task's newest checkpoint. A `state` is first looked up
            among the task's own checkpoints, so that a program that reloads its state by value
            continues its line.

        Raises:
          ProblemError: `not_found` if the task, checkpoint or state does not exist;
            `invalid_request` if a prefix matches no tensor of the plan's state, or a tensor to take
            is missing or has another dtype or shape.
        """
        if ref is None:
            if task.checkpoint is None:
                detail = f"Task {task.name} has no checkpoint yet; it opens when the committer has run"
                raise ProblemError(ProblemType.NOT_FOUND, detail)
            return ResolvedBase(task.checkpoint)
        if ref.state is not None:
            own = checkpoints.with_hash(self.platform, task, ref.state)
            return self._stored(task, ref, ref.state) if own is None else self._own(task, own, ref)
        version = ref.version or 0
        if ref.task in (None, task.name):
            return self._own(task, checkpoints.checkpoint(self.platform, task.name, version), ref)
        return self._foreign(task, str(ref.task), version, ref)

    def _own(self, task: Task, checkpoint: Checkpoint, ref: StateRef) -> ResolvedBase:
        if not ref.leaves:
            return ResolvedBase(checkpoint)
        specs = self.plans.manifest(task.spec.plan).state
        self._check(task, {spec.path: spec for spec in specs}, ref, what=f"Checkpoint {checkpoint.version}")
        origin = Origin(task=task.name, version=checkpoint.version, leaves=ref.leaves)
        return ResolvedBase(replace(checkpoint, version=0, line=checkpoint.rounds_on_line), origin)

    def _foreign(self, task: Task, other: str, version: int, ref: StateRef) -> ResolvedBase:
        source = self.platform.task(other).value
        if source.status is TaskStatus.DELETING:
            raise ProblemError(ProblemType.NOT_FOUND, f"Task {other} is being deleted; start from another state")
        checkpoint = checkpoints.checkpoint(self.platform, other, version)
        specs = self.plans.manifest(source.spec.plan).state
        what = f"Checkpoint {version} of task {other}"
        self._check(task, {spec.path: spec for spec in specs}, ref, what=what)
        origin = Origin(task=other, version=version, leaves=ref.leaves)
        return ResolvedBase(replace(checkpoint, version=0, line=0), origin)

    def _stored(self, task: Task, ref: StateRef, sha256: str) -> ResolvedBase:
        blob = self.platform.blobs.stat(names.state_name(sha256))
        if blob is None:
            raise ProblemError(
                ProblemType.NOT_FOUND,
                f"There is no state {sha256[:12]}… here; upload it first, with PUT /v1/states/{{sha256}}",
            )
        source = self._entries(blob.name) if blob.size <= MAX_CHECKED_AT_ONCE else None
        self._check(task, source, ref, what=f"State {sha256[:12]}…")
        origin = Origin(state=sha256, leaves=ref.leaves)
        return ResolvedBase(Checkpoint(0, BlobRef(blob.name, sha256, blob.size), blob.created, line=0), origin)

    def _entries(self, name: str) -> Mapping[str, Described]:
        """Returns the tensors of a stored state."""
        try:
            header = read_file_header(self.platform.blobs.read(name))
        except (BlobNotFoundError, TensorsError) as error:
            raise ProblemError(ProblemType.NOT_FOUND, f"The stored state {name} can't be read: {error}") from error
        return {entry.name: entry for entry in header.entries}

    def _check(self, task: Task, source: Mapping[str, Described] | None, ref: StateRef, *, what: str) -> None:
        specs = self.plans.manifest(task.spec.plan).state
        # Without the source's tensors, the prefixes alone are checked.
        known = {spec.path: spec for spec in specs} if source is None else source
        check_taken(known, specs, ref.leaves, what=what)
