"""The `operator_api` function: see `muster_coordinator.http` for its routes."""

from __future__ import annotations

import functions_framework
from werkzeug.wrappers import Request, Response

from muster_coordinator.http import entry_point

_serve = entry_point("operator_api")


@functions_framework.http
def operator_api(request: Request) -> Response:
    """Answers a request."""
    return _serve(request)
