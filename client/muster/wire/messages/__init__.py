"""JSON messages between clients, operators and the coordinator.

Times are RFC 3339, durations are seconds and sizes are bytes. Each field has one description, in
its model. The OpenAPI document, the CLI's help and the reference pages are generated from these.

- `checkin`: the client protocol, from check-in to upload or report.
- `policy`: the policy of a task's rounds.
- `tasks`: tasks, rounds and checkpoints, as operators see them.
- `operators`: the audit log and revoked enrolment tokens.
"""

from __future__ import annotations

from muster.wire.messages.checkin import (
    Assignment,
    CheckinRequest,
    CheckinResponse,
    DirectUpload,
    Download,
    FailureReason,
    Receipt,
    Report,
    UploadStart,
    Wait,
    WaitReason,
)
from muster.wire.messages.fields import Crc32c, EnrolmentId, Name, Sha256
from muster.wire.messages.operators import AuditEntry, AuditList, Revocation, RevocationList, RevocationView
from muster.wire.messages.policy import TaskPolicy
from muster.wire.messages.tasks import (
    CheckpointList,
    CheckpointView,
    Phase,
    Rollback,
    RoundList,
    RoundView,
    TaskList,
    TaskSpec,
    TaskStatus,
    TaskView,
)

__all__ = [
    "Assignment",
    "AuditEntry",
    "AuditList",
    "CheckinRequest",
    "CheckinResponse",
    "CheckpointList",
    "CheckpointView",
    "Crc32c",
    "DirectUpload",
    "Download",
    "EnrolmentId",
    "FailureReason",
    "Name",
    "Phase",
    "Receipt",
    "Report",
    "Revocation",
    "RevocationList",
    "RevocationView",
    "Rollback",
    "RoundList",
    "RoundView",
    "Sha256",
    "TaskList",
    "TaskPolicy",
    "TaskSpec",
    "TaskStatus",
    "TaskView",
    "UploadStart",
    "Wait",
    "WaitReason",
]
