"""Entry point of the function `aggregator`; its routes are in `muster_coordinator.http`."""

from __future__ import annotations

import functions_framework
from werkzeug.wrappers import Request, Response

from muster_coordinator.http import entry_point

_serve = entry_point("aggregator")


@functions_framework.http
def aggregator(request: Request) -> Response:
    """Serves one request."""
    return _serve(request)
