"""Stores states from outside a task under the task's own names, before a round starts from them.

So the deletion of the other task, or of the stored state, breaks no round. A blob's name follows
from its source, and its bytes from source and plan. So a repeat after a crash, or a concurrent
opening, finds or makes the same bytes. The blob is created before any document names it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace

from muster.wire.messages import StateRef
from muster.wire.plan import Plan
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import TensorsError, decode, encode, read_file_header
from muster_coordinator.domain import names
from muster_coordinator.domain.rounds import BlobRef, Checkpoint, Origin
from muster_coordinator.domain.states import check_taken, taken_specs
from muster_coordinator.domain.tasks import Task
from muster_coordinator.ports import BlobNotFoundError, Buffer
from muster_coordinator.state.bases import BaseResolver, ResolvedBase
from muster_coordinator.state.platform import Platform


@dataclass(frozen=True)
class BaseBlobs:
    """Blobs of the states that tasks take from outside: version 0, and bases of requested rounds.

    It needs the memory of about two states.
    """

    platform: Platform
    _: KW_ONLY
    resolver: BaseResolver

    def first_checkpoint(self, task: Task, plan: Plan) -> Checkpoint:
        """Stores version 0 of a task: the plan's initial state, or the task's `start`. Idempotent.

        Raises:
          ProblemError: `invalid_request` if the start does not exist any more, or does not fit.
        """
        now, start, initial = self.platform.clock.now(), task.spec.start, plan.manifest.initial_state
        if start is None:
            name = names.first_checkpoint_name(task.name, "")
            self.platform.blobs.create(name, [plan.part(initial)])
            return Checkpoint(0, BlobRef(name, initial.sha256, initial.size), now, line=0)
        name = names.first_checkpoint_name(task.name, _source(start))
        blob = self._ensure(name, lambda: self._composed(plan, self._resolved(task)))
        return Checkpoint(0, blob, now, line=0)

    def base(self, task: Task, plan: Plan, base: Checkpoint, *, origin: Origin | None, number: int) -> Checkpoint:
        """Returns the checkpoint that a round starts from, stored under the task's own name.

        Idempotent. An own checkpoint is returned as it is.

        Args:
          task: The task.
          plan: Its plan.
          base: The base as it was resolved.
          origin: Where the base comes from, or None.
          number: The round's number.

        Raises:
          ProblemError: `invalid_request` if the base does not exist any more, or does not fit.
        """
        if origin is None:
            return base
        source = "\n".join((base.blob.sha256, *origin.leaves))
        name = names.base_name(task.name, number, source)
        blob = self._ensure(name, lambda: self._composed(plan, ResolvedBase(base, origin)))
        return replace(base, blob=blob)

    def _ensure(self, name: str, make: Callable[[], Buffer]) -> BlobRef:
        """Returns the blob, which it creates if it is missing."""
        try:
            data: Buffer = self.platform.blobs.read(name)
        except BlobNotFoundError:
            data = make()
            self.platform.blobs.create(name, [data])
        return BlobRef(name, hashlib.sha256(data).hexdigest(), len(data))

    def _resolved(self, task: Task) -> ResolvedBase:
        try:
            return self.resolver.resolve(task, task.spec.start)
        except ProblemError as problem:
            if problem.type is not ProblemType.NOT_FOUND:
                raise
            raise _invalid(f"The task's start is missing: {problem.detail}") from problem

    def _composed(self, plan: Plan, resolved: ResolvedBase) -> Buffer:
        blob, origin = resolved.checkpoint.blob, resolved.origin
        try:
            data = self.platform.blobs.read(blob.name)
        except BlobNotFoundError:
            raise _invalid(f"The state {blob.name} was deleted; choose another one") from None
        return compose(plan, data, origin.leaves if origin is not None else (), what=f"The state {blob.name}")


def compose(plan: Plan, data: memoryview, leaves: Sequence[str], *, what: str) -> Buffer:
    """Returns a state of the plan as safetensors: deterministic, and checked tensor by tensor.

    Args:
      plan: The plan.
      data: The given state.
      leaves: Prefixes of the paths to take from it; the others are those of the plan's initial
        state. Empty: the given state is returned as it is, byte for byte.
      what: The given state, as the subject of a problem's text.

    Raises:
      ProblemError: `invalid_request` if the given state can't be read or does not fit.
    """
    try:
        specs = plan.manifest.state
        source = {entry.name: entry for entry in read_file_header(data).entries}
        check_taken(source, specs, leaves, what=what)
        given = decode(data)
    except TensorsError as error:
        raise _invalid(f"{what} can't be read: {error}") from error
    if not leaves:
        return data
    initial = decode(plan.part(plan.manifest.initial_state))
    taken = {spec.path for spec in taken_specs(specs, leaves)}
    return encode({spec.path: (given if spec.path in taken else initial)[spec.path] for spec in specs})


def _source(start: StateRef) -> str:
    return "\n".join((start.state or f"{start.task}/{start.version}", *start.leaves))


def _invalid(detail: str) -> ProblemError:
    return ProblemError(ProblemType.INVALID_REQUEST, detail)
