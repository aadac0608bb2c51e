"""Reads the committed rounds and the checkpoints of a task from its documents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.domain import names
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import BlobRef, Checkpoint, Committed
from muster_coordinator.domain.tasks import Task
from muster_coordinator.ports import Document
from muster_coordinator.state.platform import Platform

_ATTEMPTS_PAGE = 4  # attempts of a round that are read with one call
_ROUNDS_PAGE = 200  # rounds that are read with one call


def committed_round(platform: Platform, task: str, number: int) -> Committed:
    """Returns a committed round. Raises `ProblemError` (`not_found`) if it is not committed."""
    platform.task(task)
    for document in _attempts(platform, task, number):
        if isinstance(round_ := platform.rounds.read(document).value, Committed):
            return round_
    raise ProblemError(ProblemType.NOT_FOUND, f"Round {number} of task {task} is not committed")


def _attempts(platform: Platform, task: str, number: int) -> Iterator[Document]:
    """Yields the attempts at one round.

    Other rounds are not parsed, since only a newer version may be able to read them.
    """
    after: str | None = RoundKey(task, max(0, number - 1), 9999).id
    while after is not None:
        documents = platform.documents.list(names.rounds_path(task), after=after, limit=_ATTEMPTS_PAGE)
        after = documents[-1].id if len(documents) == _ATTEMPTS_PAGE else None
        for document in documents:
            if RoundKey.parse(task, document.id).number != number:
                return
            yield document


def checkpoint(platform: Platform, task: str, version: int) -> Checkpoint:
    """Returns a task's checkpoint. Raises `ProblemError` (`not_found`) if it does not exist."""
    return committed_round(platform, task, version).checkpoint if version else first_checkpoint(platform, task)


def check_stored(platform: Platform, task: str, checkpoint: Checkpoint) -> None:
    """Checks that retention has not deleted a checkpoint's file.

    Raises:
      ProblemError: `not_found` if it has.
    """
    if platform.blobs.stat(checkpoint.blob.name) is None:
        what = f"Checkpoint {checkpoint.version} of task {task}"
        raise ProblemError(ProblemType.NOT_FOUND, f"{what} is no longer stored; choose another version")


def first_checkpoint(platform: Platform, name: str) -> Checkpoint:
    """Returns version 0 of a task.

    The task's document names it until the first commit, and then its first round, unless that
    started from another state. Then the name of the blob holds its version.

    Raises:
      ProblemError: `not_found` if the task has not opened.
    """
    task = platform.task(name).value
    if task.checkpoint is not None:
        if not task.checkpoint.version:
            return task.checkpoint
        first = platform.round(RoundKey(name, 1, 0))
        if first is not None and first.value.terms.origin is None and not first.value.terms.base.version:
            return first.value.terms.base
        for blob in platform.blobs.list(names.output_prefix("checkpoints", name, 0)):
            sha256 = hashlib.sha256(platform.blobs.read(blob.name)).hexdigest()
            return Checkpoint(0, BlobRef(blob.name, sha256, blob.size), blob.created, line=0)
    raise ProblemError(ProblemType.NOT_FOUND, f"Task {name} has no checkpoint yet; it opens when the committer has run")


def with_hash(platform: Platform, task: Task, sha256: str) -> Checkpoint | None:
    """Returns the newest checkpoint of a task whose state has this hash, or None.

    Reads no round if that is the task's newest one, as for a program that reloads its last state.
    """
    if task.checkpoint is None:
        return None
    if task.checkpoint.blob.sha256 == sha256:
        return task.checkpoint
    newest: Checkpoint | None = None
    after: str | None = ""
    while after is not None:
        page = platform.rounds.page(names.rounds_path(task.name), after=after or None, limit=_ROUNDS_PAGE)
        for record in page.records:
            if isinstance(record.value, Committed) and record.value.checkpoint.blob.sha256 == sha256:
                newest = record.value.checkpoint
        after = page.last
    if newest is None and (first := first_checkpoint(platform, task.name)).blob.sha256 == sha256:
        newest = first
    return newest
