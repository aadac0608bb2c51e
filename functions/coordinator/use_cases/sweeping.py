"""What an ended round leaves behind is removed; and the tick, which repairs what got lost."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain

from coordinator.domain import names
from coordinator.domain.names import RoundKey
from coordinator.domain.rounds import Aggregating, BlobRef, Collecting, Committed, Ended, Round
from coordinator.domain.tasks import Task
from coordinator.ports import AlreadyExistsError, ConflictError
from coordinator.use_cases import events, work
from coordinator.use_cases.advance import abandon_current, join_population, leave_population
from coordinator.use_cases.at_once import for_all
from coordinator.use_cases.closing import TICK, ClosingRounds
from coordinator.use_cases.ledgers import shards_of, stored_contributions
from coordinator.use_cases.records import Platform, UnreadableError
from muster.wire.messages import TaskStatus

LOG = logging.getLogger(__name__)
_SWEPT_AGAIN = (
    3  # rounds, or attempts, behind the current one that ticks sweep: a late request may have left something there
)
_SWEPT_EVERY = 600.0  # seconds
# Seconds after its end in which every tick sweeps a round: a check-in or an aggregator that read it just before may leave something.
_SETTLING = 2 * TICK
_PAGE, _MOST_PAGES = 500, 20  # holders per page, and pages per sweep
MOST_STRAY_MANIFESTS = 2000  # that one call deletes
_MANIFESTS_EVERY, _MANIFESTS_AT = (
    10,
    5,
)  # minutes of ticks: the sixth of every ten, since a list costs a call and this is not urgent
MAX_OLDER_ROUNDS = 100  # per task and tick
# Seconds after its end in which a round may still be worked on; a function's request takes 3600 at most.
_STILL_AT_WORK = 7200.0


@dataclass(frozen=True)
class Sweeping:
    """Removes and repairs."""

    platform: Platform
    closing: ClosingRounds

    def sweep(self, key: RoundKey) -> None:
        """Deletes the data that only an open round needs. Idempotent.

        This is updates, partials, manifests, holders, counters, the salt, and lost outputs. The round's document, with
        all counts, remains.
        """
        found = self.platform.round(key)
        if found is None or isinstance(found.value, Collecting | Aggregating):
            return
        ended, blobs = found.value, self.platform.blobs
        prefixes = [names.updates_prefix(key, shard) for shard in shards_of(ended)]
        prefixes += [names.partials_prefix(key), names.round_manifests_prefix(key)]
        listed = for_all(self.platform, lambda prefix: [blob.name for blob in blobs.list(prefix)], prefixes)
        gone = list(chain.from_iterable(listed))
        blobs.delete(gone + self._outputs(ended))
        if not self._remove_holders(key):
            # The salt is deleted last, since its document marks the round as not swept yet.
            self.platform.enqueue(work.sweep(key), key)
            return
        self.platform.documents.delete(names.pseudonym_key_path(key))
        counters = [path(key, shard) for shard in shards_of(ended) for path in (names.ticket_path, names.shard_path)]
        for_all(self.platform, self.platform.documents.delete, counters)
        if ended.terms.shards > 1:
            self.platform.documents.delete(names.looks_path(key))

    def _remove_holders(self, key: RoundKey) -> bool:
        """Deletes a bounded number of the round's slot holders. Returns whether none is left."""
        documents, path = self.platform.documents, names.holders_path(key)
        for _ in range(_MOST_PAGES):
            found = documents.list(path, limit=_PAGE)
            for_all(self.platform, documents.delete, [document.path for document in found])
            if len(found) < _PAGE:
                return True
        return False

    def _outputs(self, ended: Ended) -> list[str]:
        """The broadcasts that led to a round once nobody needs them, and what commits that lost have left."""
        key = ended.key
        task = self.platform.task(key.task).value
        refs: list[BlobRef | None] = []
        if isinstance(ended, Committed):
            refs = [ended.checkpoint.blob, ended.result, None if task.ended else ended.broadcast]
        elif not task.ended or task.current != key:
            return []  # the next attempt has the same broadcast and may be committing under the same number
        kept = {ref.name for ref in refs if ref is not None}
        places = [("checkpoints", key.number), ("results", key.number), ("broadcasts", key.number)]
        made = (
            blob.name
            for kind, number in (*places, ("broadcasts", key.number - 1))
            for blob in self.platform.blobs.list(names.output_prefix(kind, key.task, number))
        )
        return [name for name in made if names.original_name(name) not in kept]

    def tick(self) -> None:
        """Looks at every task once and gives each round the push that a lost message did not.

        Raises:
          Exception: what the first task that could not be repaired failed with, once all others were looked at.
        """
        failed: Exception | None = None
        for document in self.platform.documents.list("tasks"):
            try:
                self._repair(self.platform.tasks.read(document).value)
            except UnreadableError as error:
                events.task_unreadable(document.id, str(error))
                failed = failed or error
            except Exception as error:  # whatever one task fails with, the others need their repair
                LOG.exception("task %s can't be repaired", document.id)
                failed = failed or error
        self._remove_orphans()
        if int(self.platform.clock.now() // TICK) % _MANIFESTS_EVERY == _MANIFESTS_AT:
            self._remove_stray_manifests()
        if failed is not None:
            raise failed

    def _repair(self, task: Task) -> None:
        if not task.ended:
            join_population(self.platform, task)
        elif self.platform.documents.get(names.member_path(task.spec.population, task.name)) is not None:
            leave_population(self.platform, task)
        if task.status is TaskStatus.OPENING:
            minute = int(self.platform.clock.now() // TICK)
            self.platform.queue.enqueue(work.open_task(task.name), name=f"open-{task.name}-{task.epoch}-{minute}")
        elif task.current is not None and not task.ended and not task.stopped:
            self.closing(task.current, repairing=True)
        if task.current is not None:
            before = _looked_behind(task.current)
            self._sweep_older_rounds(task, before)
            for round_ in self.platform.rounds.list(names.rounds_path(task.name), after=before.id):
                key = round_.value.key
                if isinstance(round_.value, Collecting | Aggregating) and key == task.current:
                    events.round_late(round_.value, now=self.platform.clock.now())
                self._abandon_stray(task, round_.value)
                if not self._is_settled(round_.value):
                    self.sweep(key)

    def _abandon_stray(self, task: Task, round_: Round) -> None:
        """Abandons an open round that is not the task's current one, or whose task has ended."""
        key = round_.key
        if isinstance(round_, Collecting | Aggregating) and (task.ended or key != task.current):
            stray = replace(task, number=key.number, epoch=key.epoch)
            abandon_current(self.platform, stray, reason=task.status.value if task.ended else "superseded")

    def _sweep_older_rounds(self, task: Task, last: RoundKey) -> None:
        """Sweeps the rounds up to `last` that no sweep has finished, a bounded number of them.

        A sweep can be lost, and later ticks too, while short rounds go by. A document names the last round up to which
        all are swept, so that each round is read once more and not at every tick.
        """
        documents, path = self.platform.documents, names.sweep_progress_path(task.name)
        progress = documents.get(path)
        swept_up_to = None if progress is None else str(progress.data["round"])
        if swept_up_to is not None and swept_up_to >= last.id:
            return
        start = swept_up_to
        # A round that this version can't read is left to the version that wrote it.
        page = self.platform.rounds.page(names.rounds_path(task.name), after=start, limit=MAX_OLDER_ROUNDS)
        for round_ in page.records:
            key = round_.value.key
            if key.id > last.id:
                break
            self._abandon_stray(task, round_.value)
            if not self._is_swept(key):
                self.sweep(key)
            if not self._is_swept(key):
                break  # the next tick continues here
            swept_up_to = key.id
        if swept_up_to == start:
            return
        # Two ticks may overlap. If the other one has written first, this one's progress is not needed.
        with suppress(AlreadyExistsError, ConflictError):
            if progress is None:
                documents.create(path, {"round": swept_up_to})
            else:
                documents.replace(path, {"round": swept_up_to}, version=progress.version)

    def _is_swept(self, key: RoundKey) -> bool:
        """Returns whether a sweep has finished: it deletes the document of the pseudonyms' key last."""
        return self.platform.documents.get(names.pseudonym_key_path(key)) is None

    def _is_settled(self, round_: Round) -> bool:
        """Whether a round has been swept, and needs no more of it now: then it costs no more lists.

        While somebody may still be at work on it, it is swept again now and then. The key of its clients' names goes after its blobs
        have gone. What comes later than all that, and single updates at once, `_remove_orphans` finds.
        """
        if isinstance(round_, Collecting | Aggregating):
            return False
        seconds = self.platform.clock.now() - round_.ended_at
        if seconds < _SETTLING or (seconds < _STILL_AT_WORK and seconds % _SWEPT_EVERY < TICK):
            return False
        return self._is_swept(round_.key)

    def _remove_orphans(self) -> None:
        """Deletes updates and partials whose round has ended (work that was under way when it was swept); says how old updates are."""
        ended: dict[RoundKey, bool] = {}
        gone = []
        updates, now = 0, self.platform.clock.now()
        oldest = now
        for key, blob in stored_contributions(self.platform.blobs):
            # What has no bytes is a mark of a client that gave up, or that uploaded past us; it stays for the round.
            if blob.size and blob.name.startswith(names.UPDATES):
                updates, oldest = updates + 1, min(oldest, blob.created)
            if key not in ended:
                ended[key] = self._has_ended(key)
            if ended[key]:
                gone.append(blob.name)
        self.platform.blobs.delete(gone)
        events.updates_stored(updates, oldest_seconds=now - oldest)

    def _remove_stray_manifests(self) -> None:
        """Deletes manifests of ended rounds: of rounds that an earlier version swept, and of late work.

        Bounded per call: an earlier version left those of every round, and the next calls delete the rest.
        """
        ended: dict[RoundKey, bool] = {}
        gone: list[str] = []
        for blob in self.platform.blobs.list(names.MANIFESTS):
            key = names.round_of(blob.name)
            if key not in ended:
                ended[key] = self._has_ended(key)
            if ended[key]:
                gone.append(blob.name)
                if len(gone) >= MOST_STRAY_MANIFESTS:
                    break
        self.platform.blobs.delete(gone)

    def _has_ended(self, key: RoundKey) -> bool:
        try:
            found = self.platform.round(key)
        except UnreadableError:
            return False  # for all that is known here, it is open
        return found is None or not isinstance(found.value, Collecting | Aggregating)


def _looked_behind(current: RoundKey) -> RoundKey:
    """What a tick looks at begins behind this: a few rounds back, or a few attempts, of which a round may have had thousands."""
    if current.epoch > _SWEPT_AGAIN:
        return replace(current, epoch=current.epoch - _SWEPT_AGAIN - 1)
    return replace(current, number=max(0, current.number - _SWEPT_AGAIN), epoch=0)
