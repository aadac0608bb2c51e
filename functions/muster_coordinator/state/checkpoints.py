"""Reads the committed rounds and the checkpoints of a task from its documents."""

from __future__ import annotations

from collections.abc import Iterator

from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.domain import names
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import Checkpoint, Committed, Round
from muster_coordinator.domain.tasks import Task
from muster_coordinator.ports import Document
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.records import Versioned

_ATTEMPTS_PAGE = 4  # attempts of a round that are read with one call
_ROUNDS_PAGE = 200  # rounds that are read with one call


def find_committed(platform: Platform, task: str, number: int) -> Versioned[Committed] | None:
    """Returns the committed attempt of a round, or None."""
    for document in _attempts(platform, task, number):
        if isinstance(round_ := platform.rounds.read(document).value, Committed):
            return Versioned(round_, document)
    return None


def committed_round(platform: Platform, task: str, number: int) -> Committed:
    """Returns a committed round. Raises `ProblemError` (`not_found`) if it is not committed."""
    platform.task(task)
    record = find_committed(platform, task, number)
    if record is None:
        raise ProblemError(ProblemType.NOT_FOUND, f"Round {number} of task {task} is not committed")
    return record.value


def newest_attempt(platform: Platform, task: str, number: int) -> Round:
    """Returns the newest attempt at a round. Raises `ProblemError` (`not_found`)."""
    platform.task(task)
    documents = [*_attempts(platform, task, number)]
    if not documents:
        raise ProblemError(ProblemType.NOT_FOUND, f"Task {task} has not opened round {number}")
    return platform.rounds.read(documents[-1]).value


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


def require_stored(round_: Committed) -> Committed:
    """Returns the round if its checkpoint and result are stored.

    Raises:
      ProblemError: `not_found`, if the task's retention has removed them.
    """
    if round_.stored:
        return round_
    number, task = round_.key.number, round_.key.task
    raise ProblemError(
        ProblemType.NOT_FOUND,
        f"Checkpoint and result {number} of task {task} are not stored any more: its policy's retention removed them. "
        "Use a version whose `stored` is true in the list of checkpoints; tag those that must stay",
    )


def checkpoint(platform: Platform, task: str, version: int) -> Checkpoint:
    """Returns a stored checkpoint of a task.

    Raises:
      ProblemError: `not_found` if it does not exist, or retention has removed it.
    """
    if not version:
        return first_checkpoint(platform, task)
    return require_stored(committed_round(platform, task, version)).checkpoint


def first_checkpoint(platform: Platform, name: str) -> Checkpoint:
    """Returns version 0 of a task.

    The document of a driven task names it. That of any other task does until the first commit, and
    then its first round.

    Raises:
      ProblemError: `not_found` if the task has not opened.
    """
    task = platform.task(name).value
    if task.initial is not None:
        return task.initial
    if task.checkpoint is not None and not task.checkpoint.version:
        return task.checkpoint
    first = platform.round(RoundKey(name, 1, 0))
    if first is None:
        detail = f"Task {name} has no checkpoint yet; it opens when the committer has run"
        raise ProblemError(ProblemType.NOT_FOUND, detail)
    return first.value.terms.base


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
