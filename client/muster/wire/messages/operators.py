"""Messages about operators' work: the audit log and revoked enrolment tokens."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Optional

from pydantic import Field

from muster.wire.base import Answer, Message
from muster.wire.messages.fields import EnrolmentId
from muster.wire.times import Time

_ENROLMENT_ID = "Id of the enrolment token (its `jti`): 32 hexadecimal digits."


class AuditEntry(Answer):
    """Entry of the audit log: one change that an operator made or attempted."""

    id: str = Field(description="Id of the entry. Ids sort by time.")
    at: datetime = Field(description="Time at which the request started.")
    who: str = Field(description="Operator: the name of a key, or an e-mail address.")
    role: str = Field(description="Role of the operator, `viewer` or `operator`.")
    action: str = Field(description="Action, such as `task.pause`.")
    subject: str = Field(description="Subject of the action: a task's name or a plan's address.")
    request: dict[str, Any] = Field(default_factory=dict, description="Parameters of the request. Empty by default.")
    before: dict[str, Any] = Field(
        default_factory=dict, description="Subject just before the change. Empty if it did not exist."
    )
    result: str = Field(
        description="`done`; `failed`, with `problem`; `refused`, since the role does not permit it; `unknown`, if the "
        "coordinator crashed meanwhile or is still at work: the change may have taken effect."
    )
    ended_at: Optional[datetime] = Field(
        default=None, description="Time at which the request ended. Missing while the result is `unknown`."
    )
    after: dict[str, Any] = Field(
        default_factory=dict, description="Subject just after the change. Empty if nothing changed."
    )
    problem: str = Field(default="", description="Type of the problem that the request ended with. Empty if none.")
    detail: str = Field(default="", description="Detail of that problem. Empty if none.")


class AuditList(Answer):
    """Page of the audit log."""

    entries: tuple[AuditEntry, ...] = Field(description="Entries, oldest first.")
    unreadable: tuple[str, ...] = Field(
        default=(), description="Ids of entries that a newer version of the coordinator wrote and this one can't read."
    )
    next: Optional[str] = Field(
        default=None, description="Value of `after` for the next page. Missing on the last page."
    )


class Revocation(Message):
    """Request to revoke an enrolment token. Idempotent."""

    id: EnrolmentId = Field(description=_ENROLMENT_ID)
    expires_at: Optional[Time] = Field(
        default=None,
        description="Time at which the token expires by itself; the revocation is forgotten then. By default it is "
        "stored forever.",
    )


class RevocationView(Answer):
    """Revoked enrolment token."""

    id: EnrolmentId = Field(description=_ENROLMENT_ID)
    revoked_at: datetime = Field(description="Time at which the token was revoked.")
    expires_at: Optional[datetime] = Field(
        default=None, description="Time at which the token expires by itself. Missing if it is not known."
    )


class RevocationList(Answer):
    """All revoked enrolment tokens."""

    revocations: tuple[RevocationView, ...] = Field(description="Revoked tokens, in the order of their revocation.")
