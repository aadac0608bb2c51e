"""Problem documents (RFC 9457) of a closed set of types, and the exception that carries them.

The coordinator raises a `ProblemError` and sends it as a `Problem`; the client or operator raises
it again. The docstring of `muster` draws the tree of exceptions.
"""

from __future__ import annotations

from enum import Enum
from typing import Optional

from pydantic import BaseModel, ConfigDict, Field

CONTENT_TYPE = "application/problem+json"
MAX_FIELDS = 20  # bad fields listed in one problem document
_MAX_FIELD_TEXT = 300  # characters of a field's path or reason
_MAX_DETAIL = 2000  # characters
_TYPE_PREFIX = "https://muster.dev/problems/"


class ProblemType(str, Enum):
    """Type of a problem. `STATUS` is the only place that maps a type to its HTTP status."""

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


STATUS: dict[ProblemType, int] = {
    ProblemType.INVALID_REQUEST: 400,
    ProblemType.UNAUTHENTICATED: 401,
    ProblemType.FORBIDDEN: 403,
    ProblemType.NOT_FOUND: 404,
    ProblemType.METHOD_NOT_ALLOWED: 405,
    ProblemType.CONFLICT: 409,
    ProblemType.ROUND_CLOSED: 409,
    ProblemType.ASSIGNMENT_INVALID: 401,
    ProblemType.ASSIGNMENT_EXPIRED: 401,
    ProblemType.TOO_LARGE: 413,
    ProblemType.ENCODING_NOT_SUPPORTED: 415,
    ProblemType.RATE_LIMITED: 429,
    ProblemType.UPDATE_INVALID: 422,
    ProblemType.UPDATE_NOT_FINITE: 422,
    ProblemType.UPDATE_TRUNCATED: 400,
    ProblemType.PLAN_INVALID: 422,
    ProblemType.COMPUTATION_FAILED: 500,
    ProblemType.NOT_SUPPORTED: 501,
    ProblemType.UNAVAILABLE: 503,
    ProblemType.INTERNAL: 500,
}

_TITLE: dict[ProblemType, str] = {
    ProblemType.INVALID_REQUEST: "The request is not valid",
    ProblemType.UNAUTHENTICATED: "Credentials are missing or not valid",
    ProblemType.FORBIDDEN: "This identity may not do that",
    ProblemType.NOT_FOUND: "The resource does not exist",
    ProblemType.METHOD_NOT_ALLOWED: "The route does not support this method",
    ProblemType.CONFLICT: "The current state does not permit the request",
    ProblemType.ROUND_CLOSED: "The round accepts no more updates",
    ProblemType.ASSIGNMENT_INVALID: "The assignment token is not valid",
    ProblemType.ASSIGNMENT_EXPIRED: "The assignment has expired",
    ProblemType.TOO_LARGE: "The body is larger than allowed",
    ProblemType.ENCODING_NOT_SUPPORTED: "The body's content encoding is not supported",
    ProblemType.RATE_LIMITED: "Too many requests",
    ProblemType.UPDATE_INVALID: "The update does not match the plan",
    ProblemType.UPDATE_NOT_FINITE: "The update contains NaN or infinity",
    ProblemType.UPDATE_TRUNCATED: "The body is incomplete",
    ProblemType.PLAN_INVALID: "The plan is not valid",
    ProblemType.COMPUTATION_FAILED: "A computation of the plan failed",
    ProblemType.NOT_SUPPORTED: "This deployment does not support the request",
    ProblemType.UNAVAILABLE: "The service is temporarily unavailable",
    ProblemType.INTERNAL: "The service failed",
}


def shortened(text: str, *, limit: int = _MAX_FIELD_TEXT) -> str:
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
        return STATUS[self.type]

    def to_problem(self) -> Problem:
        """Returns the problem document to send. Its size is bounded, whatever the request."""
        fields = tuple(
            FieldError(path=shortened(field.path), reason=shortened(field.reason)) for field in self.fields[:MAX_FIELDS]
        )
        return Problem(
            type=_TYPE_PREFIX + self.type.value,
            title=_TITLE[self.type],
            status=self.status,
            detail=shortened(self.detail, limit=_MAX_DETAIL),
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
