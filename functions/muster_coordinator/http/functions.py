"""The four functions: their tables of routes, their routers, and their entry points."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache, cached_property
from io import BytesIO
from typing import Any

from werkzeug.wrappers import Request, Response

from muster_coordinator import events
from muster_coordinator.application import Application
from muster_coordinator.http import gunicorn_defaults, openapi, structured_logs
from muster_coordinator.http.audit_routes import AuditApi
from muster_coordinator.http.bodies import BrokenBodyError, close_if_broken
from muster_coordinator.http.change_routes import TaskChangeApi
from muster_coordinator.http.client_routes import ClientApi
from muster_coordinator.http.cors import Cors
from muster_coordinator.http.deletion_routes import DeletionApi
from muster_coordinator.http.enrolment_routes import RevocationApi
from muster_coordinator.http.internal_routes import AggregatorApi, CommitterApi
from muster_coordinator.http.operator_routes import TaskApi
from muster_coordinator.http.population_routes import PopulationApi
from muster_coordinator.http.recycling import WorkerRecycler
from muster_coordinator.http.router import Router
from muster_coordinator.http.routing import Api, Route, RoutedRequest, route
from muster_coordinator.http.run_routes import RunApi
from muster_coordinator.http.state_routes import StateApi

MAX_DRAINED_BODY = 64 << 20  # bytes
_READ_SIZE = 1 << 18  # bytes
LOG = logging.getLogger(__name__)
FUNCTIONS: dict[str, tuple[type[Api], ...]] = {
    "client_api": (ClientApi,),
    "operator_api": (TaskApi, TaskChangeApi, RunApi, StateApi, DeletionApi, PopulationApi, RevocationApi, AuditApi),
    "aggregator": (AggregatorApi,),
    "committer": (CommitterApi,),
}
_CLIENTS = "client_api"
_RECYCLER = WorkerRecycler()  # one per process, which may serve several functions
# One for all functions of a process: werkzeug compiles routes with `ast`, which is not thread-safe
# in Python 3.11 (SystemError: AST constructor recursion depth mismatch).
_BUILD_LOCK = threading.Lock()


def router(app: Application, *functions: str) -> Router:
    """Returns a router for `functions`, by default all four, and the common routes."""
    routes = [replace(entry, cors=name == _CLIENTS) for name in functions or FUNCTIONS for entry in _routes(app, name)]
    return Router([*routes, *CommonApi(app).routes()], cors=Cors(app.cors_origins))


def description(app: Application) -> dict[str, Any]:
    """Returns the OpenAPI document of all four functions."""
    functions = {name: _routes(app, name) for name in FUNCTIONS}
    return openapi.document({**functions, openapi.EVERY_FUNCTION: CommonApi(app).routes()})


def _routes(app: Application, function: str) -> list[Route]:
    return [entry for api in FUNCTIONS[function] for entry in api(app).routes()]


class CommonApi(Api):
    """Routes that every function serves."""

    @route("GET", "/health", summary="Check that the function answers.", returns="text/plain")
    def health(self, _: RoutedRequest) -> Response:
        """Returns 200."""
        return _healthy()

    # Kubernetes' conventional path. On Cloud Run, Google's front end reserves it and answers 404.
    @route(
        "GET",
        "/healthz",
        summary="Check that the function answers, if no proxy reserves this path.",
        returns="text/plain",
    )
    def healthz(self, _: RoutedRequest) -> Response:
        """Returns 200."""
        return _healthy()

    @route("GET", "/openapi.json", summary="Get this document.", returns="application/json")
    def describe(self, _: RoutedRequest) -> Response:
        """Returns the OpenAPI document, built with the first request."""
        return Response(self._document, content_type="application/json")

    @cached_property
    def _document(self) -> bytes:
        return openapi.encode(description(self.app))


def _healthy() -> Response:
    return Response("ok\n", content_type="text/plain")


def entry_point(function: str) -> Callable[[Request], Response]:
    """Returns the callable that functions-framework serves.

    Its application is built from the environment with the first request. On Cloud Run and Cloud
    Functions logs are structured from now on.
    """
    gunicorn_defaults.disable_control_socket()
    deployed = structured_logs.start(os.environ)

    @cache
    def build() -> Router:
        from muster_coordinator.bootstrap import from_environment

        if not deployed:
            events.write_to()
        app = from_environment(function)
        if function == _CLIENTS and app.clients is None:
            LOG.warning(
                "MUSTER_CLIENTS is open: client identity is self-asserted, and one device can pose as a thousand "
                "clients. Set it to enrolment:…, oidc:… or proxy:… before strangers can reach this address"
            )
        if function == _CLIENTS:
            # Runs when a worker of gunicorn ends, by SIGTERM too.
            atexit.register(app.checkin_counters.flush)
        return router(app, function)

    def serve(request: Request) -> Response:
        structured_logs.note_request(request.headers, os.environ)
        # A cold instance receives several first requests at once. `cache` alone would build an
        # application for each.
        with _BUILD_LOCK:
            serving = build()
        with _RECYCLER.request():
            response = serving(request)
            _drain(request)
        close_if_broken(request, response)
        # functions-framework would read the rest of the body into memory, without a limit.
        request.stream = BytesIO()
        return response

    return serve


def _drain(request: Request) -> None:
    """Reads and discards a refused body, up to a limit, so that its sender receives the answer."""
    left = MAX_DRAINED_BODY
    with suppress(BrokenBodyError):  # the response is complete already
        while left > 0 and (piece := request.stream.read(min(_READ_SIZE, left))):
            left -= len(piece)


def function_for(method: str, path: str) -> str:
    """Returns the name of the function that serves a request, if all four share one address."""
    if path.startswith("/internal/"):
        return "committer" if path.endswith(("/commit", "/open")) else "aggregator"
    if path.startswith("/v1/tasks/") and "/runs/" in path:  # a request may have any name
        return "operator_api"
    if path.startswith(("/v1/populations/", "/v1/updates")) or path.endswith("/broadcast"):
        return _CLIENTS
    return _CLIENTS if path.startswith("/v1/plans/") and method in ("GET", "HEAD", "OPTIONS") else "operator_api"
