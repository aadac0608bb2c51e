"""Cross-origin requests (the Fetch standard's CORS protocol): which pages' scripts may call the routes of clients.

Off unless origins are named. Operators' routes never take part, and no answer allows credentials: a browser sends no cookie, and
a page has nothing but the tokens that it was given.
"""

from __future__ import annotations

from collections.abc import Iterable

from werkzeug.wrappers import Request, Response

_MAX_AGE = 7200  # seconds that a browser may go on without asking again; no browser takes more
_TAKEN = "Authorization, Content-Encoding, Content-Type, If-None-Match, Range"
_SHOWN = "Accept-Ranges, Content-Range, ETag, Retry-After, WWW-Authenticate"


class Cors:
    """The rule of one deployment."""

    def __init__(self, origins: Iterable[str] = ()) -> None:
        """`origins`: those whose pages may call, each exactly as a browser sends it."""
        self.origins = frozenset(origins)

    def preflight(self, request: Request, *, methods: Iterable[str]) -> Response | None:
        """The answer to a browser's question whether it may send a request; None if the origin is not allowed or none asks.

        Args:
          request: An OPTIONS request.
          methods: What the path takes of clients.
        """
        if "Access-Control-Request-Method" not in request.headers or not self._allows(request):
            return None
        response = Response(status=204)
        response.headers["Access-Control-Allow-Methods"] = ", ".join(methods)
        response.headers["Access-Control-Allow-Headers"] = _TAKEN
        response.headers["Access-Control-Max-Age"] = str(_MAX_AGE)
        return self.allow(request, response)

    def allow(self, request: Request, response: Response) -> Response:
        """Lets the page that asked read the response. Caches are told that it depends on who asks."""
        if not self.origins:
            return response
        response.vary.add("Origin")
        if self._allows(request):
            response.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            response.headers["Access-Control-Expose-Headers"] = _SHOWN
        return response

    def _allows(self, request: Request) -> bool:
        return request.headers.get("Origin") in self.origins
