"""Starts the evaluations of a training task's checkpoints, and ends them after the task.

    the training task commits ──► due ──► request: idle → opening ──► … ──► committed: idle
                                                                              │ the task has ended
                                                                              ▼
                                                                          completed

One compare-and-set on the evaluation task requests a run, and the work to open it is enqueued after
that. Of several callers one wins. A crash before the write leaves the evaluation due, one after it
leaves the task opening: the tick repairs both.
"""

from __future__ import annotations

from muster.wire.messages import TaskKind, TaskStatus
from muster_coordinator import queued_work
from muster_coordinator.domain import evaluations as domain
from muster_coordinator.domain import names
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import Checkpoint, Committed
from muster_coordinator.domain.tasks import Task
from muster_coordinator.state.parallel import map_concurrently
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.records import UnreadableError, Versioned
from muster_coordinator.state.round_keys import next_round_key

_TRAINING_DELETED = "its training task was deleted"
_ATTEMPTS_PAGE = 100  # attempts of a round that are read with one call


def follow(platform: Platform, task: Task) -> None:
    """Starts or ends evaluations after a round of `task` has ended. Idempotent.

    Args:
      platform: The ports.
      task: The training task, whose evaluations are those of its population, or an evaluation.
    """
    if task.spec.evaluates is not None:
        advance(platform, task.name)
        return
    if task.spec.kind is not TaskKind.TRAIN:
        return
    members = platform.documents.list(names.population_tasks_path(task.spec.population))
    others = [member.id for member in members if member.id != task.name]
    for record in map_concurrently(platform, lambda name: _read(platform, name), others):
        if record is not None and domain.evaluates(record.value, task):
            advance(platform, record.value.name)


def advance(platform: Platform, name: str) -> None:
    """Requests the evaluation that is due, or completes an evaluation whose task has ended.

    Does nothing unless the evaluation is idle. Idempotent, and safe to call concurrently.
    """
    record = platform.tasks.get(names.task_path(name))
    spec = None if record is None else record.value.spec.evaluates
    if record is None or spec is None or record.value.status is not TaskStatus.IDLE:
        return
    training = platform.tasks.get(names.task_path(spec.task))
    if training is None or training.value.status is TaskStatus.DELETING:
        _complete(platform, record, note=_TRAINING_DELETED)
    elif domain.is_due(record.value, training.value):
        _request(platform, record, training.value)
    elif training.value.ended:
        _complete(platform, record)


def _request(platform: Platform, record: Versioned[Task], training: Task) -> None:
    base = _base(platform, record.value, training)
    if base is None:
        return
    first = next_round_key(platform, record.value).number
    expected = domain.request(record.value, base, training=training.name, first=first)
    after = platform.change_task(
        record.value.name,
        lambda latest: expected if latest == record.value else latest,
        current=record,
    )
    if after == expected and after.status is TaskStatus.OPENING:
        nonce = platform.randomness.nonce()
        platform.queue.enqueue(queued_work.open_task(after.name), name=f"open-{after.name}-v{base.version}-{nonce}")


def _base(platform: Platform, evaluation: Task, training: Task) -> Checkpoint | None:
    """Returns the due checkpoint.

    That is the newest one if the due one is no longer stored, or a rollback lies between them. None
    if there is no checkpoint.
    """
    newest, spec = training.checkpoint, evaluation.spec.evaluates
    if newest is None or spec is None:
        return None
    version = domain.due_version(training, every=spec.every)
    if version < newest.version:
        due = _checkpoint(platform, training.name, version)
        if due is not None and domain.follows(due, newest) and _is_stored(platform, due):
            return due
    return newest


def _is_stored(platform: Platform, checkpoint: Checkpoint) -> bool:
    """Returns whether a checkpoint's file is stored. The aggregator may list such files only."""
    name = checkpoint.blob.name
    return any(blob.name == name for blob in platform.blobs.list(name))


def _checkpoint(platform: Platform, task: str, version: int) -> Checkpoint | None:
    """Returns the checkpoint of a committed round, or None."""
    page = platform.rounds.page(
        names.rounds_path(task), after=RoundKey(task, version - 1, 9999).id, limit=_ATTEMPTS_PAGE
    )
    for record in page.records:
        if record.value.key.number == version and isinstance(record.value, Committed):
            return record.value.checkpoint
    return None


def _complete(platform: Platform, record: Versioned[Task], *, note: str = "") -> None:
    evaluation = record.value
    after = platform.change_task(
        evaluation.name,
        lambda latest: domain.complete(latest, note=note) if latest == evaluation else latest,
        current=record,
    )
    if after.ended:
        # A crash before this leaves an ended member, which check-ins skip and the tick removes.
        platform.documents.delete(names.member_path(evaluation.spec.population, evaluation.name))


def _read(platform: Platform, name: str) -> Versioned[Task] | None:
    """Returns a task, or None if it is missing or only a newer version can read it."""
    try:
        return platform.tasks.get(names.task_path(name))
    except UnreadableError:
        return None
