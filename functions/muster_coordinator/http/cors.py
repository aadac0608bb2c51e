"""Allows pages of configured origins to call the routes of clients.

Implements the CORS protocol of the Fetch standard (https://fetch.spec.whatwg.org/#http-cors-protocol).
Off unless origins are configured. Routes of operators never take part. Responses never allow
credentials, so a browser sends no cookie, and a page can use only the tokens that it was issued.
"""

from __future__ import annotations

from collections.abc import Iterable

from werkzeug.wrappers import Request, Response

_MAX_AGE = 7200  # seconds for which a browser may cache a preflight; browsers cap it at this
_ALLOWED_HEADERS = "Authorization, Content-Encoding, Content-Type, If-None-Match, Range"
_EXPOSED_HEADERS = "Accept-Ranges, Content-Range, ETag, Retry-After, WWW-Authenticate"


class Cors:
    """CORS policy of one deployment."""

    def __init__(self, origins: Iterable[str] = ()) -> None:
        """Creates a policy that allows `origins`, each exactly as a browser sends it."""
        self.origins = frozenset(origins)

    def preflight(self, request: Request, *, methods: Iterable[str]) -> Response | None:
        """Returns the response to a preflight, or None for another request or origin.

        Args:
          request: An OPTIONS request.
          methods: The methods of the path that other origins may use.
        """
        if "Access-Control-Request-Method" not in request.headers or not self._allows(request):
            return None
        response = Response(status=204)
        response.headers["Access-Control-Allow-Methods"] = ", ".join(methods)
        response.headers["Access-Control-Allow-Headers"] = _ALLOWED_HEADERS
        response.headers["Access-Control-Max-Age"] = str(_MAX_AGE)
        return self.allow(request, response)

    def allow(self, request: Request, response: Response) -> Response:
        """Returns `response` with the headers that allow the requesting page to read it.

        The response varies by origin, so that caches do not mix the origins.
        """
        if not self.origins:
            return response
        response.vary.add("Origin")
        if self._allows(request):
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            response.headers["Access-Control-Expose-Headers"] = _EXPOSED_HEADERS
        return response

    def _allows(self, request: Request) -> bool:
        return request.headers.get("Origin") in self.origins
