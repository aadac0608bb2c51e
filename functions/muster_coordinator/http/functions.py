"""The four functions as routers, and as the entry points that functions-framework calls."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from io import BytesIO
from typing import Any

from werkzeug.wrappers import Request, Response

from muster_coordinator import events
from muster_coordinator.application import Application
from muster_coordinator.http import openapi
from muster_coordinator.http.bodies import BrokenBodyError, close_if_broken
from muster_coordinator.http.client_routes import client_routes
from muster_coordinator.http.cors import Cors
from muster_coordinator.http.internal_routes import aggregator_routes, committer_routes
from muster_coordinator.http.operator_routes import operator_routes
from muster_coordinator.http.recycling import WorkerRecycler
from muster_coordinator.http.routing import Route, RouteCall, Router

_READ_OUT = 64 << 20  # bytes
_PIECE = 1 << 18  # bytes
LOG = logging.getLogger(__name__)
FUNCTIONS: dict[str, Callable[[Application], list[Route]]] = {
    "client_api": client_routes,
    "operator_api": operator_routes,
    "aggregator": aggregator_routes,
    "committer": committer_routes,
}
_CLIENTS = "client_api"
_RECYCLER = WorkerRecycler()  # of this process, which may serve several functions


def router(app: Application, *functions: str) -> Router:
    """What serves the routes of `functions` (of all four, if none is named), and `/health`."""
    routes = [
        replace(route, cors=name == _CLIENTS) for name in functions or FUNCTIONS for route in FUNCTIONS[name](app)
    ]
    return Router([*routes, *_common_routes(app)], cors=Cors(app.cors_origins))


def description(app: Application) -> dict[str, Any]:
    """The OpenAPI document of all four functions."""
    functions = {name: routes(app) for name, routes in FUNCTIONS.items()}
    return openapi.document({**functions, openapi.EVERY_FUNCTION: _common_routes(app)})


def _common_routes(app: Application) -> list[Route]:
    @cache
    def encoded() -> bytes:
        return openapi.encode(description(app))

    def describe(_: RouteCall) -> Response:
        return Response(encoded(), content_type="application/json")

    return [
        Route("GET", "/health", "Whether the function answers", _healthy, gives="text/plain"),
        # For Kubernetes, by its custom. Google's front end before Cloud Run keeps this path for itself and answers 404.
        Route(
            "GET",
            "/healthz",
            "The same, where nothing before the function takes this path",
            _healthy,
            gives="text/plain",
        ),
        Route("GET", "/openapi.json", "This document", describe, gives="application/json"),
    ]


def _healthy(_: RouteCall) -> Response:
    return Response("ok\n", content_type="text/plain")


def entry_point(function: str) -> Callable[[Request], Response]:
    """The function that functions-framework calls; its application is made with the first request, from the environment."""
    turn = threading.Lock()

    @cache
    def make() -> Router:
        from muster_coordinator.bootstrap import from_environment

        events.write_to()
        app = from_environment(function)
        if function == "client_api" and app.clients is None:
            LOG.warning(
                "MUSTER_CLIENTS is open: every client is who it says, and one device can be a thousand. Set it to enrolment:…, oidc:… "
                "or proxy:… before strangers can reach this address"
            )
        return router(app, function)

    def serve(request: Request) -> Response:
        # A cold instance gets several first requests at once, and `cache` alone would make an application for each.
        with turn:
            serving = make()
        with _RECYCLER.request():
            response = serving(request)
            _read_out(request)
        close_if_broken(request, response)
        # functions-framework would read the whole rest into memory, without a limit.
        request.stream = BytesIO()
        return response

    return serve


def _read_out(request: Request) -> None:
    """Drains a refused body, up to a limit, so that its sender receives the answer."""
    left = _READ_OUT
    with suppress(BrokenBodyError):  # the answer stands
        while left > 0 and (piece := request.stream.read(min(_PIECE, left))):
            left -= len(piece)


def owner(method: str, path: str) -> str:
    """Which of the functions serves a request, where all are at one address."""
    if path.startswith("/internal/"):
        return "committer" if path.endswith(("/commit", "/open")) else "aggregator"
    if path.startswith(("/v1/populations/", "/v1/updates")) or path.endswith("/broadcast"):
        return "client_api"
    return _CLIENTS if path.startswith("/v1/plans/") and method in ("GET", "HEAD", "OPTIONS") else "operator_api"
