"""Messages of the client protocol: check-in, upload and report."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Literal, Optional, Union

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from muster.wire.base import Answer, Message, without_defaults
from muster.wire.messages.fields import Crc32c, Name, Sha256
from muster.wire.messages.policy_parts import MAX_ATTRIBUTES, AttributeName, AttributeValue

# The description of a field that several messages have.
_RETRY_AFTER = "Seconds to wait before the next check-in, jitter included."
_COOKIE = "Opaque value to send with the next check-in; missing if there is nothing to remember."


class WaitReason(str, Enum):
    """Reason why a check-in returns no assignment.

    - `no_task`: the population has no active task.
    - `round_full`: every slot of the open round is taken.
    - `between_rounds`: the round is being folded and committed, or the next one is not due yet.
    - `already_in`: the client contributed to the open round, or gave its assignment back.
    - `task_paused`: an operator paused the task.
    - `too_soon`: the client's last contribution is younger than the task's minimum separation.
    - `not_eligible`: the client's attributes do not satisfy the task's eligibility rules.
    - `outside_window`: the task assigns work at other hours.
    - `reserved`: the client is reserved for an evaluation of the task, or not for this evaluation.
    - `other`: a reason that this version of the client does not know.
    """

    NO_TASK = "no_task"
    ROUND_FULL = "round_full"
    BETWEEN_ROUNDS = "between_rounds"
    ALREADY_IN = "already_in"
    TASK_PAUSED = "task_paused"
    TOO_SOON = "too_soon"
    NOT_ELIGIBLE = "not_eligible"
    OUTSIDE_WINDOW = "outside_window"
    RESERVED = "reserved"
    OTHER = "other"

    @classmethod
    def _missing_(cls, value: object) -> WaitReason | None:
        return cls.OTHER if isinstance(value, str) else None


class FailureReason(str, Enum):
    """Reason why a client gives an assignment back.

    - `data`: the data callback failed, or returned data that the plan does not accept.
    - `computation`: the plan's graph failed.
    - `plan_refused`: the client refused the plan because of a hash, a signature, an operation or a
      local limit.
    - `cancelled`: the owner of the device, or its operating system, stopped the work.
    - `other`: any other failure.
    """

    DATA = "data"
    COMPUTATION = "computation"
    PLAN_REFUSED = "plan_refused"
    CANCELLED = "cancelled"
    OTHER = "other"


class FailureCode(str, Enum):
    """Closed list of causes of a failure, more exact than its `FailureReason`.

    - `data.missing`: the data callback found no data, such as no file.
    - `data.shape`: the data has another structure, shape or dtype than the plan expects.
    - `data.not_finite`: the update contains NaN or infinity.
    - `data.error`: the data callback failed in another way.
    - `computation.error`: the plan's graph failed.
    - `limits.time`: the work took longer than the assignment or a limit of the device allows.
    - `limits.memory`: the work needs more memory than the device allows.
    - `limits.size`: the plan, the broadcast or the update is larger than a limit allows.
    - `limits.budget`: the data owner's budget is spent.
    - `plan.refused`: the data owner's policy refuses the plan.
    - `plan.invalid`: the plan or the broadcast is damaged, lacks a trusted signature, or has
      operations that are not allowed.
    - `owner.cancelled`: the owner of the device, or its operating system, stopped the work.
    - `other`: any other cause.
    """

    DATA_MISSING = "data.missing"
    DATA_SHAPE = "data.shape"
    DATA_NOT_FINITE = "data.not_finite"
    DATA_ERROR = "data.error"
    COMPUTATION_ERROR = "computation.error"
    LIMITS_TIME = "limits.time"
    LIMITS_MEMORY = "limits.memory"
    LIMITS_SIZE = "limits.size"
    LIMITS_BUDGET = "limits.budget"
    PLAN_REFUSED = "plan.refused"
    PLAN_INVALID = "plan.invalid"
    OWNER_CANCELLED = "owner.cancelled"
    OTHER = "other"


class CheckinRequest(Message):
    """Request of a client for work."""

    client: Optional[Annotated[str, Field(min_length=1, max_length=256)]] = Field(
        default=None,
        description="Self-asserted id of the client, which limits it to one contribution per round. "
        "Ignored where the coordinator authenticates clients. By default each check-in is a new client.",
    )
    cookie: Optional[Annotated[str, Field(max_length=4096)]] = Field(
        default=None, description="`cookie` of the coordinator's last response, unchanged. By default none."
    )
    attributes: Annotated[dict[AttributeName, AttributeValue], Field(max_length=MAX_ATTRIBUTES)] = Field(
        default_factory=dict,
        description="Attributes that the client states for the eligibility rules of tasks, such as its app's version. "
        "They are neither stored nor logged. Empty by default.",
    )

    @model_serializer(mode="wrap")
    def _omit_no_attributes(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omits empty attributes, which coordinators before 0.2 refuse."""
        return without_defaults(self, serialize(self), names=("attributes",))


class Download(Answer):
    """Immutable file to download."""

    url: str = Field(description="URL of the file, relative to the coordinator's.")
    sha256: Sha256 = Field(description="SHA-256 of the file, in hex, before any content encoding.")
    size: int = Field(description="Size of the file in bytes, before any content encoding.")


class Assignment(Answer):
    """Permission for one client to upload one update to one round."""

    status: Literal["assigned"] = Field(default="assigned", description="Always `assigned`.")
    task: Name = Field(description="Name of the task.")
    round: int = Field(description="Number of the round, from 1.")
    token: str = Field(description="Assignment token, to send as `Authorization: Bearer <token>`.")
    expires_at: datetime = Field(description="Time at which the assignment expires, by the coordinator's clock.")
    seconds: Optional[float] = Field(
        default=None,
        description="Seconds from this response until the assignment expires, for devices without a correct clock. "
        "Missing from a coordinator before 0.2.",
    )
    goal: Optional[int] = Field(
        default=None, description="Number of updates that closes the round. Missing from a coordinator before 0.2."
    )
    minimum: Optional[int] = Field(
        default=None,
        description="Fewest updates in the round's result. Missing from a coordinator before 0.2.",
    )
    kind: str = Field(default="train", description="Kind of the work: `train`, `evaluate` or `analytics`.")
    selector: Optional[dict[str, Any]] = Field(
        default=None, description="Value that says which of its data the client uses. Missing if there is none."
    )
    plan: Download = Field(description="Plan to run. Its `sha256` is the plan's address.")
    broadcast: Download = Field(description="Broadcast of the round, as safetensors.")
    max_update_bytes: int = Field(description="Largest accepted update in bytes, before any content encoding.")
    direct_above: Optional[int] = Field(
        default=None,
        description="Size in bytes above which an update is uploaded directly to the store (`updates:start`). "
        "By default every update is uploaded through the coordinator.",
    )
    update_encodings: tuple[str, ...] = Field(
        default=(),
        description="Content encodings accepted for an update that is uploaded through the coordinator. "
        "By default none.",
    )
    allow_non_finite: bool = Field(
        default=False, description="Whether the update may contain NaN and infinity. By default it may not."
    )
    sums_in_the_clear: bool = Field(
        default=False,
        description="Whether sums that the plan declares as secure are computed in the clear. By default there are "
        "none.",
    )


class Wait(Answer):
    """Response to a check-in that has no work for the client."""

    status: Literal["wait"] = Field(default="wait", description="Always `wait`.")
    reason: WaitReason = Field(description="Reason why there is no work.")
    retry_after: float = Field(description=_RETRY_AFTER)
    cookie: Optional[str] = Field(default=None, description=_COOKIE)


class CheckinResponse(Answer):
    """Response to a check-in."""

    answer: Annotated[Union[Assignment, Wait], Field(discriminator="status")] = Field(
        description="An assignment, or a wait. `status` distinguishes them."
    )


class Receipt(Answer):
    """Confirmation of an update or a report. A repeat of the request returns the same receipt."""

    status: Literal["accepted", "reported"] = Field(
        description="`accepted`: the update is stored. `reported`: the assignment was given back."
    )
    task: Name = Field(description="Name of the task.")
    round: int = Field(description="Number of the round.")
    retry_after: float = Field(description=_RETRY_AFTER)
    cookie: Optional[str] = Field(default=None, description=_COOKIE)


class UploadStart(Message):
    """Request to upload one file, the update, directly to the store."""

    size: Annotated[int, Field(ge=1, le=5 << 40)] = Field(description="Size of the file in bytes.")
    crc32c: Crc32c = Field(description="CRC32C of the file, big-endian in base64.")


class DirectUpload(Answer):
    """Permission to upload one file, once, directly to the store."""

    method: Literal["PUT"] = Field(default="PUT", description="HTTP method of the upload.")
    url: str = Field(
        description="URL to upload the file to. It is a secret: it admits that file from any sender. Send it without "
        "the assignment token."
    )
    headers: dict[str, str] = Field(description="All headers to send with the upload.")
    resumable: bool = Field(
        description="Whether `url` is a resumable upload session of Cloud Storage. Otherwise the file is sent whole, "
        "in one request."
    )
    expires_at: datetime = Field(description="Time at which `url` expires.")


class Report(Message):
    """Outcome of an assignment."""

    outcome: Literal["failed", "uploaded"] = Field(
        default="failed",
        description="`failed` (the default): the client gives the assignment back, which frees its slot at once. "
        "`uploaded`: the update is in the store.",
    )
    reason: Optional[FailureReason] = Field(
        default=None, description="Reason of the failure. Required with `failed`, refused with `uploaded`."
    )
    code: Optional[FailureCode] = Field(
        default=None, description="Cause of the failure, more exactly than `reason`. Missing if it is not known."
    )
    detail: Annotated[str, Field(max_length=1000)] = Field(
        default="", description="Text for operators about the failure. It must not contain data. Empty by default."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Report:
        if (self.outcome == "failed") is (self.reason is None):
            raise ValueError("a failure has a reason, and an upload has none")
        return self
