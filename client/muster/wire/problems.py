"""Everything that can go wrong, as a closed set of types: RFC 9457 problem details (`application/problem+json`)."""

from __future__ import annotations

from enum import Enum
from typing import Optional

from pydantic import BaseModel, ConfigDict

CONTENT_TYPE = "application/problem+json"
MAX_FIELDS = 20  # most bad fields that one problem document lists
_MAX_FIELD_TEXT = 300  # characters of a field's path or reason
_MAX_DETAIL = 2000  # characters
_TYPE_PREFIX = "https://muster.dev/problems/"


class ProblemType(str, Enum):
    """The type of a problem. The HTTP status of each stands in `STATUS`, and nowhere else."""

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
    ProblemType.NOT_FOUND: "There is no such thing here",
    ProblemType.METHOD_NOT_ALLOWED: "The route does not take this method",
    ProblemType.CONFLICT: "The state does not allow it",
    ProblemType.ROUND_CLOSED: "The round takes no more updates",
    ProblemType.ASSIGNMENT_INVALID: "The assignment token is not valid",
    ProblemType.ASSIGNMENT_EXPIRED: "The assignment has expired",
    ProblemType.TOO_LARGE: "The body is larger than allowed",
    ProblemType.ENCODING_NOT_SUPPORTED: "The body's encoding is not known here",
    ProblemType.RATE_LIMITED: "Too many requests",
    ProblemType.UPDATE_INVALID: "The update does not match the plan",
    ProblemType.UPDATE_NOT_FINITE: "The update holds NaN or infinity",
    ProblemType.UPDATE_TRUNCATED: "The body did not arrive whole",
    ProblemType.PLAN_INVALID: "The plan is not valid",
    ProblemType.COMPUTATION_FAILED: "A computation of the plan failed",
    ProblemType.NOT_SUPPORTED: "This deployment does not support that",
    ProblemType.UNAVAILABLE: "The service can't answer now; try again",
    ProblemType.INTERNAL: "The service failed",
}


def shortened(text: str, *, limit: int = _MAX_FIELD_TEXT) -> str:
    """Returns `text` in a form that a document can hold: at most `limit` characters, without lone surrogates."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class FieldError(BaseModel):
    """One bad field: where it is and what is wrong with it."""

    model_config = ConfigDict(frozen=True)
    path: str
    reason: str


class Problem(BaseModel):
    """A problem document (RFC 9457 §3.1), with `errors` as its extension member."""

    model_config = ConfigDict(frozen=True)
    type: str
    title: str
    status: int
    detail: str
    errors: tuple[FieldError, ...] = ()
    retry_after: Optional[float] = None  # seconds


class ProblemError(Exception):
    """A typed error that crosses the wire unchanged: raised by the coordinator, raised again by the client.

    Attributes:
      type: What kind of problem it is.
      detail: One or two sentences: the thing, the reason and, where there is one, the fix.
      fields: Every bad field with its path.
      retry_after: Seconds after which a repeat may succeed, if waiting can help.
    """

    def __init__(
        self,
        type: ProblemType,  # noqa: A002  RFC 9457 calls it so
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
        """The HTTP status."""
        return STATUS[self.type]

    def to_problem(self) -> Problem:
        """Returns the document to send, of bounded size for any request."""
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
        """The error that `problem` stands for; a type that this version does not know becomes `internal`."""
        name = problem.type.removeprefix(_TYPE_PREFIX)
        known = {item.value for item in ProblemType}
        return cls(
            ProblemType(name) if name in known else ProblemType.INTERNAL,
            problem.detail,
            fields=problem.errors,
            retry_after=problem.retry_after,
        )


class TimeLimitError(ProblemError):
    """Error raised when a graph exceeds its time limit and is stopped. A retry with the same limit does not help."""

    def __init__(self, detail: str) -> None:
        super().__init__(ProblemType.COMPUTATION_FAILED, detail)
