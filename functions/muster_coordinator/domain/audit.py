"""Entries of the audit log. Each action is two of them: what somebody set out to do, and what came of it.

The first is written before anything changes, so that there is no change without it; one without the second is an action that
did not come to its end, whose effect is unknown. Neither is ever changed or deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from muster_coordinator.domain.operators import Role

_SINCE_1970 = 16  # digits of microseconds, good until the year 2286
_OUTCOME = ".outcome"


@dataclass(frozen=True, slots=True)
class AuditIntent:
    """Somebody sets out to change something.

    Attributes:
      at: When, in POSIX seconds.
      who: The operator.
      role: The operator's role.
      action: What, such as `task.pause`.
      subject: To what: a task's name, or a plan's address.
      request: What was asked for, as the message says it.
      before: The subject as it was just before; empty if there was none.
    """

    at: float
    who: str
    role: Role
    action: str
    subject: str
    request: Mapping[str, Any] = field(default_factory=dict)
    before: Mapping[str, Any] = field(default_factory=dict)
    kind: Literal["intent"] = "intent"


@dataclass(frozen=True, slots=True)
class AuditOutcome:
    """What came of it: `after` is the subject then; `problem` the type of the problem that it ended with, `detail` its text."""

    at: float
    result: Literal["done", "failed", "refused"]
    after: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    detail: str = ""
    kind: Literal["outcome"] = "outcome"


def entry_id(at: float, nonce: str) -> str:
    """An id for an intent: ids sort by time, and no two are the same."""
    return f"{since(at)}-{nonce}"


def since(at: float) -> str:
    """What sorts before every id of `at` (POSIX seconds) and later."""
    return f"{max(0, round(at * 1e6)):0{_SINCE_1970}d}"


def outcome_id(intent: str) -> str:
    """The id of an intent's outcome, which sorts right behind it."""
    return intent + _OUTCOME


def is_intent(entry: str) -> bool:
    """Returns whether an id is an intent's."""
    return not entry.endswith(_OUTCOME)
