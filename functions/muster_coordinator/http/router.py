"""Matches requests to routes, and turns every error of a handler into a problem document."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from contextlib import suppress

from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.routing import BaseConverter, Map, RequestRedirect, Rule
from werkzeug.wrappers import Request, Response

from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.http.bodies import close_if_broken, wrap_body
from muster_coordinator.http.cors import Cors
from muster_coordinator.http.responses import problem_response
from muster_coordinator.http.routing import PARAMETERS, PATTERNS, Route, RoutedRequest
from muster_coordinator.ports import BlobNotFoundError, BusyError, QueueNotFoundError, UnavailableError
from muster_coordinator.state.records import NewerSchemaError
from muster_coordinator.state.unavailability import is_unavailable, log_unavailable

LOG = logging.getLogger(__name__)
_RETRY_NEWER_SCHEMA = 10.0  # seconds until a client retries what this version is too old for
_RETRY_QUEUE = 30.0  # seconds; a queue takes minutes to become active again
_NO_ANSWER = "A store or service that the coordinator needs is not available now; try again"
_QUEUE_NOT_FOUND = (
    "The queue of the coordinator's work was not found. A queue that was not used for 30 days needs a few minutes to "
    "become active again: try again. If this lasts longer, check that the queue in MUSTER_QUEUE exists"
)


class _NameConverter(BaseConverter):
    regex = PATTERNS["name"]


class _HashConverter(BaseConverter):
    regex = PATTERNS["hash"]


class _KeyConverter(BaseConverter):
    regex = PATTERNS["key"]


class _NumberConverter(BaseConverter):
    regex = PATTERNS["number"]

    def to_python(self, value: str) -> int:
        return int(value)


class Router:
    """WSGI-independent server of routes: a callable from request to response that never raises."""

    def __init__(self, routes: Sequence[Route], *, cors: Cors | None = None) -> None:
        self.routes = tuple(routes)
        self._cors = cors or Cors()
        rules = [Rule(_rule(route.path), methods=[route.method], endpoint=route) for route in routes]
        self._map = Map(
            rules,
            converters={
                "name": _NameConverter,
                "hash": _HashConverter,
                "number": _NumberConverter,
                "key": _KeyConverter,
            },
            strict_slashes=True,
            redirect_defaults=False,
        )

    def owns(self, method: str, path: str) -> bool:
        """Returns whether one of the routes serves `method` at `path`."""
        return bool(self._map.bind("").test(path, method))

    def __call__(self, request: Request) -> Response:
        """Returns the response to a request: the handler's, or a problem document."""
        wrap_body(request)
        return close_if_broken(request, self._respond(request))

    def _respond(self, request: Request) -> Response:
        shared = self._cors_methods(request.path)
        if request.method == "OPTIONS" and shared:
            preflight = self._cors.preflight(request, methods=shared)
            if preflight is not None:
                return preflight
        response = self._answer(request)
        return self._cors.allow(request, response) if request.method in shared else response

    def _cors_methods(self, path: str) -> tuple[str, ...]:
        """Returns the methods of `path` that pages of other origins may use."""
        if not self._cors.origins:
            return ()
        adapter, methods = self._map.bind(""), []
        for method in adapter.allowed_methods(path):
            with suppress(HTTPException):  # werkzeug raises a redirect too
                route, _ = adapter.match(path, method)
                if route.cors:
                    methods.append(method)
        return tuple(sorted(methods))

    def _answer(self, request: Request) -> Response:
        """Returns the response; logs and hides every failure that is not the caller's."""
        try:
            return self._serve(request)
        except RecursionError:
            LOG.warning("%s %s: the request is nested too deeply", request.method, request.path)
            return problem_response(ProblemError(ProblemType.INVALID_REQUEST, "The request is nested too deeply"))
        except BlobNotFoundError:
            return problem_response(ProblemError(ProblemType.NOT_FOUND, "The content of this address has been deleted"))
        except NewerSchemaError as error:
            # During a rollout the next attempt may reach an instance of the newer version.
            LOG.error("%s %s: %s", request.method, request.path, error)  # noqa: TRY400  not a fault of the code
            return problem_response(ProblemError(ProblemType.UNAVAILABLE, str(error), retry_after=_RETRY_NEWER_SCHEMA))
        except UnavailableError as error:
            log_unavailable(LOG, f"{request.method} {request.path}", error)
            return problem_response(_problem_of(error))
        except Exception:
            LOG.exception("%s %s failed", request.method, request.path)
            return problem_response(
                ProblemError(ProblemType.INTERNAL, "The coordinator failed; its log has the reason")
            )

    def _serve(self, request: Request) -> Response:
        """Returns the handler's response, or a problem document for a fault of the request."""
        try:
            matched, path = self._map.bind("").match(request.path, request.method)
            route: Route = matched  # werkzeug does not type its endpoints
            return route.handler(RoutedRequest(request, route, dict(path)))
        except ProblemError as problem:
            if is_unavailable(problem):
                log_unavailable(LOG, f"{request.method} {request.path}", problem)
            return problem_response(problem)
        except (NotFound, RequestRedirect):
            return problem_response(
                ProblemError(ProblemType.NOT_FOUND, f"There is no {request.method} {request.path} here")
            )
        except MethodNotAllowed as error:
            allowed = ", ".join(error.valid_methods or ())
            detail = f"{request.path} does not accept {request.method}, but {allowed}"
            return problem_response(ProblemError(ProblemType.METHOD_NOT_ALLOWED, detail), {"Allow": allowed})
        except HTTPException as error:
            return problem_response(ProblemError(ProblemType.INVALID_REQUEST, error.description or error.name))


def _problem_of(error: UnavailableError) -> ProblemError:
    """Returns the response's problem. Messages of stores and services are only logged."""
    if isinstance(error, QueueNotFoundError):
        return ProblemError(ProblemType.UNAVAILABLE, _QUEUE_NOT_FOUND, retry_after=_RETRY_QUEUE)
    detail = str(error) if isinstance(error, BusyError) else _NO_ANSWER
    return ProblemError(ProblemType.UNAVAILABLE, detail, retry_after=1.0)


def _rule(path: str) -> str:
    """Returns the werkzeug rule of a route's path: `{task}` becomes `<name:task>`."""
    return re.sub(r"\{(\w+)\}", lambda match: f"<{PARAMETERS[match[1]]}:{match[1]}>", path)
