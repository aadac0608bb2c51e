"""Routes: how a request finds its handler, and how what the handler gives or raises becomes a response."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar

from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.routing import BaseConverter, Map, RequestRedirect, Rule
from werkzeug.wrappers import Request, Response

from muster.wire import problems
from muster.wire.base import Message
from muster.wire.encodings import available
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.http.bodies import close_if_broken, guard
from muster_coordinator.http.cors import Cors
from muster_coordinator.http.encodings import accepted
from muster_coordinator.ports import BlobNotFoundError, UnavailableError
from muster_coordinator.state.encoded_copies import EncodedCopy
from muster_coordinator.state.records import NewerSchemaError

LOG = logging.getLogger(__name__)
BODY_LIMIT = 1 << 16  # bytes of a JSON body
_PIECE = 1 << 18  # bytes of a response sent at a time
_OUTDATED = 10.0  # seconds until a request that this version is too old for is tried again
_IMMUTABLE = "max-age=31536000, immutable"

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class RouteCall:
    """A request and what its path says."""

    request: Request
    path: dict[str, Any]

    def message(self, kind: type[M]) -> M:
        """The body as a message. Raises `ProblemError`."""
        given = self.request.mimetype
        # A page of another site can send a form or a text from a browser without asking, but not this.
        if given and given != "application/json":
            detail = f"The body is said to be {given[:100]!r}; this route takes application/json"
            raise ProblemError(ProblemType.INVALID_REQUEST, detail)
        return kind.decode(self.body(BODY_LIMIT))

    def body(self, limit: int) -> bytes:
        """Reads the whole body of at most `limit` bytes. Raises `ProblemError` (`too_large`, `update_truncated`)."""
        pieces, size = [], 0
        while piece := self.request.stream.read(min(_PIECE, limit + 1 - size)):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise ProblemError(
                    ProblemType.TOO_LARGE, f"The body has more than the {limit} bytes that are allowed here"
                )
        return b"".join(pieces)

    def bearer(self) -> str:
        """The bearer token. Raises `ProblemError` (`unauthenticated`)."""
        scheme, _, token = self.request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise ProblemError(
                ProblemType.UNAUTHENTICATED, "This route needs the header `Authorization: Bearer <token>`"
            )
        return token


@dataclass(frozen=True, eq=False)
class Route:
    """A route, as it is served and as it is described. `takes` and `gives` are messages or media types.

    `path` names its parameters in braces; `{task}` and `{population}` are names, `{sha256}` a hash, `{round}` and
    `{version}` numbers; what does not look so is not found.
    """

    method: str
    path: str
    summary: str
    handler: Callable[[RouteCall], Response]
    takes: type[Message] | str | None = None
    gives: type[Message] | str | None = None
    status: int = HTTPStatus.OK
    problems: Sequence[ProblemType] = ()
    query: dict[str, str] = field(default_factory=dict)  # name to description
    bearer: bool = False
    client: bool = False  # whether its caller shows who it is, as a client
    repeat_status: int | None = None  # where a repeat is answered otherwise
    operator: bool = False  # whether its caller shows who they are, as an operator
    cors: bool = False  # whether pages of other origins may call it
    encoded: bool = False  # whether what it takes, or gives, may have a content encoding


PATTERNS = {"name": r"[a-z][a-z0-9_-]{0,62}", "hash": r"[0-9a-f]{64}"}


class _NameConverter(BaseConverter):
    regex = PATTERNS["name"]


class _HashConverter(BaseConverter):
    regex = PATTERNS["hash"]


class _NumberConverter(BaseConverter):
    # ASCII, so that a number has one spelling; a longer one is no round's, and would make a name that no store takes.
    regex = r"[0-9]{1,9}"

    def to_python(self, value: str) -> int:
        return int(value)


PARAMETERS = {
    "task": "name",
    "population": "name",
    "kind": "name",
    "sha256": "hash",
    "round": "number",
    "version": "number",
}


class Router:
    """Serves routes; a callable from request to response, whatever happens."""

    def __init__(self, routes: Sequence[Route], *, cors: Cors | None = None) -> None:
        self.routes = tuple(routes)
        self._cors = cors or Cors()
        rules = [Rule(_rule(route.path), methods=[route.method], endpoint=route) for route in routes]
        self._map = Map(
            rules,
            converters={"name": _NameConverter, "hash": _HashConverter, "number": _NumberConverter},
            strict_slashes=True,
            redirect_defaults=False,
        )

    def owns(self, method: str, path: str) -> bool:
        """Whether one of the routes serves it."""
        return bool(self._map.bind("").test(path, method))

    def __call__(self, request: Request) -> Response:
        """Answers a request; what goes wrong is a problem document."""
        guard(request)
        return close_if_broken(request, self._respond(request))

    def _respond(self, request: Request) -> Response:
        shared = self._shared(request.path)
        if request.method == "OPTIONS" and shared:
            answer = self._cors.preflight(request, methods=shared)
            if answer is not None:
                return answer
        response = self._answer(request)
        return self._cors.allow(request, response) if request.method in shared else response

    def _shared(self, path: str) -> tuple[str, ...]:
        """The methods of `path` that pages of other origins may use, where any may use one."""
        if not self._cors.origins:
            return ()
        adapter, found = self._map.bind(""), []
        for method in adapter.allowed_methods(path):
            with suppress(HTTPException):  # a redirect is one
                route, _ = adapter.match(path, method)
                if route.cors:
                    found.append(method)
        return tuple(sorted(found))

    def _answer(self, request: Request) -> Response:
        try:
            return self._served(request)
        except RecursionError:
            LOG.warning("%s %s: something is nested too deeply", request.method, request.path)
            return problem_response(ProblemError(ProblemType.INVALID_REQUEST, "What was sent is nested too deeply"))
        except BlobNotFoundError:
            return problem_response(ProblemError(ProblemType.NOT_FOUND, "What this address named is no longer kept"))
        except NewerSchemaError as error:
            # While a newer version is rolled out there are instances of both, and the next try may meet one that can read it.
            LOG.error("%s %s: %s", request.method, request.path, error)  # noqa: TRY400  no fault of the code
            return problem_response(ProblemError(ProblemType.UNAVAILABLE, str(error), retry_after=_OUTDATED))
        except UnavailableError:
            LOG.warning("%s %s: the store is not available", request.method, request.path, exc_info=True)
            detail = "The coordinator's store does not answer now; try again"
            return problem_response(ProblemError(ProblemType.UNAVAILABLE, detail, retry_after=1.0))
        except Exception:
            LOG.exception("%s %s failed", request.method, request.path)
            return problem_response(ProblemError(ProblemType.INTERNAL, "The coordinator failed; its log says why"))

    def _served(self, request: Request) -> Response:
        """The handler's answer; a problem document for what is wrong with the request itself."""
        try:
            found, path = self._map.bind("").match(request.path, request.method)
            route: Route = found  # werkzeug says nothing of its endpoints' type
            return route.handler(RouteCall(request, dict(path)))
        except ProblemError as problem:
            return problem_response(problem)
        except (NotFound, RequestRedirect):
            return problem_response(
                ProblemError(ProblemType.NOT_FOUND, f"There is no {request.method} {request.path} here")
            )
        except MethodNotAllowed as error:
            allowed = ", ".join(error.valid_methods or ())
            detail = f"{request.path} does not take {request.method}, but {allowed}"
            return problem_response(ProblemError(ProblemType.METHOD_NOT_ALLOWED, detail), {"Allow": allowed})
        except HTTPException as error:
            return problem_response(ProblemError(ProblemType.INVALID_REQUEST, error.description or error.name))


def _rule(path: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: f"<{PARAMETERS[found[1]]}:{found[1]}>", path)


def json_response(message: Message, status: int = HTTPStatus.OK) -> Response:
    """A message as a response."""
    return Response(message.encode(), status=status, content_type="application/json")


def problem_response(problem: ProblemError, headers: dict[str, str] | None = None) -> Response:
    """Returns a problem as a response, with `Retry-After` in whole seconds, rounded up, if waiting helps."""
    body = problem.to_problem().model_dump_json(exclude_none=True)
    response = Response(body, status=problem.status, content_type=problems.CONTENT_TYPE, headers=headers)
    if problem.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"  # RFC 9110 §11.6.1 wants one
    if problem.type is ProblemType.ENCODING_NOT_SUPPORTED:
        response.headers["Accept-Encoding"] = ", ".join(available())  # RFC 9110 §12.5.3
    if problem.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(problem.retry_after)))
    return response


def immutable_response(
    call: RouteCall,
    data: memoryview,
    *,
    etag: str,
    content_type: str,
    private: bool = False,
    encoding: str | None = None,
) -> Response:
    """Bytes that never change under their address: with an ETag, 304 and ranges, sent in pieces.

    `private`: for whoever has the right to them, so that no shared cache may keep them. `encoding`: the content encoding that `data`
    has; ranges count its bytes (RFC 9110 §14.2).
    """
    response = Response(_pieces(data), content_type=content_type, direct_passthrough=True)
    response.content_length = len(data)
    if encoding is not None:
        response.content_encoding = encoding
    _mark_immutable(response, etag=etag, private=private)
    response.make_conditional(call.request.environ, accept_ranges=True, complete_length=len(data))
    return response


def encoded_response(
    call: RouteCall, read: Callable[[Sequence[str]], EncodedCopy], *, sha256: str, content_type: str
) -> Response:
    """As `immutable_response`, of the bytes with the hash `sha256`, which exist, in an encoding that the client takes.

    Each encoding has an ETag of its own, a strong one (RFC 9110 §8.8.3.3): a range of one is of no use with a range of another.
    `read` gives the bytes in the first that there is of some encodings; nothing is read for a client that has them.
    """
    takes = accepted(call.request)
    tags = [sha256, *(f"{sha256}-{encoding}" for encoding in takes)]
    held = next((tag for tag in tags if call.request.if_none_match.contains_weak(tag)), None)
    if held is not None:
        response = Response(status=HTTPStatus.NOT_MODIFIED)
        _mark_immutable(response, etag=held)
    else:
        found = read(takes)
        etag = sha256 if found.encoding is None else f"{sha256}-{found.encoding}"
        response = immutable_response(call, found.data, etag=etag, content_type=content_type, encoding=found.encoding)
    response.vary.add("Accept-Encoding")
    return response


def _mark_immutable(response: Response, *, etag: str, private: bool = False) -> None:
    response.set_etag(etag)
    response.headers["Cache-Control"] = f"{'private' if private else 'public'}, {_IMMUTABLE}"


def _pieces(data: memoryview) -> Iterator[bytes]:
    for at in range(0, len(data), _PIECE):
        yield bytes(data[at : at + _PIECE])
