"""Entries of the audit log. Each action of an operator has two: an intent and an outcome.

The intent is written before anything changes, so there is no change without one. An intent without
an outcome is an action that did not finish; its effect is unknown. Entries are never changed or
deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from muster_coordinator.domain.operators import Role

_TIME_DIGITS = 16  # of microseconds since 1970, enough until the year 2286
_OUTCOME = ".outcome"


@dataclass(frozen=True, slots=True)
class AuditIntent:
    """Intent of an operator to change something.

    Attributes:
      at: The time, in POSIX seconds.
      who: The operator.
      role: The operator's role.
      action: The action, such as `task.pause`.
      subject: The name of the task, or the address of the plan, that the action changes.
      request: The fields of the request.
      before: The subject just before the action; empty if it did not exist.
      kind: The kind of entry.
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
    """Outcome of an action.

    Attributes:
      at: The time, in POSIX seconds.
      result: `done`; `failed`; or `refused`, if the operator lacks the permission.
      after: The subject after the action.
      problem: The type of the problem that ended the action, if any.
      detail: The text of that problem.
      kind: The kind of entry.
    """

    at: float
    result: Literal["done", "failed", "refused"]
    after: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    detail: str = ""
    kind: Literal["outcome"] = "outcome"


def entry_id(at: float, nonce: str) -> str:
    """Returns the id of a new intent. Ids are unique and sort by time."""
    return f"{first_id_since(at)}-{nonce}"


def first_id_since(at: float) -> str:
    """Returns a cursor that sorts before every id of `at` (POSIX seconds) and later."""
    return f"{max(0, round(at * 1e6)):0{_TIME_DIGITS}d}"


def outcome_id(intent: str) -> str:
    """Returns the id of an intent's outcome, which sorts right behind the intent."""
    return intent + _OUTCOME


def is_intent(entry: str) -> bool:
    """Returns whether an id is that of an intent."""
    return not entry.endswith(_OUTCOME)
