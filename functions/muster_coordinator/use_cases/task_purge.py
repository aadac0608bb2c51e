"""The task purge deletes the data of a task that an operator has marked for deletion.

It runs in the aggregator, the only function that may delete. The order of its deletes:

1. Round by round, the documents under an attempt, then the attempt's document. Once that is gone,
   no client's update is accepted. Before it goes, the attempts that may still get late writes are
   noted in the document that reserves the task's name.
2. The blobs. What a request writes after the listing is deleted by the second purge.
3. The documents of requests and sweeps, and the membership in the population.
4. The reservation of the name gets its times, and then the task's document is deleted. So there is
   no time at which the name is free and a token of the task is valid.

Each step deletes what is left of its kind, so a repeat after a crash at any of them ends the same.
A call deletes a bounded number and enqueues the next one. If that is lost, each tick deletes as
many of a task that is still marked, and of one whose second purge is due.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass

from muster.wire.messages import TaskStatus
from muster.wire.problems import ProblemError
from muster_coordinator import queued_work
from muster_coordinator.domain import names
from muster_coordinator.domain.deletions import (
    LATE_WRITES_TIME,
    SESSION_ABOVE,
    Deletion,
    LateWrites,
    reservation_seconds,
)
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import Abandoned, Committed
from muster_coordinator.domain.tasks import Task
from muster_coordinator.ports import AlreadyExistsError, ConflictError, Document, UnavailableError
from muster_coordinator.state.lifecycle import leave_population
from muster_coordinator.state.plan_repository import PlanRepository
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.records import UnreadableError
from muster_coordinator.state.reserved_names import deletions
from muster_coordinator.state.task_remains import TaskRemains

LOG = logging.getLogger(__name__)
MAX_DELETED = 5000  # documents and blobs that one call deletes
_ROUNDS_PAGE = 50  # attempts
_ATTEMPTS = 20  # of a compare-and-set among a handful of deliveries
_LONGEST_ASSIGNMENT = 86_400.0  # seconds; the policy's maximum


@dataclass(frozen=True)
class TaskPurge:
    """Deleter of the data of tasks.

    Attributes:
      platform: The ports.
      plans: The plans.
      limit: Number of documents and blobs that one call deletes.
    """

    platform: Platform
    _: KW_ONLY
    plans: PlanRepository
    limit: int = MAX_DELETED

    def enqueue(self, task: str, *, delay: float = 0.0) -> None:
        """Enqueues `run` for a task that is marked for deletion, or deleted."""
        name = f"delete-{task}-{self.platform.randomness.nonce()}"
        self.platform.queue.enqueue(queued_work.delete_task(task), name=name, delay=delay)

    def run(self, name: str) -> None:
        """Deletes like `step`, and enqueues the next call if it has not deleted all."""
        if not self.step(name):
            self.enqueue(name)

    def step(self, name: str) -> bool:
        """Deletes data of a task that is marked for deletion, or late writes to a deleted task.

        Any other task stays as it is. Idempotent.

        Returns:
          False if the call has deleted as much as it may, and more may be left.
        """
        record = self.platform.tasks.get(names.task_path(name))
        if record is None:
            return self._purge_late_writes(name)
        if record.value.status is not TaskStatus.DELETING:
            return True
        return self._delete(record.value, record.document)

    def tick(self) -> None:
        """Runs the second purges that are due, and frees the names that are reserved no more.

        A reservation that this version can't read is left to the version that wrote it.
        """
        now = self.platform.clock.now()
        for record in deletions(self.platform).page(names.DELETED).records:
            deletion, document = record.value, record.document
            if deletion.late is not None:
                if now >= deletion.late.purge_at:
                    self.step(deletion.late.task)
            elif not deletion.reserves(now):
                with suppress(ConflictError):  # a task of that name was deleted once more
                    self.platform.documents.delete(document.path, version=document.version)

    def _delete(self, task: Task, document: Document) -> bool:
        leave_population(self.platform, task)
        remains = TaskRemains(self.platform, task.name, left=self.limit)
        if not (self._delete_rounds(task, remains) and self._delete_rest(task.name, remains)):
            self._reserve(task, assignment_seconds=0.0, remains=remains)
            return False
        remains.documents += 1  # the task's own
        specs = (task.spec, task.created or task.spec)
        seconds = max(spec.policy.assignment_seconds for spec in specs)
        self._reserve(task, assignment_seconds=seconds, remains=remains)
        with suppress(ConflictError):  # another delivery was faster
            self.platform.documents.delete(document.path, version=document.version)
        LOG.info("task %s is deleted", task.name)
        self.enqueue(task.name, delay=LATE_WRITES_TIME)
        return True

    def _delete_rounds(self, task: Task, remains: TaskRemains) -> bool:
        """Deletes the attempts and the documents under them. Returns whether none is left."""
        while remains.left > 0:
            page = self.platform.documents.list(names.rounds_path(task.name), limit=_ROUNDS_PAGE)
            if not page:
                return True
            self._note_late_rounds(task, page)
            keys = [RoundKey.parse(task.name, document.id) for document in page]
            if not remains.delete_under_rounds(keys):
                return False
            remains.delete_documents(document.path for document in page)
        return False

    def _delete_rest(self, task: str, remains: TaskRemains) -> bool:
        """Deletes all but rounds and the task's document. Returns whether nothing is left."""
        return (
            remains.delete_blobs()
            and remains.delete_collection(names.requests_path(task))
            and remains.delete_collection(names.sweeps_path(task))
            and remains.delete_collection(names.task_keys_path(task))
        )

    def _note_late_rounds(self, task: Task, page: Sequence[Document]) -> None:
        """Notes the attempts to which a late request may write, before they are deleted."""
        late, longest = [], 0.0
        for document in page:
            seconds = self._late_assignment(document)
            if seconds is not None:
                late.append(document.id)
                longest = max(longest, seconds)
        if late:
            self._reserve(task, assignment_seconds=longest, rounds=late)

    def _late_assignment(self, document: Document) -> float | None:
        """Returns the validity of an attempt's assignments, in seconds; None if all have expired.

        An attempt that this version can't read has the longest that there is.
        """
        try:
            round_ = self.platform.rounds.read(document).value
        except UnreadableError:
            return _LONGEST_ASSIGNMENT
        seconds = round_.terms.assignment_seconds
        if not isinstance(round_, Committed | Abandoned):
            return seconds
        age = self.platform.clock.now() - round_.ended_at
        return seconds if age < seconds + LATE_WRITES_TIME else None

    def _reserve(
        self,
        task: Task,
        *,
        assignment_seconds: float,
        rounds: Sequence[str] = (),
        remains: TaskRemains | None = None,
    ) -> None:
        """Reserves the task's name, and adds attempts or counts to the reservation."""
        now = self.platform.clock.now()
        late = LateWrites(task.name, task.spec.population, tuple(rounds), now + LATE_WRITES_TIME)
        until = now + reservation_seconds(assignment_seconds, sessions=self._may_use_sessions(task))
        documents, blobs = (0, 0) if remains is None else (remains.documents, remains.blobs)

        def extend(deletion: Deletion | None) -> Deletion:
            if deletion is None or not deletion.reserves(now):  # an expired one is of an earlier task
                deletion = Deletion(until=until, late=None)
            return deletion.extended(late, until=until, documents=documents, blobs=blobs)

        self._change(task.name, extend)

    def _may_use_sessions(self, task: Task) -> bool:
        """Returns whether an update may be so large that a direct upload of it is a session."""
        try:
            return self.plans.rules(task.spec.plan, allow_non_finite=True).max_bytes > SESSION_ABOVE
        except ProblemError:  # the plan can't be read, so it is not known
            return True

    def _purge_late_writes(self, name: str) -> bool:
        """Deletes what late requests wrote to a deleted task. Returns like `step`."""
        stored = deletions(self.platform).get(names.deleted_path(name))
        late = None if stored is None else stored.value.late
        if late is None or self.platform.clock.now() < late.purge_at:
            return True
        self.platform.documents.delete(names.member_path(late.population, name))
        remains = TaskRemains(self.platform, name, left=self.limit)
        keys = [RoundKey.parse(name, round_id) for round_id in late.rounds]
        complete = (
            remains.delete_under_rounds(keys)
            and remains.delete_collection(names.rounds_path(name))
            and self._delete_rest(name, remains)
        )
        if complete:
            self._change(name, lambda deletion: None if deletion is None else deletion.purged())
        return complete

    def _change(self, name: str, change: Callable[[Deletion | None], Deletion | None]) -> None:
        """Changes the reservation of a name by compare-and-set."""
        records, path = deletions(self.platform), names.deleted_path(name)
        for _ in range(_ATTEMPTS):
            stored = records.get(path)
            changed = change(None if stored is None else stored.value)
            try:
                if stored is None and changed is not None:
                    records.create(path, changed)
                elif stored is not None and changed is not None:
                    records.replace(stored, changed)
            except (AlreadyExistsError, ConflictError):
                continue
            return
        raise UnavailableError(f"{path} was changed by other deliveries at each attempt")
