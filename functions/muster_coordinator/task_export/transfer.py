"""A task's whole state, out of one deployment's stores into a file, and out of the file into another's: embedded → cloud, say.

Nobody else may change the task meanwhile, so it is paused, and the export sees to it that nothing changed while it read. The
import makes the task last of all: until then nothing at the new place touches what came before, and a repeat goes on.
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
from muster_coordinator.state.round_ledger import shards_of
from muster_coordinator.task_export.archive import ArchiveHeader, ArchiveReader, ArchiveWriter

_QUIET = (TaskStatus.PAUSED, TaskStatus.COMPLETED, TaskStatus.CANCELLED)
_ROUND_DEPTH = 3  # slashes in the path of a round
_COUNTERS = ("tickets", "shards")
_NAMING = "keys"  # the collection of the document with the key and the salt of a round's pseudonyms
_HOLDERS = "holders"


@dataclass(frozen=True, slots=True)
class TransferSummary:
    """What a file of state holds. `updates` counts single updates that are in flight; `size` is in bytes, of all blobs."""

    task: str
    status: str
    checkpoint: int
    round: int | None
    updates: int
    documents: int
    blobs: int
    size: int


def export_state(platform: Platform, task: str, file: IO[bytes], *, secret: KeyRing | bytes) -> TransferSummary:
    """Writes a task's state: documents, plan, checkpoints, results, ledger, and what is in flight of the open round.

    Args:
      platform: Where the task is.
      task: Its name.
      file: Where to write; seekable. The same state at the same time gives the same bytes.
      secret: The deployment's keys, or its only one; the file says which signs, without telling anything of it.

    Raises:
      ProblemError: `not_found`; `conflict` if the task is not paused nor at its end, or something changed meanwhile.
    """
    found = _survey(platform, task)
    if found.task.status not in _QUIET:
        raise ProblemError(
            ProblemType.CONFLICT,
            f"Task {task} is {found.task.status.value}: pause it first, so that nothing changes while it is read",
        )
    header = ArchiveHeader(task=task, exported_at=platform.clock.now(), key=KeyRing.of(secret).newest.fingerprint)
    with ArchiveWriter(file, header) as writer:
        for document in found.documents.values():
            writer.document(document.path, document.data)
        for name in found.blobs:
            try:
                writer.blob(name, platform.blobs.read(name))
            except BlobNotFoundError:
                raise _changed(task) from None
    if _survey(platform, task) != found:
        raise _changed(task)
    rounds = [platform.rounds.read(each).value for each in found.documents.values() if _is_round(each.path)]
    return _moved(found.task, rounds, list(found.blobs.items()), documents=len(found.documents))


def import_state(platform: Platform, file: IO[bytes], *, secret: KeyRing | bytes) -> TransferSummary:
    """Makes a task out of a file. A paused task stays paused; an open round has as much time as it had at the export.

    Nothing that is there is changed. A repeat after an import that did not come to its end goes on with it.

    Args:
      platform: Where the task goes.
      file: What `export_state` wrote; seekable.
      secret: The deployment's keys, or its only one.

    Raises:
      ProblemError: `conflict` if the task is here already, something else is in its place, or clients have work of the
        open round under another key; `invalid_request` if this is no file of a task's state, or a damaged one.
    """
    with ArchiveReader(file) as reader:
        task, rounds = _records(platform, reader)
        if platform.tasks.get(names.task_path(task.name)) is not None:
            raise ProblemError(
                ProblemType.CONFLICT, f"There is a task {task.name} here already; nothing of it was changed"
            )
        _check_keys(reader, rounds, KeyRing.of(secret))
        for round_ in rounds:
            # Closed to clients, and yet no orphan for the tick to sweep, until all that belongs to it is here.
            _put_round(platform, _closed(round_))
        for name in reader.blobs:
            _put_blob(platform, name, reader)
        for path, data in reader.documents():
            if path.count("/") > _ROUND_DEPTH:
                _put_of_round(platform, path, data)
        later = max(0.0, platform.clock.now() - reader.header.exported_at)
        for round_ in rounds:
            if isinstance(round_, Collecting):
                _reopen(platform, round_, later=later)
        try:
            platform.tasks.create(names.task_path(task.name), task)
        except AlreadyExistsError:
            raise _taken(names.task_path(task.name)) from None
        _go_on(platform, task)
        return _moved(task, rounds, list(reader.blobs.items()), documents=len(reader.paths))


@dataclass(frozen=True)
class _Survey:
    """A task's documents by path and its blobs (sizes in bytes) by name, in order. Equal to another if nothing has changed."""

    task: Task
    documents: dict[str, Document]
    blobs: dict[str, int]


def _survey(platform: Platform, name: str) -> _Survey:
    found = platform.task(name)
    rounds = platform.rounds.list(names.rounds_path(name))
    documents = [found.document, *(each.document for each in rounds)]
    prefixes = [f"{kind}/{name}/" for kind in ("broadcasts", "checkpoints", "results")]
    for each in rounds:
        round_ = each.value
        if isinstance(round_, Collecting | Aggregating):  # of the others, what is left is waste
            for collection in (*_COUNTERS, _NAMING, _HOLDERS):
                documents += platform.documents.list(f"{names.round_path(round_.key)}/{collection}")
            prefixes += [names.partials_prefix(round_.key), names.round_manifests_prefix(round_.key)]
            prefixes += [names.updates_prefix(round_.key, shard) for shard in shards_of(round_)]
    blobs = {blob.name: blob.size for prefix in prefixes for blob in platform.blobs.list(prefix)}
    for plan in {found.value.spec.plan, *(each.value.terms.plan for each in rounds)}:
        full = platform.blobs.stat(names.plan_name(plan, for_client=False))
        if full is None:
            raise ProblemError(ProblemType.NOT_FOUND, f"The plan {plan[:12]}… of task {name} is not here")
        blobs[full.name] = full.size
    return _Survey(found.value, {each.path: each for each in documents}, dict(sorted(blobs.items())))


def _records(platform: Platform, reader: ArchiveReader) -> tuple[Task, list[Round]]:
    """The task and its rounds, after a look at every name: a file must not reach beyond its own task."""
    name = re.escape(reader.header.task)
    own_path = re.compile(
        rf"tasks/{name}(/rounds/\d+-\d+(/({'|'.join(_COUNTERS)})/\d+|/shards/looks|/{_NAMING}/pseudonyms|/{_HOLDERS}/[0-9a-f]+)?)?"
    )
    own_blob = re.compile(
        rf"(broadcasts|checkpoints|manifests|partials|results)/{name}/.+|updates/[0-9a-f]+/{name}/.+|plans/[0-9a-f]{{64}}/full"
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
        raise ProblemError(ProblemType.INVALID_REQUEST, "The file does not hold the task that it says")
    return task, rounds


def _check_keys(reader: ArchiveReader, rounds: list[Round], ring: KeyRing) -> None:
    """Clients' names in an open round, and their assignments, are under keys: under another one a client counts twice."""
    documents = dict(reader.documents())
    for round_ in rounds:
        place = names.round_path(round_.key)
        if not isinstance(round_, Collecting) or not any(path.startswith(f"{place}/") for path in documents):
            continue
        naming = documents.get(names.pseudonym_key_path(round_.key), {}).get(KEY, reader.header.key)
        # A file of an earlier version has a longer fingerprint, which starts with ours.
        if not all(ring.find(fingerprint_of(key)[:FINGERPRINT]) for key in (reader.header.key, naming)):
            raise ProblemError(
                ProblemType.CONFLICT,
                f"Round {round_.key.number} of task {round_.key.task} is open, and clients have work of it under another key: "
                "add the other one's MUSTER_SECRET to this deployment's (`muster up` keeps it in the file `secret` of its "
                "folder), or export again once the round has ended",
            )


def _closed(round_: Round) -> Round:
    return close(round_, now=round_.terms.opened_at) if isinstance(round_, Collecting) else round_


def _put_round(platform: Platform, round_: Round) -> None:
    path = names.round_path(round_.key)
    found = platform.rounds.ensure(path, round_).value
    if isinstance(found, Collecting):  # an earlier try came as far as to open it again, with a deadline of that time
        found = _closed(replace(found, terms=replace(found.terms, deadline=round_.terms.deadline)))
    if found != round_:
        raise _taken(path)


def _put_blob(platform: Platform, name: str, reader: ArchiveReader) -> None:
    if name.startswith("plans/"):
        PlanRepository(platform.blobs).put(name.split("/")[1], b"".join(reader.chunks(name)))
        return
    creation = platform.blobs.create(name, reader.chunks(name))
    if not (creation.created or creation.same):
        raise _taken(name)


def _put_of_round(platform: Platform, path: str, data: dict[str, Any]) -> None:
    collection, name = path.split("/")[-2:]
    if name == "looks":
        with suppress(AlreadyExistsError):  # the round has gone on meanwhile, and has made its own
            platform.documents.create(path, data)
    elif collection in (_NAMING, _HOLDERS):
        _put_unchanged(platform, path, data)
    else:
        _put_counters(platform, path, data)


def _put_counters(platform: Platform, path: str, data: dict[str, int]) -> None:
    try:
        platform.documents.create(path, data)
    except AlreadyExistsError:
        found = platform.documents.get(path)
        if found is None or any(found.data.get(name, 0) < value for name, value in data.items()):
            raise _taken(path) from None


def _put_unchanged(platform: Platform, path: str, data: dict[str, Any]) -> None:
    try:
        platform.documents.create(path, data)
    except AlreadyExistsError:
        found = platform.documents.get(path)
        if found is None or dict(found.data) != data:
            raise _taken(path) from None


def _reopen(platform: Platform, round_: Collecting, *, later: float) -> None:
    found = platform.round(round_.key)
    if found is not None and isinstance(found.value, Aggregating):
        terms = replace(round_.terms, deadline=round_.terms.deadline + later)
        platform.rounds.replace(found, replace(round_, terms=terms))


def _go_on(platform: Platform, task: Task) -> None:
    if task.ended:
        return
    join_population(platform, task)
    found = platform.round(task.current) if task.current is not None else None
    if found is not None and isinstance(found.value, Collecting):
        schedule_close(platform, found.value)


def _moved(task: Task, rounds: list[Round], blobs: list[tuple[str, int]], *, documents: int) -> TransferSummary:
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
    return path.count("/") == _ROUND_DEPTH


def _changed(task: str) -> ProblemError:
    return ProblemError(
        ProblemType.CONFLICT,
        f"Task {task} changed while it was read: updates under way were still coming in; stop its coordinator, or try again",
    )


def _taken(place: str) -> ProblemError:
    return ProblemError(ProblemType.CONFLICT, f"{place} is here already, and is something else; it was not changed")
