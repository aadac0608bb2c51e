"""The audit log records each change by an operator, with the state before and after.

Append-only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter

from muster.wire.messages import AuditEntry, AuditList
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.times import from_posix
from muster_coordinator.domain import names
from muster_coordinator.domain.audit import AuditIntent, AuditOutcome, entry_id, first_id_since, is_intent, outcome_id
from muster_coordinator.domain.operators import Principal
from muster_coordinator.domain.tasks import Task
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.records import Page, RecordRepository, UnreadableError, Versioned

LOG = logging.getLogger(__name__)
DEFAULT_PAGE_SIZE = 100  # default number of entries on a page

State = Mapping[str, Any]
T = TypeVar("T")
_ENTRY: TypeAdapter[AuditIntent | AuditOutcome] = TypeAdapter(AuditIntent | AuditOutcome)


@dataclass(frozen=True)
class AuditLog:
    """Audit log of a deployment."""

    platform: Platform

    def record(
        self,
        who: Principal,
        action: str,
        subject: str,
        *,
        change: Callable[[], T],
        read_state: Callable[[], State],
        request: State | None = None,
    ) -> T:
        """Runs `change` between two entries: the intent and the outcome.

        The intent is durable before `change` runs; if it can't be written, nothing changes. If the
        outcome can't be written, the caller gets the store's error although the change took effect,
        and repeats it. Then the log shows the first attempt without an outcome, and the second one.

        Args:
          who: The operator.
          action: The action, such as `task.pause`.
          subject: The name of the changed object.
          change: Makes the change. Its result is returned, and its exceptions pass through.
          read_state: Returns the subject's state for the log.
          request: The arguments of the request.
        """
        intent = self._begin(who, action, subject, request or {}, read_state())
        try:
            result = change()
        except ProblemError as problem:
            self._end(intent, "failed", problem=problem.type.value, detail=problem.detail, after=read_state())
            raise
        self._end(intent, "done", after=read_state())
        return result

    def record_refusal(self, who: Principal, action: str, subject: str) -> None:
        """Records a request that the operator has no permission for."""
        intent = self._begin(who, action, subject, {}, {})
        self._end(intent, "refused", problem=ProblemType.FORBIDDEN.value)

    def entries(
        self, *, after: str | None = None, limit: int = DEFAULT_PAGE_SIZE, start: float | None = None
    ) -> AuditList:
        """Returns a page of the log, oldest first.

        Args:
          after: The `next` of the previous page.
          limit: The maximum number of entries on the page.
          start: The time of the earliest entry, in POSIX seconds. Ignored with `after`.
        """
        if after is None and start is not None:
            after = first_id_since(start)
        # An outcome directly follows its intent, so two records per entry suffice.
        page = self._records.page(names.AUDIT, after=after, limit=2 * limit)
        records: dict[str, Any] = {record.document.id: record.value for record in page.records}
        intents = sorted(filter(is_intent, [*records, *page.unreadable]))
        views, unreadable = [], []
        for intent in intents[:limit]:
            if intent not in records:
                unreadable.append(intent)
                continue
            ending = outcome_id(intent)
            try:
                outcome = records.get(ending) or self._outcome(ending, page)
            except UnreadableError:
                outcome = None
                unreadable.append(ending)
            views.append(_view(intent, records[intent], outcome))
        last = intents[:limit][-1] if intents and (page.last is not None or len(intents) > limit) else None
        return AuditList(
            entries=tuple(views), unreadable=tuple(unreadable), next=None if last is None else outcome_id(last)
        )

    def _outcome(self, entry: str, page: Page[AuditIntent | AuditOutcome]) -> AuditIntent | AuditOutcome | None:
        """Returns an outcome that is not readable on the page, or None if it is missing.

        It may be unreadable, or the first entry after the page.
        """
        after_page = page.last is not None and entry > page.last
        record = self._records.get(names.audit_path(entry)) if after_page or entry in page.unreadable else None
        return None if record is None else record.value

    def _begin(self, who: Principal, action: str, subject: str, request: State, before: State) -> str:
        now = self.platform.clock.now()
        intent = entry_id(now, self.platform.randomness.nonce())
        self._records.create(
            names.audit_path(intent), AuditIntent(now, who.name, who.role, action, subject, dict(request), dict(before))
        )
        LOG.info("%s (%s): %s %s", who.name, who.role.value, action, subject)
        return intent

    def _end(self, intent: str, result: Any, **fields: Any) -> None:
        self._records.create(
            names.audit_path(outcome_id(intent)), AuditOutcome(self.platform.clock.now(), result, **fields)
        )

    @property
    def _records(self) -> RecordRepository[AuditIntent | AuditOutcome]:
        return RecordRepository(self.platform.audit, _ENTRY)


def task_state(platform: Platform, name: str) -> dict[str, Any]:
    """Returns a task's state for the log; empty if the task does not exist."""
    stored: Versioned[Task] | None = platform.tasks.get(names.task_path(name))
    if stored is None:
        return {}
    task = stored.value
    run = {} if task.run is None else {"run": task.run.request}
    return {
        "status": task.status.value,
        "checkpoint": task.checkpoint.version if task.checkpoint is not None else 0,
        "round": task.number,
        "epoch": task.epoch,
        "plan": task.spec.plan,
        **run,
    }


def _view(entry: str, intent: Any, outcome: Any) -> AuditEntry:
    return AuditEntry(
        id=entry,
        at=from_posix(intent.at),
        who=intent.who,
        role=intent.role.value,
        action=intent.action,
        subject=intent.subject,
        request=dict(intent.request),
        before=dict(intent.before),
        result="unknown" if outcome is None else outcome.result,
        ended_at=None if outcome is None else from_posix(outcome.at),
        after={} if outcome is None else dict(outcome.after),
        problem="" if outcome is None else outcome.problem,
        detail="" if outcome is None else outcome.detail,
    )
