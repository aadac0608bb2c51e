"""Entry point of the function `client_api`; its routes are in `muster_coordinator.http`."""

from __future__ import annotations

import functions_framework
from werkzeug.wrappers import Request, Response

from muster_coordinator.http import entry_point

_serve = entry_point("client_api")


@functions_framework.http
def client_api(request: Request) -> Response:
    """Serves one request."""
    return _serve(request)
