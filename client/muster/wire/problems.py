"""Problem documents (RFC 9457) of a closed set of types, and the exception that carries them.

The coordinator raises a `ProblemError` and sends it as a `Problem`; the client or operator raises
it again. The docstring of `muster` draws the tree of exceptions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Optional

from pydantic import BaseModel, ConfigDict, Field

CONTENT_TYPE = "application/problem+json"
MAX_FIELDS = 20  # bad fields listed in one problem document
_MAX_FIELD_TEXT = 300  # characters of a field's path or reason
_MAX_DETAIL = 2000  # characters
_TYPE_PREFIX = "https://muster.dev/problems/"


class ProblemType(str, Enum):
    """Type of a problem. `KINDS` states the HTTP status and the meaning of each."""

    INVALID_REQUEST = "invalid_request"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    CONFLICT = "conflict"
    ROUND_CLOSED = "round_closed"
    ASSIGNMENT_INVALID = "assignment_invalid"
    ASSIGNMENT_EXPIRED = "assignment_expired"
    TOO_LARGE = "too_large"
    ENCODING_NOT_SUPPORTED = "encoding_not_supported"
    RATE_LIMITED = "rate_limited"
    UPDATE_INVALID = "update_invalid"
    UPDATE_NOT_FINITE = "update_not_finite"
    UPDATE_TRUNCATED = "update_truncated"
    PLAN_INVALID = "plan_invalid"
    COMPUTATION_FAILED = "computation_failed"
    NOT_SUPPORTED = "not_supported"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


@dataclass(frozen=True)
class ProblemKind:
    """Constants of a problem type.

    Attributes:
      status: HTTP status.
      title: Summary, sent with every problem.
      meaning: Occasions of the problem.
      action: What a client does about it, as one of four strategies of docs/reference/problems.md.
    """

    status: int
    title: str
    meaning: str
    action: str = "–"


KINDS: Mapping[ProblemType, ProblemKind] = {
    ProblemType.INVALID_REQUEST: ProblemKind(
        400, "The request is not valid", "The message, a query parameter or a range is not valid.", "report"
    ),
    ProblemType.UNAUTHENTICATED: ProblemKind(
        401,
        "Credentials are missing or not valid",
        "At a check-in: the client's token is missing or not valid. Elsewhere: the header `Authorization` is missing.",
        "stop, or obtain a new token",
    ),
    ProblemType.FORBIDDEN: ProblemKind(
        403, "This identity may not do that", "The identity lacks the permission for the request.", "stop"
    ),
    ProblemType.NOT_FOUND: ProblemKind(
        404, "The resource does not exist", "The resource or the path does not exist.", "check in"
    ),
    ProblemType.METHOD_NOT_ALLOWED: ProblemKind(
        405, "The route does not support this method", "The header `Allow` lists the methods of the route.", "stop"
    ),
    ProblemType.CONFLICT: ProblemKind(
        409,
        "The current state does not permit the request",
        "The current state of the task or round does not permit the request.",
        "check in",
    ),
    ProblemType.ROUND_CLOSED: ProblemKind(
        409, "The round accepts no more updates", "The round has reached its goal or its deadline.", "check in"
    ),
    ProblemType.ASSIGNMENT_INVALID: ProblemKind(
        401,
        "The assignment token is not valid",
        "The token is not from this coordinator, its key was removed, or the assignment was given back.",
        "check in",
    ),
    ProblemType.ASSIGNMENT_EXPIRED: ProblemKind(
        401, "The assignment has expired", "The update arrived after the assignment had expired.", "check in"
    ),
    ProblemType.TOO_LARGE: ProblemKind(
        413, "The body is larger than allowed", "The body is larger than the route or the plan allows.", "report"
    ),
    ProblemType.ENCODING_NOT_SUPPORTED: ProblemKind(
        415,
        "The body's content encoding is not supported",
        "`Content-Encoding` is not supported. The header `Accept-Encoding` lists the supported ones.",
        "retry without an encoding",
    ),
    ProblemType.RATE_LIMITED: ProblemKind(
        429, "Too many requests", "This address or this client has sent too many requests.", "retry"
    ),
    ProblemType.UPDATE_INVALID: ProblemKind(
        422,
        "The update does not match the plan",
        "Names, dtypes, shapes or values of the update's tensors do not match the plan.",
        "report",
    ),
    ProblemType.UPDATE_NOT_FINITE: ProblemKind(
        422,
        "The update contains NaN or infinity",
        "The update contains NaN or infinity, and the task does not allow it.",
        "report",
    ),
    ProblemType.UPDATE_TRUNCATED: ProblemKind(
        400, "The body is incomplete", "The body ended early, arrived too slowly or was framed wrongly.", "retry"
    ),
    ProblemType.PLAN_INVALID: ProblemKind(
        422,
        "The plan is not valid",
        "An uploaded plan is not a plan, contradicts itself, or contains forbidden operations.",
    ),
    ProblemType.COMPUTATION_FAILED: ProblemKind(
        500, "A computation of the plan failed", "A graph of the plan failed or exceeded its time limit."
    ),
    ProblemType.NOT_SUPPORTED: ProblemKind(
        501,
        "This deployment does not support the request",
        "The deployment lacks the feature, such as direct uploads.",
        "stop; after `updates:start`, upload through the coordinator",
    ),
    ProblemType.UNAVAILABLE: ProblemKind(
        503,
        "The service is temporarily unavailable",
        "A store or service does not respond, other work has to end first, or a document is of a newer version.",
        "retry",
    ),
    ProblemType.INTERNAL: ProblemKind(
        500, "The service failed", "The coordinator failed. Its log has the cause.", "retry"
    ),
}
STATUS: Mapping[ProblemType, int] = {kind: constants.status for kind, constants in KINDS.items()}


def shorten(text: str, *, limit: int = _MAX_FIELD_TEXT) -> str:
    """Returns `text` with at most `limit` characters and without lone surrogates."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class FieldError(BaseModel):
    """Fault of one field of a request."""

    model_config = ConfigDict(frozen=True)
    path: str = Field(description="Path of the field, such as `policy.goal`.")
    reason: str = Field(description="Fault of the field.")


class Problem(BaseModel):
    """Problem document (RFC 9457 §3.1), with the extension members `errors` and `retry_after`."""

    model_config = ConfigDict(frozen=True)
    type: str = Field(description="URI of the problem's type. Its last segment is the type's name.")
    title: str = Field(description="Summary of the type.")
    status: int = Field(description="HTTP status.")
    detail: str = Field(description="Explanation of this occurrence: the thing, the reason and, if known, the fix.")
    errors: tuple[FieldError, ...] = Field(default=(), description="Bad fields of the request. Empty by default.")
    retry_after: Optional[float] = Field(
        default=None, description="Seconds after which a retry may succeed. Missing if waiting does not help."
    )


class ProblemError(Exception):
    """Error raised when a coordinator refuses a request, or a check on this side fails.

    It crosses the wire unchanged.

    Attributes:
      type: Type of the problem.
      detail: One or two sentences: the thing, the reason and, if known, the fix.
      fields: Bad fields of the request.
      retry_after: Seconds after which a retry may succeed; None if waiting does not help.
    """

    def __init__(
        self,
        type: ProblemType,  # noqa: A002  the name in RFC 9457
        detail: str,
        *,
        fields: tuple[FieldError, ...] = (),
        retry_after: Optional[float] = None,
    ) -> None:
        super().__init__(detail)
        self.type = type
        self.detail = detail
        self.fields = fields
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.detail} [{self.type.value}]"

    @property
    def status(self) -> int:
        """HTTP status of the type."""
        return KINDS[self.type].status

    def to_problem(self) -> Problem:
        """Returns the problem document to send. Its size is bounded, whatever the request."""
        fields = tuple(
            FieldError(path=shorten(field.path), reason=shorten(field.reason)) for field in self.fields[:MAX_FIELDS]
        )
        return Problem(
            type=_TYPE_PREFIX + self.type.value,
            title=KINDS[self.type].title,
            status=self.status,
            detail=shorten(self.detail, limit=_MAX_DETAIL),
            errors=fields,
            retry_after=self.retry_after,
        )

    @classmethod
    def from_problem(cls, problem: Problem) -> ProblemError:
        """Returns the error of a problem document. An unknown type becomes `internal`."""
        name = problem.type.removeprefix(_TYPE_PREFIX)
        known = {item.value for item in ProblemType}
        return cls(
            ProblemType(name) if name in known else ProblemType.INTERNAL,
            problem.detail,
            fields=problem.errors,
            retry_after=problem.retry_after,
        )


class TimeLimitError(ProblemError):
    """Error raised when a graph exceeds its time limit and is stopped.

    A retry with the same limit does not help.
    """

    def __init__(self, detail: str) -> None:
        super().__init__(ProblemType.COMPUTATION_FAILED, detail)
