"""Instances of the functions in processes that a test kills, over stores that fail at random.

An instance serves one function with functions-framework, and reads its settings from the
environment. Its store calls fail at random, before or after they took effect. Its runtime uses
numpy, so an instance starts fast.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import socket
import socketserver
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import count
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

from werkzeug.wrappers import Request, Response

from muster.local.reserved_port import ReservedPort
from muster_coordinator import bootstrap
from muster_coordinator.application import CoordinatorConfig, assemble
from muster_coordinator.http import router
from muster_coordinator.ports import UnavailableError
from muster_coordinator.settings import Settings
from support.plans import SumRuntime
from support.served import Loopback

_FUNCTION, _FAILING = "INSTANCE_FUNCTION", "INSTANCE_FAILING"
_CONTEXT = multiprocessing.get_context("forkserver")
# Imported once before the fork, so an instance restarts fast. None of these modules opens a channel
# at import.
_CONTEXT.set_forkserver_preload(
    [
        "support.instances",
        "functions_framework",
        *(f"muster_coordinator.adapters.{name}" for name in ("firestore", "gcs", "cloud_tasks", "oidc", "system")),
    ]
)


class FlakyPort:
    """Port of which a fraction of the calls fails, half of them after they took effect."""

    def __init__(self, inner: Any, randomness: random.Random, failing: float) -> None:
        self._inner = inner
        self._randomness = randomness
        self._failing = failing

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            draw = self._randomness.random()
            if draw < self._failing / 2:
                raise UnavailableError(f"the request {name} was lost")
            result = method(*arguments, **options)
            if draw < self._failing:
                raise UnavailableError(f"the response to {name} was lost")
            return result

        return call


@cache
def _application() -> Any:
    settings = Settings.from_environment(os.environ)
    randomness, failing = random.Random(), float(os.environ[_FAILING])  # noqa: S311  not for secrets
    platform = bootstrap.platform(settings)
    platform = replace(
        platform,
        documents=FlakyPort(platform.documents, randomness, failing),
        blobs=FlakyPort(platform.blobs, randomness, failing),
        queue=FlakyPort(platform.queue, randomness, failing),
    )
    config = CoordinatorConfig(
        secret=settings.keys,
        runtime=lambda _: SumRuntime(),  # type: ignore[arg-type, return-value]
        round_cache_seconds=settings.round_cache_seconds,
        retry_floor=settings.retry_floor,
        invoker=bootstrap.invoker(settings),
    )
    return router(assemble(platform, config), os.environ[_FUNCTION])


def function(request: Request) -> Response:
    """Serves a request; the entry point for functions-framework."""
    return cast("Response", _application()(request))


def _serve(name: str, port: int, environment: Mapping[str, str], log: str) -> None:
    from functions_framework import create_app
    from werkzeug.serving import make_server

    os.environ.update({**environment, _FUNCTION: name})
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = create_app(target="function", source=__file__, signature_type="http")
    make_server("127.0.0.1", port, app, threaded=True).serve_forever()


class Instance:
    """Process of a function, with a port that stays reserved between restarts."""

    def __init__(self, function: str, environment: Mapping[str, str], *, logs: Path, failing: float) -> None:
        self.function = function
        self._held = ReservedPort()
        self.port = self._held.number
        self._log = logs / f"{function}-{self.port}.log"
        self._environment = {**environment, _FAILING: str(failing)}
        self._process: BaseProcess | None = None

    def start(self) -> None:
        """Starts the process."""
        self._process = _CONTEXT.Process(
            target=_serve,
            args=(self.function, self.port, self._environment, str(self._log)),
            daemon=True,
        )
        self._process.start()

    def kill(self) -> None:
        """Kills the process with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.join()

    def end(self) -> None:
        """Kills the process and releases its port."""
        self.kill()
        self._held.close()

    def log(self) -> str:
        """Returns the output so far."""
        return self._log.read_text() if self._log.exists() else ""


class FrontEnd(Loopback):
    """Round-robin proxy with one address for several instances.

    Each connection goes to the next instance that accepts it, and ends if the instance dies.
    """

    def __init__(self) -> None:
        self.ports: list[int] = []
        connections = count()
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                first = next(connections)
                for step in range(len(proxy.ports)):
                    with suppress(OSError):
                        port = proxy.ports[(first + step) % len(proxy.ports)]
                        with socket.create_connection(("127.0.0.1", port), timeout=5.0) as upstream:
                            upstream.settimeout(None)
                            _join(self.request, upstream)
                        return

        super().__init__(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler, bind_and_activate=True))


def _join(client: socket.socket, instance: socket.socket) -> None:
    sending = threading.Thread(target=_copy, args=(client, instance), daemon=True)
    sending.start()
    _copy(instance, client)
    for end in (client, instance):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    sending.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        for data in _received(source):
            target.sendall(data)


def _received(source: socket.socket) -> Iterator[bytes]:
    while data := source.recv(1 << 16):
        yield data
