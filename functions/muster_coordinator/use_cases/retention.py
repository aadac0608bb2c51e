"""Applies the retention of a task's policy: deletes checkpoints and results that need not stay.

Only the sweep calls it, in the function that may delete. The order of the writes makes a crash or a
concurrent tag harmless:

1. `Committed.stored` becomes False, by compare-and-set on the round. A round that an earlier sweep
   marked is written too, so that the earlier sweep can't restore it any more.
2. The task is read again. A version that a tag, a rollback or a run has named meanwhile becomes
   stored again, by compare-and-set, if this sweep was the first that marked it.
3. The blobs are deleted.
4. The progress is written.

An operator's command that names a version writes to the task's document first, and then reads the
round's `stored` (`TaskMarks.tag`). So of the two at least one sees the other: either step 2 sees
the tag, or the command sees that the version is gone, and is refused. A crash before step 4 repeats
the batch: its rounds are no longer stored, and their blobs are deleted once more.

Each call reads at most `MAX_ROUNDS` rounds behind the progress. Versions that only tags or rounds
hold are listed in the progress, and checked again by every call without a read of their rounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from muster.wire.messages import Retention
from muster_coordinator.domain import names
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.retention import is_kept, pinned_versions
from muster_coordinator.domain.rounds import Committed, Round
from muster_coordinator.domain.tasks import Task
from muster_coordinator.ports import AlreadyExistsError, ConflictError, Document
from muster_coordinator.state.checkpoints import find_committed
from muster_coordinator.state.parallel import map_concurrently
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.records import UnreadableError, Versioned

MAX_ROUNDS = 100  # attempts behind the progress that one call reads
_SPARE_ATTEMPTS = 4  # abandoned attempts that a call reads beside the rounds that it needs
_LAST_EPOCH = 9999


@dataclass(frozen=True)
class _Progress:
    """Progress of a retention policy over a task's rounds.

    Attributes:
      after: Id up to which all attempts are decided; empty before the first.
      deleted: Id up to which the outputs of marked rounds are deleted, under an earlier policy too.
      held: Versions up to `after` that stay only while a tag or a round needs them.
      document: The document that holds it, or None.
    """

    after: str = ""
    deleted: str = ""
    held: frozenset[int] = frozenset()
    document: Document | None = None


@dataclass(frozen=True)
class _Mark:
    """Round whose outputs are marked as removed.

    Attributes:
      record: The round, as it was written.
      own: Whether this sweep marked it first. Otherwise an earlier sweep may be deleting its
        outputs, so they can't be restored.
    """

    record: Versioned[Committed]
    own: bool

    @property
    def number(self) -> int:
        """Number of the round."""
        return self.record.value.key.number


@dataclass(frozen=True)
class RetentionSweeper:
    """Sweeper of the checkpoints and results that the retention of a task does not keep."""

    platform: Platform

    def sweep(self, task: Task, *, committed: int) -> bool:
        """Deletes a bounded number of checkpoints and results. Idempotent.

        Args:
          task: The task, as the caller has just read it.
          committed: Number of a committed round of the task.

        Returns:
          Whether nothing is left to delete now.
        """
        retention = task.spec.policy.retention
        if retention is None:
            return True
        # Each round before the current one is committed, since numbers are not skipped.
        newest = max(committed, task.number - 1)
        progress = self._progress(task.name, retention)
        end = RoundKey(task.name, max(0, newest - retention.last), _LAST_EPOCH).id
        after, rounds = self._undecided(task.name, progress, end)
        pinned = self._pinned(task, newest=newest)
        released = [find_committed(self.platform, task.name, version) for version in progress.held - pinned]
        candidates = [record for record in (*rounds, *released) if record is not None]
        candidates = [record for record in candidates if not is_kept(record.value.key.number, retention, newest=newest)]
        held = progress.held & pinned | {record.value.key.number for record in candidates} & pinned
        removable = [record for record in candidates if record.value.key.number not in pinned]
        held |= self._remove(task.name, removable, newest=newest)
        if (after, held) != (progress.after, progress.held):
            self._write(task.name, replace(progress, after=after, held=held), retention)
        return after >= end

    def _undecided(self, task: str, progress: _Progress, end: str) -> tuple[str, list[Versioned[Committed]]]:
        """Returns the next committed rounds up to the id `end`, and the id that follows them.

        Rounds that this version can't read are left to the version that wrote them.
        """
        if progress.after >= end:
            return progress.after, []
        decided = RoundKey.parse(task, progress.after).number if progress.after else 0
        # Rounds beyond `end`, which are not needed yet, would be read again by every call.
        limit = min(MAX_ROUNDS, RoundKey.parse(task, end).number - decided + _SPARE_ATTEMPTS)
        page = self.platform.rounds.page(names.rounds_path(task), after=progress.after or None, limit=limit)
        after = end if page.last is None else min(page.last, end)
        rounds = [
            Versioned(record.value, record.document)
            for record in page.records
            if isinstance(record.value, Committed)
            and record.document.id <= end
            and (record.value.stored or record.document.id > progress.deleted)
        ]
        return after, rounds

    def _remove(self, task: str, rounds: Sequence[Versioned[Committed]], *, newest: int) -> frozenset[int]:
        """Deletes the outputs of rounds. Returns the versions that are needed again meanwhile."""
        if not rounds:
            return frozenset()
        marked = [mark for mark in map(self._mark, rounds) if mark is not None]
        latest = self.platform.tasks.get(names.task_path(task))
        pinned = frozenset[int]() if latest is None else self._pinned(latest.value, newest=newest)
        restored = frozenset(mark.number for mark in marked if mark.number in pinned and self._restore(mark))
        obsolete = [mark.record.value for mark in marked if mark.number not in restored]
        outputs = map_concurrently(self.platform, self._outputs, obsolete)
        self.platform.blobs.delete([name for names_ in outputs for name in names_])
        return restored

    def _mark(self, record: Versioned[Committed]) -> _Mark | None:
        """Marks a round's outputs as removed."""
        current: Versioned[Committed] | None = record
        while current is not None:
            written = self._write_stored(current, stored=False)
            if written is not None:
                return _Mark(written, own=current.value.stored)
            current = find_committed(self.platform, record.value.key.task, record.value.key.number)
        return None

    def _restore(self, mark: _Mark) -> bool:
        """Marks a round's outputs as stored again, unless another sweep may be deleting them."""
        return mark.own and self._write_stored(mark.record, stored=True) is not None

    def _write_stored(self, record: Versioned[Committed], *, stored: bool) -> Versioned[Committed] | None:
        """Writes `stored` by compare-and-set, or returns None if another writer was faster."""
        value = replace(record.value, stored=stored)
        current: Versioned[Round] = Versioned(record.value, record.document)
        try:
            written = self.platform.rounds.replace(current, value)
        except ConflictError:
            return None
        return Versioned(value, written.document)

    def _outputs(self, round_: Committed) -> list[str]:
        """Returns the names of a round's outputs, and of broadcasts that a rollback left."""
        key = round_.key
        broadcasts = self.platform.blobs.list(names.output_prefix("broadcasts", key.task, key.number))
        return [round_.checkpoint.blob.name, round_.result.name, *(blob.name for blob in broadcasts)]

    def _pinned(self, task: Task, *, newest: int) -> frozenset[int]:
        return pinned_versions(task, self._evaluations(task), newest=newest)

    def _evaluations(self, task: Task) -> Iterator[Task]:
        """Yields the tasks of the population that evaluate the task, except for unreadable ones."""
        for member in self.platform.documents.list(names.population_tasks_path(task.spec.population)):
            with suppress(UnreadableError):
                record = self.platform.tasks.get(names.task_path(member.id))
                evaluation = None if record is None else record.value.spec.evaluates
                if record is not None and evaluation is not None and evaluation.task == task.name:
                    yield record.value

    def _progress(self, task: str, retention: Retention) -> _Progress:
        """Returns the progress; that of another policy does not count."""
        document = self.platform.documents.get(names.retention_progress_path(task))
        if document is None:
            return _Progress()
        after, deleted = document.data["after"], max(document.data["after"], document.data["deleted"])
        if document.data["policy"] != retention.to_dict():
            return _Progress(deleted=deleted, document=document)
        return _Progress(after, deleted, frozenset(document.data["held"]), document)

    def _write(self, task: str, progress: _Progress, retention: Retention) -> None:
        """Writes the progress. Of two sweeps at once the later write is not needed."""
        path, documents = names.retention_progress_path(task), self.platform.documents
        data = {
            "after": progress.after,
            "deleted": progress.deleted,
            "held": sorted(progress.held),
            "policy": retention.to_dict(),
        }
        with suppress(AlreadyExistsError, ConflictError):
            if progress.document is None:
                documents.create(path, data)
            else:
                documents.replace(path, data, version=progress.document.version)
