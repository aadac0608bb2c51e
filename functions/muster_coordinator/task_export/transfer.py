"""Moves a task with its state between deployments, such as from `muster up` to a cloud, by a file.

The task must not change during an export. So it must be paused, and the export checks that nothing
has changed while it read. The import creates the task's document last: until then the target
deployment ignores what was imported, and a repeat of the import resumes it.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import IO, Any

from muster.wire.messages import TaskStatus
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.domain import names
from muster_coordinator.domain.keys import FINGERPRINT, KeyRing
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import Aggregating, Collecting, Round, close
from muster_coordinator.domain.tasks import Task
from muster_coordinator.ports import AlreadyExistsError, BlobNotFoundError, Document
from muster_coordinator.state.lifecycle import join_population, schedule_close
from muster_coordinator.state.plan_repository import PlanRepository
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.pseudonyms import KEY, fingerprint_of
from muster_coordinator.state.reserved_names import check_name_is_free
from muster_coordinator.state.round_ledger import shards_of
from muster_coordinator.task_export.archive import ArchiveHeader, ArchiveReader, ArchiveWriter

_EXPORTABLE = (TaskStatus.PAUSED, TaskStatus.COMPLETED, TaskStatus.CANCELLED)
_ROUND_DEPTH = 3  # slashes in the path of a round
_OUTPUTS = ("bases", "broadcasts", "checkpoints", "results")
_COUNTERS = ("tickets", "shards")
_KEYS = "keys"  # collection of the document with the key and the salt of a round's pseudonyms
_HOLDERS = "holders"


@dataclass(frozen=True, slots=True)
class TransferSummary:
    """Summary of an export or import.

    Attributes:
      task: The task's name.
      status: The task's status.
      checkpoint: Version of its newest checkpoint.
      round: Number of its open round, or None.
      updates: Number of single updates that are not folded yet.
      documents: Number of documents.
      blobs: Number of blobs.
      size: Bytes of all blobs.
    """

    task: str
    status: str
    checkpoint: int
    round: int | None
    updates: int
    documents: int
    blobs: int
    size: int


def export_state(platform: Platform, task: str, file: IO[bytes], *, secret: KeyRing | bytes) -> TransferSummary:
    """Exports a task: documents, plan, checkpoints, results, and the open round with its updates.

    A start that the task has not taken yet, or the base of a run that has not opened, stays behind.

    Args:
      platform: The ports of the task's deployment.
      task: The task's name.
      file: Seekable file to write to. The same state at the same time gives the same bytes.
      secret: The deployment's keys, or its only one. The file holds the fingerprint of the newest.

    Raises:
      ProblemError: `not_found`; `conflict` if the task is neither paused nor ended, or changed
        during the export.
    """
    survey = _survey(platform, task)
    if survey.task.status not in _EXPORTABLE:
        raise ProblemError(
            ProblemType.CONFLICT,
            f"Task {task} is {survey.task.status.value}: pause it first, so that nothing changes while it is read",
        )
    header = ArchiveHeader(task=task, exported_at=platform.clock.now(), key=KeyRing.of(secret).newest.fingerprint)
    with ArchiveWriter(file, header) as writer:
        for document in survey.documents.values():
            writer.document(document.path, document.data)
        for name in survey.blobs:
            try:
                writer.blob(name, platform.blobs.read(name))
            except BlobNotFoundError:
                raise _changed(task) from None
    if _survey(platform, task) != survey:
        raise _changed(task)
    documents = survey.documents.values()
    rounds = [platform.rounds.read(document).value for document in documents if _is_round(document.path)]
    return _summary(survey.task, rounds, list(survey.blobs.items()), documents=len(documents))


def import_state(platform: Platform, file: IO[bytes], *, secret: KeyRing | bytes) -> TransferSummary:
    """Imports a task.

    A paused task stays paused; an open round keeps the time that was left at the export.

    Changes nothing that exists. A repeat resumes an import that was interrupted.

    Args:
      platform: The ports of the target deployment.
      file: Seekable file that `export_state` wrote.
      secret: The deployment's keys, or its only one.

    Raises:
      ProblemError: `conflict` if the task exists, another document or blob has one of its names, or
        clients have assignments of the open round under another key; `invalid_request` if the file
        is not an export, or is damaged.
    """
    with ArchiveReader(file) as reader:
        task, rounds = _records(platform, reader)
        if platform.tasks.get(names.task_path(task.name)) is not None:
            raise ProblemError(ProblemType.CONFLICT, f"There is a task {task.name} here already; it was not changed")
        check_name_is_free(platform, task.name)
        _check_keys(reader, rounds, KeyRing.of(secret))
        for round_ in rounds:
            # Until the import is complete the round is closed: clients can't upload, and the tick
            # does not sweep it as it would sweep data without a round.
            _put_round(platform, _closed(round_))
        for name in reader.blobs:
            _put_blob(platform, name, reader)
        for path, data in reader.documents():
            if path.count("/") > _ROUND_DEPTH:
                _put_round_document(platform, path, data)
            elif _is_request(path):
                _put_unchanged(platform, path, data)
        later = max(0.0, platform.clock.now() - reader.header.exported_at)
        for round_ in rounds:
            if isinstance(round_, Collecting):
                _reopen(platform, round_, later=later)
        try:
            platform.tasks.create(names.task_path(task.name), task)
        except AlreadyExistsError:
            raise _taken(names.task_path(task.name)) from None
        _start(platform, task)
        return _summary(task, rounds, list(reader.blobs.items()), documents=len(reader.paths))


@dataclass(frozen=True)
class _Survey:
    """Snapshot of a task. Two snapshots are equal if nothing has changed in between.

    Attributes:
      task: The task.
      documents: Its documents, by path.
      blobs: Sizes of its blobs in bytes, by name and in order of name.
    """

    task: Task
    documents: dict[str, Document]
    blobs: dict[str, int]


def _survey(platform: Platform, name: str) -> _Survey:
    task = platform.task(name)
    rounds = platform.rounds.list(names.rounds_path(name))
    documents = [task.document, *(record.document for record in rounds)]
    documents += platform.documents.list(names.requests_path(name))
    prefixes = [f"{kind}/{name}/" for kind in _OUTPUTS]
    for record in rounds:
        round_ = record.value
        if isinstance(round_, Collecting | Aggregating):  # the others have nothing but waste
            for collection in (*_COUNTERS, _KEYS, _HOLDERS):
                documents += platform.documents.list(f"{names.round_path(round_.key)}/{collection}")
            prefixes += [names.partials_prefix(round_.key), names.round_manifests_prefix(round_.key)]
            prefixes += [names.updates_prefix(round_.key, shard) for shard in shards_of(round_)]
    blobs = {blob.name: blob.size for prefix in prefixes for blob in platform.blobs.list(prefix)}
    for plan in {task.value.spec.plan, *(record.value.terms.plan for record in rounds)}:
        full = platform.blobs.stat(names.plan_name(plan, for_client=False))
        if full is None:
            raise ProblemError(ProblemType.NOT_FOUND, f"The plan {plan[:12]}… of task {name} is not here")
        blobs[full.name] = full.size
    return _Survey(task.value, {document.path: document for document in documents}, dict(sorted(blobs.items())))


def _records(platform: Platform, reader: ArchiveReader) -> tuple[Task, list[Round]]:
    """Returns the task and its rounds.

    Refuses an archive with names that belong to another task.
    """
    name = re.escape(reader.header.task)
    own_path = re.compile(
        rf"tasks/{name}(/requests/[0-9a-f]+|/rounds/\d+-\d+(/({'|'.join(_COUNTERS)})/\d+|/shards/{names.GOAL_THRESHOLDS}|/{_KEYS}/pseudonyms|/{_HOLDERS}/[0-9a-f]+)?)?"
    )
    own_blob = re.compile(
        rf"({'|'.join(_OUTPUTS)}|manifests|partials)/{name}/.+|updates/[0-9a-f]+/{name}/.+|plans/[0-9a-f]{{64}}/full"
    )
    foreign = [path for path in reader.paths if not own_path.fullmatch(path)]
    foreign += [blob for blob in reader.blobs if not own_blob.fullmatch(blob)]
    if foreign:
        raise ProblemError(
            ProblemType.INVALID_REQUEST, f"The file is of task {reader.header.task}, but holds {foreign[0]}"
        )
    task: Task | None = None
    rounds: list[Round] = []
    for path, data in reader.documents():
        document = Document(path, data, version="")
        if path == names.task_path(reader.header.task):
            task = platform.tasks.read(document).value
        elif _is_round(path):
            rounds.append(platform.rounds.read(document).value)
    if task is None or task.name != reader.header.task or any(round_.key.task != task.name for round_ in rounds):
        raise ProblemError(ProblemType.INVALID_REQUEST, "The file does not hold the task that its header names")
    return task, rounds


def _check_keys(reader: ArchiveReader, rounds: list[Round], ring: KeyRing) -> None:
    """Checks that the target has an open round's keys: under others a client would count twice."""
    documents = dict(reader.documents())
    for round_ in rounds:
        prefix = f"{names.round_path(round_.key)}/"
        if not isinstance(round_, Collecting) or not any(path.startswith(prefix) for path in documents):
            continue
        naming = documents.get(names.pseudonym_key_path(round_.key), {}).get(KEY, reader.header.key)
        # An archive of an earlier version has longer fingerprints, which start with the current
        # ones.
        if not all(ring.find(fingerprint_of(key)[:FINGERPRINT]) for key in (reader.header.key, naming)):
            raise ProblemError(
                ProblemType.CONFLICT,
                f"Round {round_.key.number} of task {round_.key.task} is open, and clients have work of it under "
                "another key: add the other deployment's MUSTER_SECRET to this one's (`muster up` stores it in the "
                "file `secret` of its folder), or export again once the round has ended",
            )


def _closed(round_: Round) -> Round:
    return close(round_, now=round_.terms.opened_at) if isinstance(round_, Collecting) else round_


def _put_round(platform: Platform, round_: Round) -> None:
    path = names.round_path(round_.key)
    stored = platform.rounds.ensure(path, round_).value
    if isinstance(stored, Collecting):  # an interrupted import has reopened it, with a later deadline
        stored = _closed(replace(stored, terms=replace(stored.terms, deadline=round_.terms.deadline)))
    if stored != round_:
        raise _taken(path)


def _put_blob(platform: Platform, name: str, reader: ArchiveReader) -> None:
    if name.startswith("plans/"):
        PlanRepository(platform.blobs).put(name.split("/")[1], b"".join(reader.chunks(name)))
        return
    result = platform.blobs.create(name, reader.chunks(name))
    if not (result.created or result.same):
        raise _taken(name)


def _put_round_document(platform: Platform, path: str, data: dict[str, Any]) -> None:
    collection, name = path.split("/")[-2:]
    if name == names.GOAL_THRESHOLDS:
        with suppress(AlreadyExistsError):  # the round has continued meanwhile, and has written its own
            platform.documents.create(path, data)
    elif collection in (_KEYS, _HOLDERS):
        _put_unchanged(platform, path, data)
    else:
        _put_counters(platform, path, data)


def _put_counters(platform: Platform, path: str, data: dict[str, int]) -> None:
    try:
        platform.documents.create(path, data)
    except AlreadyExistsError:
        existing = platform.documents.get(path)
        if existing is None or any(existing.data.get(name, 0) < value for name, value in data.items()):
            raise _taken(path) from None


def _put_unchanged(platform: Platform, path: str, data: dict[str, Any]) -> None:
    try:
        platform.documents.create(path, data)
    except AlreadyExistsError:
        existing = platform.documents.get(path)
        if existing is None or dict(existing.data) != data:
            raise _taken(path) from None


def _reopen(platform: Platform, round_: Collecting, *, later: float) -> None:
    record = platform.round(round_.key)
    if record is not None and isinstance(record.value, Aggregating):
        terms = replace(round_.terms, deadline=round_.terms.deadline + later)
        platform.rounds.replace(record, replace(round_, terms=terms))


def _start(platform: Platform, task: Task) -> None:
    if task.ended:
        return
    join_population(platform, task)
    record = platform.round(task.current) if task.current is not None else None
    if record is not None and isinstance(record.value, Collecting):
        schedule_close(platform, record.value)


def _summary(task: Task, rounds: list[Round], blobs: list[tuple[str, int]], *, documents: int) -> TransferSummary:
    open_: list[RoundKey] = [round_.key for round_ in rounds if isinstance(round_, Collecting | Aggregating)]
    return TransferSummary(
        task=task.name,
        status=task.status.value,
        checkpoint=task.checkpoint.version if task.checkpoint is not None else 0,
        round=open_[-1].number if open_ else None,
        updates=sum(1 for name, size in blobs if name.startswith(names.UPDATES) and size),
        documents=documents,
        blobs=len(blobs),
        size=sum(size for _, size in blobs),
    )


def _is_round(path: str) -> bool:
    return path.count("/") == _ROUND_DEPTH and path.split("/")[2] == "rounds"


def _is_request(path: str) -> bool:
    return path.split("/")[2:3] == ["requests"]


def _changed(task: str) -> ProblemError:
    return ProblemError(
        ProblemType.CONFLICT,
        f"Task {task} changed while it was read, since clients were still uploading: stop its coordinator, or try "
        "again",
    )


def _taken(name: str) -> ProblemError:
    return ProblemError(ProblemType.CONFLICT, f"{name} is here already, and is something else; it was not changed")
