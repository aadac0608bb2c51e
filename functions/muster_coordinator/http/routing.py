"""Declares routes beside their handlers: `@route(...)` on the methods of an `Api`.

An `Api` is one group of routes, such as those about tasks. Its table of routes is derived from its
decorated methods, in order of definition. `Router` serves that table, and `openapi` describes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

from werkzeug.wrappers import Request, Response

from muster.wire.base import Message
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.application import Application

MAX_JSON_BODY = 1 << 16  # bytes
_READ_SIZE = 1 << 18  # bytes
_DECLARED = "_declared_route"  # attribute of a handler method

M = TypeVar("M", bound=Message)
H = TypeVar("H", bound=Callable[..., Response])

# Pattern of a path parameter, by its type. Digits are ASCII, so that a number has one spelling, and
# at most nine: a longer number belongs to no round, and stores refuse it in a document path.
PATTERNS = {
    "name": r"[a-z][a-z0-9_-]{0,62}",
    "hash": r"[0-9a-f]{64}",
    "number": r"[0-9]{1,9}",
    "key": r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}",
}

# Type of each path parameter, by its name.
PARAMETERS = {
    "task": "name",
    "population": "name",
    "kind": "name",
    "sha256": "hash",
    "round": "number",
    "version": "number",
    "tag": "name",
    "request": "key",
}


class Security(Enum):
    """Credentials that a route asks for, as the bearer token of the request."""

    NONE = "none"
    ASSIGNMENT = "assignment"  # token of an assignment
    CLIENT = "client"  # token of a client; optional, since client identity may be self-asserted
    OPERATOR = "operator"  # an operator's key or token


@dataclass(frozen=True, eq=False)
class Route:
    """One route, as it is served and as it is described.

    Attributes:
      method: HTTP method.
      path: Path with its parameters in braces, such as `/v1/tasks/{task}`; see `PARAMETERS`. A
        parameter that does not match its pattern is a 404.
      handler: Function that answers a request.
      summary: One sentence for the OpenAPI document, in the imperative.
      accepts: Message type or media type of the body, or None.
      returns: Message type or media type of a successful response, or None.
      status: Status of a successful response.
      repeat_status: Status of a repeated request, if it differs from `status`.
      problems: Problem types that the handler raises.
      query: Description of each query parameter, by name.
      security: Credentials that the route asks for.
      action: Name of the route's change in the audit log, such as `task.pause`; None for a route
        that is not audited.
      cors: Whether pages of other origins may call it.
      encoded: Whether its binary body, or response, may have a content encoding.
    """

    method: str
    path: str
    handler: Callable[..., Response]
    summary: str
    accepts: type[Message] | str | None = None
    returns: type[Message] | str | None = None
    status: int = HTTPStatus.OK
    repeat_status: int | None = None
    problems: Sequence[ProblemType] = ()
    query: dict[str, str] = field(default_factory=dict)
    security: Security = Security.NONE
    action: str | None = None
    cors: bool = False
    encoded: bool = False


def route(method: str, path: str, **description: Any) -> Callable[[H], H]:
    """Declares a method of an `Api` as the handler of a route.

    Args:
      method: HTTP method.
      path: Path with its parameters in braces.
      **description: The other fields of `Route`.
    """

    def declare(handler: H) -> H:
        setattr(handler, _DECLARED, Route(method, path, handler, **description))
        return handler

    return declare


@dataclass(frozen=True)
class RoutedRequest:
    """A request, its route, and the values of its path parameters, by name."""

    request: Request
    route: Route
    path: dict[str, Any]

    def message(self, kind: type[M]) -> M:
        """Returns the JSON body as a message of type `kind`. Raises `ProblemError`."""
        media_type = self.request.mimetype
        # A page of another site may send a form or plain text without a preflight, but not JSON.
        if media_type and media_type != "application/json":
            detail = f"The body's Content-Type is {media_type[:100]!r}; this route accepts application/json"
            raise ProblemError(ProblemType.INVALID_REQUEST, detail)
        return kind.decode(self.body(MAX_JSON_BODY))

    def body(self, limit: int) -> bytes:
        """Returns the complete body.

        Args:
          limit: Maximum size, in bytes.

        Raises:
          ProblemError: `too_large`, or `update_truncated` if the body ends early.
        """
        pieces, size = [], 0
        while piece := self.request.stream.read(min(_READ_SIZE, limit + 1 - size)):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise ProblemError(
                    ProblemType.TOO_LARGE, f"The body has more than the {limit} bytes that are allowed here"
                )
        return b"".join(pieces)

    def bearer(self) -> str:
        """Returns the bearer token. Raises `ProblemError` (`unauthenticated`) if there is none."""
        scheme, _, token = self.request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise ProblemError(
                ProblemType.UNAUTHENTICATED, "This route needs the header `Authorization: Bearer <token>`"
            )
        return token

    def optional_bearer(self) -> str | None:
        """Returns the bearer token, or None if the request has no `Authorization` header.

        Raises:
          ProblemError: `unauthenticated`, if the header holds something else.
        """
        return self.bearer() if "Authorization" in self.request.headers else None


class Api:
    """Base of a group of routes; each method with `@route` handles one of them."""

    def __init__(self, app: Application) -> None:
        self.app = app

    def routes(self) -> list[Route]:
        """Returns the routes of the decorated methods, in order of definition."""
        members = vars(type(self)).values()
        declared = [getattr(member, _DECLARED) for member in members if hasattr(member, _DECLARED)]
        return [replace(entry, handler=partial(self._handle, entry.handler)) for entry in declared]

    def admit(self, call: RoutedRequest) -> RoutedRequest:
        """Checks a request before its handler reads the body; subclasses override it.

        Returns:
          The request that the handler receives.

        Raises:
          ProblemError: The request is refused.
        """
        return call

    def _handle(self, handler: Callable[..., Response], call: RoutedRequest) -> Response:
        return handler(self, self.admit(call))
