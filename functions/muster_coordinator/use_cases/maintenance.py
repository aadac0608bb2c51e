"""Maintenance sweeps ended rounds, and at each tick repairs tasks whose messages were lost."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, replace
from itertools import chain

from muster.wire.messages import TaskStatus
from muster_coordinator import events, queued_work
from muster_coordinator.domain import names
from muster_coordinator.domain.deletions import LATE_WRITES_TIME
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import Aggregating, BlobRef, Collecting, Committed, Ended, Round
from muster_coordinator.domain.tasks import Task
from muster_coordinator.ports import AlreadyExistsError, ConflictError
from muster_coordinator.state import evaluations
from muster_coordinator.state.checkin_hours import remove_old_hours
from muster_coordinator.state.lifecycle import abandon_current, join_population, leave_population
from muster_coordinator.state.parallel import map_concurrently
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.records import UnreadableError
from muster_coordinator.state.round_ledger import shards_of, stored_contributions
from muster_coordinator.state.unavailability import is_unavailable, log_unavailable
from muster_coordinator.use_cases.retention import RetentionSweeper
from muster_coordinator.use_cases.round_closer import TICK, RoundCloser
from muster_coordinator.use_cases.task_purge import TaskPurge

LOG = logging.getLogger(__name__)
_MAX_ROUNDS_BEHIND = 3  # rounds, or attempts, before the current one that a tick sweeps again
_SWEEP_INTERVAL = 600.0  # seconds between sweeps of an ended round that may still get late writes
# Seconds after its end in which every tick sweeps a round. A check-in or an aggregator that read
# the round just before its end may still write.
_SETTLING_TIME = 2 * TICK
MAX_OLDER_ROUNDS = 100  # rounds before those that one tick checks, per task
_PAGE, _MAX_PAGES = 500, 20  # slot holders per page, and pages per sweep
MAX_STRAY_MANIFESTS = 2000  # manifests that one call deletes
# Stray manifests are listed in the sixth of every ten ticks, since a list costs a call and this is
# not urgent.
_MANIFESTS_PERIOD, _MANIFESTS_PHASE = 10, 5  # ticks
_HOURS_PHASE = 2  # the tick of the ten that removes old counters of check-ins


@dataclass(frozen=True)
class Maintenance:
    """Maintenance of a deployment: the sweep of a round, and the tick."""

    platform: Platform
    _: KW_ONLY
    round_closer: RoundCloser
    task_purge: TaskPurge

    def sweep(self, key: RoundKey) -> None:
        """Deletes the data that only an open round needs. Idempotent.

        These are updates, partials, manifests, slot holders, counters, the salt, and unused
        outputs. The round's document, with all counts, remains.
        """
        record = self.platform.round(key)
        if record is None or isinstance(record.value, Collecting | Aggregating):
            return
        ended, blobs = record.value, self.platform.blobs
        task = self.platform.task(key.task).value
        prefixes = [names.updates_prefix(key, shard) for shard in shards_of(ended)]
        prefixes += [names.partials_prefix(key), names.round_manifests_prefix(key)]
        listed = map_concurrently(self.platform, lambda prefix: [blob.name for blob in blobs.list(prefix)], prefixes)
        blobs.delete([*chain.from_iterable(listed), *self._unused_outputs(ended, task)])
        if not self._remove_holders(key):
            # The salt is deleted last, since its document marks the round as not swept yet.
            self.platform.enqueue(queued_work.sweep(key), key)
            return
        self.platform.documents.delete(names.pseudonym_key_path(key))
        counters = [path(key, shard) for shard in shards_of(ended) for path in (names.ticket_path, names.shard_path)]
        map_concurrently(self.platform, self.platform.documents.delete, counters)
        if ended.terms.shards > 1:
            self.platform.documents.delete(names.goal_thresholds_path(key))
        if isinstance(ended, Committed) and not RetentionSweeper(self.platform).sweep(task, committed=key.number):
            self.platform.enqueue(queued_work.sweep(key), key)

    def _remove_holders(self, key: RoundKey) -> bool:
        """Deletes a bounded number of the round's slot holders. Returns whether none is left."""
        documents, path = self.platform.documents, names.holders_path(key)
        for _ in range(_MAX_PAGES):
            holders = documents.list(path, limit=_PAGE)
            map_concurrently(self.platform, documents.delete, [holder.path for holder in holders])
            if len(holders) < _PAGE:
                return True
        return False

    def _unused_outputs(self, ended: Ended, task: Task) -> list[str]:
        """Returns outputs to delete: obsolete broadcasts, and the outputs of commits that lost."""
        key = ended.key
        refs: list[BlobRef | None] = []
        if isinstance(ended, Committed):
            refs = [ended.checkpoint.blob, ended.result, None if task.ended else ended.broadcast]
        elif not task.ended or task.current != key:
            # The next attempt has the same broadcast and may be committing under the same number
            return []
        used = {ref.name for ref in refs if ref is not None}
        kinds = [("checkpoints", key.number), ("results", key.number), ("broadcasts", key.number)]
        if task.run is not None:  # an opening stores the base before its round
            kinds += [("bases", key.number), *([("bases", key.number + 1)] if task.ended else [])]
        outputs = (
            blob.name
            for kind, number in (*kinds, ("broadcasts", key.number - 1))
            for blob in self.platform.blobs.list(names.output_prefix(kind, key.task, number))
        )
        return [name for name in outputs if names.original_name(name) not in used]

    def tick(self) -> None:
        """Checks every task once, and repeats the work of messages that were lost.

        Raises:
          Exception: the error of the first task that could not be repaired, after all tasks were
            checked.
        """
        failed: Exception | None = None
        for document in self.platform.documents.list("tasks"):
            try:
                self._repair(self.platform.tasks.read(document).value)
            except UnreadableError as error:
                events.task_unreadable(document.id, str(error))
                failed = failed or error
            except Exception as error:  # one task's error must not stop the repair of the others
                if is_unavailable(error):
                    log_unavailable(LOG, f"Task {document.id} can't be repaired now", error)
                else:
                    LOG.exception("Task %s can't be repaired", document.id)
                failed = failed or error
        self.task_purge.tick()
        self._remove_orphans()
        phase = int(self.platform.clock.now() // TICK) % _MANIFESTS_PERIOD
        if phase == _MANIFESTS_PHASE:
            self._remove_stray_manifests()
        if phase == _HOURS_PHASE:
            remove_old_hours(self.platform)
        if failed is not None:
            raise failed

    def _repair(self, task: Task) -> None:
        if task.status is TaskStatus.DELETING:
            self.task_purge.step(task.name)
            return
        if not task.ended:
            join_population(self.platform, task)
        elif self.platform.documents.get(names.member_path(task.spec.population, task.name)) is not None:
            leave_population(self.platform, task)
        if task.status is TaskStatus.OPENING:
            minute = int(self.platform.clock.now() // TICK)
            self.platform.queue.enqueue(
                queued_work.open_task(task.name), name=f"open-{task.name}-{task.epoch}-{minute}"
            )
        elif task.resting:
            abandon_current(self.platform, task, reason="rolled back")  # if the rollback was interrupted
        elif task.current is not None and not task.ended and not task.stopped:
            self.round_closer.close(task.current, repairing=True)
        if task.spec.evaluates is not None:
            evaluations.advance(self.platform, task.name)
        # An interrupted opening may have left a round, even if the task has none yet.
        current = task.current or RoundKey(task.name, 0, 0)
        self._sweep_older_rounds(task, current)
        self._sweep_recent_rounds(task, current)

    def _sweep_older_rounds(self, task: Task, current: RoundKey) -> None:
        """Sweeps the older rounds that no sweep has finished, a bounded number of them.

        A sweep can be lost, and ticks too, while short rounds follow. A request that read a round
        just before its end may write a counter or a slot holder after the sweep. A document names
        the last round up to which all are swept, so that each round is checked once more after that
        time, and not at every tick.
        """
        documents, path, last = self.platform.documents, names.sweep_progress_path(task.name), _last_skipped(current)
        progress = documents.get(path)
        swept_up_to = start = None if progress is None else str(progress.data["round"])
        if start is not None and start >= last.id:
            return
        # A round that this version can't read is left to the version that wrote it.
        page = self.platform.rounds.page(names.rounds_path(task.name), after=start, limit=MAX_OLDER_ROUNDS)
        is_complete = True
        for record in page.records:
            round_, key = record.value, record.value.key
            if key.id > last.id:
                break
            self._abandon_superseded(task, round_, current)
            if not self._has_swept_key(key):
                self.sweep(key)
            is_complete = is_complete and self._is_final(round_)
            if is_complete:
                swept_up_to = key.id
        if swept_up_to == start:
            return
        # Two ticks may overlap. The progress of the one that writes later is not needed.
        with suppress(AlreadyExistsError, ConflictError):
            if progress is None:
                documents.create(path, {"round": swept_up_to})
            else:
                documents.replace(path, {"round": swept_up_to}, version=progress.version)

    def _is_final(self, round_: Round) -> bool:
        """Sweeps late documents. Returns whether the round needs no other sweep.

        Later blobs are found by `_remove_orphans` and `_remove_stray_manifests`.
        """
        if isinstance(round_, Collecting | Aggregating):
            return False
        if self.platform.clock.now() - round_.ended_at < _SETTLING_TIME:
            return False
        key = round_.key
        collections = (names.tickets_path(key), names.shards_path(key), names.holders_path(key))
        if any(self.platform.documents.list(path, limit=1) for path in collections):
            self.sweep(key)
        return self._has_swept_key(key)

    def _abandon_superseded(self, task: Task, round_: Round, current: RoundKey) -> None:
        """Abandons an open round before the current one, or of a task that has ended or is idle.

        The committer may be opening a round after the current one of any other task.
        """
        if not isinstance(round_, Collecting | Aggregating):
            return
        if task.ended or round_.key < current or (task.resting and self.platform.task(task.name).value == task):
            stray = replace(task, number=round_.key.number, epoch=round_.key.epoch)
            abandon_current(self.platform, stray, reason=task.status.value if task.ended else "superseded")

    def _sweep_recent_rounds(self, task: Task, current: RoundKey) -> None:
        """Logs a late current round, abandons superseded open rounds, and sweeps ended rounds."""
        for round_ in self.platform.rounds.list(names.rounds_path(task.name), after=_last_skipped(current).id):
            key = round_.value.key
            if isinstance(round_.value, Collecting | Aggregating) and key == current:
                events.round_late(round_.value, now=self.platform.clock.now())
            self._abandon_superseded(task, round_.value, current)
            if not self._is_swept(round_.value):
                self.sweep(key)

    def _is_swept(self, round_: Round) -> bool:
        """Returns whether a round has been swept and needs no other sweep now.

        A round that may still get late writes is swept again at intervals. The sweep deletes the
        round's pseudonym key after its blobs. `_remove_orphans` finds later writes, and single
        updates at every tick.
        """
        if isinstance(round_, Collecting | Aggregating):
            return False
        seconds = self.platform.clock.now() - round_.ended_at
        if seconds < _SETTLING_TIME or (seconds < LATE_WRITES_TIME and seconds % _SWEEP_INTERVAL < TICK):
            return False
        return self._has_swept_key(round_.key)

    def _has_swept_key(self, key: RoundKey) -> bool:
        """Returns whether the pseudonym key is gone, which a sweep deletes after all blobs."""
        return self.platform.documents.get(names.pseudonym_key_path(key)) is None

    def _remove_orphans(self) -> None:
        """Deletes updates and partials that were written after their round's sweep.

        Logs the number and the age of the stored updates.
        """
        ended: dict[RoundKey, bool] = {}
        orphans = []
        updates, now = 0, self.platform.clock.now()
        oldest = now
        for key, blob in stored_contributions(self.platform.blobs):
            # An empty blob marks a client that gave its assignment back or uploaded directly. It
            # stays for the round.
            if blob.size and blob.name.startswith(names.UPDATES):
                updates, oldest = updates + 1, min(oldest, blob.created)
            if key not in ended:
                ended[key] = self._has_ended(key)
            if ended[key]:
                orphans.append(blob.name)
        self.platform.blobs.delete(orphans)
        events.updates_stored(updates, oldest_seconds=now - oldest)

    def _remove_stray_manifests(self) -> None:
        """Deletes manifests of ended rounds: late ones, and those that an earlier version left.

        Bounded per call: an earlier version left the manifests of every round, and later calls
        delete the rest.
        """
        ended: dict[RoundKey, bool] = {}
        stray: list[str] = []
        for blob in self.platform.blobs.list(names.MANIFESTS):
            key = names.round_of(blob.name)
            if key not in ended:
                ended[key] = self._has_ended(key)
            if ended[key]:
                stray.append(blob.name)
                if len(stray) >= MAX_STRAY_MANIFESTS:
                    break
        self.platform.blobs.delete(stray)

    def _has_ended(self, key: RoundKey) -> bool:
        try:
            record = self.platform.round(key)
        except UnreadableError:
            return False  # it may be open
        return record is None or not isinstance(record.value, Collecting | Aggregating)


def _last_skipped(current: RoundKey) -> RoundKey:
    """Returns the last key that a tick skips: a few rounds back, or attempts if there are many."""
    if current.epoch > _MAX_ROUNDS_BEHIND:
        return replace(current, epoch=current.epoch - _MAX_ROUNDS_BEHIND - 1)
    return replace(current, number=max(0, current.number - _MAX_ROUNDS_BEHIND), epoch=0)
