"""JSON messages between clients, operators and the coordinator.

Times are RFC 3339, durations are seconds and sizes are bytes. Each field has one description, in
its model. The OpenAPI document, the CLI's help and the reference pages are generated from these.

- `checkin`: the client protocol, from check-in to upload or report.
- `policy`, `policy_parts`: the policy of a task's rounds.
- `tasks`: tasks, rounds and checkpoints, as operators see them.
- `populations`: populations and the outcomes of their check-ins.
- `operators`: the audit log and revoked enrolment tokens.
"""

from __future__ import annotations

from muster.wire.messages.checkin import (
    Assignment,
    CheckinRequest,
    CheckinResponse,
    DirectUpload,
    Download,
    FailureCode,
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
from muster.wire.messages.policy_parts import (
    AttributeValue,
    EligibilityRule,
    Guards,
    Operation,
    Retention,
    Window,
    WorseningGuard,
)
from muster.wire.messages.populations import PopulationList, PopulationView
from muster.wire.messages.tasks import (
    BaseView,
    CheckpointList,
    CheckpointView,
    Evaluation,
    Guard,
    Phase,
    Rollback,
    RoundList,
    RoundView,
    RunRequest,
    RunStatus,
    RunView,
    StateRef,
    Tag,
    TaskChange,
    TaskKind,
    TaskList,
    TaskSpec,
    TaskStatus,
    TaskView,
)

__all__ = [
    "Assignment",
    "AttributeValue",
    "AuditEntry",
    "AuditList",
    "BaseView",
    "CheckinRequest",
    "CheckinResponse",
    "CheckpointList",
    "CheckpointView",
    "Crc32c",
    "DirectUpload",
    "Download",
    "EligibilityRule",
    "EnrolmentId",
    "Evaluation",
    "FailureCode",
    "FailureReason",
    "Guard",
    "Guards",
    "Name",
    "Operation",
    "Phase",
    "PopulationList",
    "PopulationView",
    "Receipt",
    "Report",
    "Retention",
    "Revocation",
    "RevocationList",
    "RevocationView",
    "Rollback",
    "RoundList",
    "RoundView",
    "RunRequest",
    "RunStatus",
    "RunView",
    "Sha256",
    "StateRef",
    "Tag",
    "TaskChange",
    "TaskKind",
    "TaskList",
    "TaskPolicy",
    "TaskSpec",
    "TaskStatus",
    "TaskView",
    "UploadStart",
    "Wait",
    "WaitReason",
    "Window",
    "WorseningGuard",
]
