"""Evaluation of a training task's checkpoints, by a task beside it (`TaskSpec.evaluates`).

The numbers of both tasks say whether an evaluation is due. While it is due or open, the clients of
the evaluation's share do not train, and the others do not evaluate. It is due from the commit of
the training round on, which is before the evaluation's own round opens and in the same write that
lets the next training round assign clients. So no client is in both at once.

The share is a threshold on a keyed hash of the client's identity, which is fixed for an evaluation.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace

from muster.wire.messages import TaskStatus
from muster_coordinator.domain.rounds import Checkpoint, Origin
from muster_coordinator.domain.runs import start
from muster_coordinator.domain.tasks import Run, Task

# Label of key derivation. The share of every evaluation in progress depends on its exact bytes.
_SHARE_LABEL = b"which clients evaluate a task"
_HASH_BYTES = 6  # fits into a float without rounding, so the value is below 1
_RUNNING = (TaskStatus.OPENING, TaskStatus.IDLE, TaskStatus.ACTIVE)


def share_value(secret: bytes, evaluation: str, identity: str) -> float:
    """Returns a client's value in [0, 1). It evaluates if the value is below the share.

    Args:
      secret: The key of the evaluation's share.
      evaluation: The evaluation task.
      identity: The client.
    """
    text = f"{evaluation}\n{identity}".encode()
    digest = hmac.new(hmac.digest(secret, _SHARE_LABEL, "sha256"), text, hashlib.sha256).digest()
    return int.from_bytes(digest[:_HASH_BYTES], "big") / (1 << 8 * _HASH_BYTES)


def requested_version(evaluation: Task) -> int:
    """Returns the newest version whose evaluation was requested, or 0."""
    run = evaluation.run
    return 0 if run is None or run.origin is None else run.origin.version or 0


def due_version(training: Task, *, every: int) -> int:
    """Returns the version of the training task that is to be evaluated, or was; 0 if none is.

    That is the newest multiple of `every` or, after the task's end, its last version. Older ones
    are skipped if evaluations are slow. Version 0 is not evaluated.
    """
    newest = 0 if training.checkpoint is None else training.checkpoint.version
    return newest if training.ended else newest - newest % every


def is_due(evaluation: Task, training: Task) -> bool:
    """Returns whether a version of the training task awaits its evaluation."""
    spec = evaluation.spec.evaluates
    if spec is None or spec.task != training.name:
        return False
    return due_version(training, every=spec.every) > requested_version(evaluation)


def evaluates(evaluation: Task, training: Task) -> bool:
    """Returns whether one task evaluates the other."""
    return evaluation.spec.evaluates is not None and evaluation.spec.evaluates.task == training.name


def reserves_clients(evaluation: Task, training: Task) -> bool:
    """Returns whether the clients of the evaluation's share may not train now.

    A paused or ended evaluation reserves no client.
    """
    if not evaluates(evaluation, training) or evaluation.pause_once_open or evaluation.status not in _RUNNING:
        return False
    is_open = evaluation.run is not None and evaluation.status is not TaskStatus.IDLE
    return is_open or is_due(evaluation, training)


def request(evaluation: Task, checkpoint: Checkpoint, *, training: str, first: int) -> Task:
    """Requests the evaluation of a checkpoint of the training task: one round, which opens next.

    A task that is not idle, or whose evaluation of that version was requested, stays unchanged. So
    of several callers one requests, and a repeat changes nothing.

    Args:
      evaluation: The evaluation task.
      checkpoint: The checkpoint, whose version is the idempotency key of the run.
      training: The training task.
      first: Number of the evaluation's next round.
    """
    spec = evaluation.spec.evaluates
    if spec is None or evaluation.status is not TaskStatus.IDLE:
        return evaluation
    if checkpoint.version <= requested_version(evaluation):
        return evaluation
    base = replace(checkpoint, version=0, line=0)  # as of every state from outside the task
    run = Run(
        request=f"v{checkpoint.version}",
        first=first,
        rounds=1,
        goal=evaluation.spec.policy.goal,
        base=base,
        origin=Origin(task=training, version=checkpoint.version, leaves=spec.leaves),
    )
    return start(evaluation, run)


def complete(evaluation: Task, *, note: str = "") -> Task:
    """Ends an idle evaluation whose training task has ended. Any other stays unchanged."""
    if evaluation.status is not TaskStatus.IDLE:
        return evaluation
    return replace(evaluation, status=TaskStatus.COMPLETED, note=note)


def follows(base: Checkpoint, newest: Checkpoint) -> bool:
    """Returns whether each version between two is a round's on one line, without a rollback."""
    return newest.version - base.version == newest.rounds_on_line - base.rounds_on_line
