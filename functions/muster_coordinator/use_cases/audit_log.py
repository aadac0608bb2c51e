"""The audit log: who changed what, when, from what to what. It is only ever added to."""

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
from muster_coordinator.domain.audit import AuditIntent, AuditOutcome, entry_id, is_intent, outcome_id, since
from muster_coordinator.domain.operators import Principal
from muster_coordinator.domain.tasks import Task
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.records import Page, Records, UnreadableError, Versioned

LOG = logging.getLogger(__name__)
PAGE = 100  # entries in an answer, if the caller does not say

State = Mapping[str, Any]
T = TypeVar("T")
_ENTRY: TypeAdapter[AuditIntent | AuditOutcome] = TypeAdapter(AuditIntent | AuditOutcome)


@dataclass(frozen=True)
class AuditLog:
    """The log of one deployment."""

    platform: Platform

    def record(
        self,
        who: Principal,
        action: str,
        subject: str,
        *,
        change: Callable[[], T],
        look: Callable[[], State],
        request: State | None = None,
    ) -> T:
        """Does `change`, between an entry that says so and one that says what came of it.

        The first is durable before `change` begins: if it can't be written, nothing is changed. If the second can't, the caller
        gets the store's error for an action that took effect, and repeats it; the log then shows the first attempt without an
        outcome, and the second.

        Args:
          who: Who wants it.
          action: What, such as `task.pause`.
          subject: To what.
          change: Does it; what it gives is given back, what it raises passes through.
          look: Reads the subject as the log shows it.
          request: What was asked for.
        """
        intent = self._begin(who, action, subject, request or {}, look())
        try:
            result = change()
        except ProblemError as problem:
            self._end(intent, "failed", problem=problem.type.value, detail=problem.detail, after=look())
            raise
        self._end(intent, "done", after=look())
        return result

    def refused(self, who: Principal, action: str, subject: str) -> None:
        """Records that somebody wanted what they may not do."""
        intent = self._begin(who, action, subject, {}, {})
        self._end(intent, "refused", problem=ProblemType.FORBIDDEN.value)

    def entries(self, *, after: str | None = None, limit: int = PAGE, start: float | None = None) -> AuditList:
        """A page of the log, oldest first.

        Args:
          after: The `next` of the page before.
          limit: Entries on the page.
          start: Nothing older, in POSIX seconds. Not with `after`.
        """
        if after is None and start is not None:
            after = since(start)
        # An outcome directly follows its intent, so these hold at least `limit` intents, if there are as many.
        page = self._records.page(names.AUDIT, after=after, limit=2 * limit)
        records: dict[str, Any] = {each.document.id: each.value for each in page.records}
        begun = sorted(filter(is_intent, [*records, *page.unreadable]))
        views, unreadable = [], []
        for entry in begun[:limit]:
            if entry not in records:
                unreadable.append(entry)
                continue
            ending = outcome_id(entry)
            try:
                outcome = records.get(ending) or self._outcome(ending, page)
            except UnreadableError:
                outcome = None
                unreadable.append(ending)
            views.append(_view(entry, records[entry], outcome))
        last = begun[:limit][-1] if begun and (page.last is not None or len(begun) > limit) else None
        return AuditList(
            entries=tuple(views), unreadable=tuple(unreadable), next=None if last is None else outcome_id(last)
        )

    def _outcome(self, entry: str, page: Page[AuditIntent | AuditOutcome]) -> AuditIntent | AuditOutcome | None:
        """Fetches an outcome that was not in the page: it is missing, unreadable, or the first entry after the page."""
        behind = page.last is not None and entry > page.last
        found = self._records.get(names.audit_path(entry)) if behind or entry in page.unreadable else None
        return None if found is None else found.value

    def _begin(self, who: Principal, action: str, subject: str, request: State, before: State) -> str:
        now = self.platform.clock.now()
        intent = entry_id(now, self.platform.randomness.nonce())
        self._records.create(
            names.audit_path(intent), AuditIntent(now, who.name, who.role, action, subject, dict(request), dict(before))
        )
        LOG.info("%s (%s): %s %s", who.name, who.role.value, action, subject)
        return intent

    def _end(self, intent: str, result: Any, **more: Any) -> None:
        self._records.create(
            names.audit_path(outcome_id(intent)), AuditOutcome(self.platform.clock.now(), result, **more)
        )

    @property
    def _records(self) -> Records[AuditIntent | AuditOutcome]:
        return Records(self.platform.documents, _ENTRY)


def task_state(platform: Platform, name: str) -> dict[str, Any]:
    """A task as the log shows it; empty if there is none."""
    found: Versioned[Task] | None = platform.tasks.get(names.task_path(name))
    if found is None:
        return {}
    task = found.value
    return {
        "status": task.status.value,
        "checkpoint": task.checkpoint.version if task.checkpoint is not None else 0,
        "round": task.number,
        "epoch": task.epoch,
        "plan": task.spec.plan,
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
