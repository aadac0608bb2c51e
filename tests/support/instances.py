"""Instances of the functions as processes that die, and stores that fail: what Google Cloud may do to a deployment, and worse.

An instance serves one function by way of functions-framework. Its settings come from the environment; its stores fail at
random, before or after they did what they were asked; its runtime is numpy's, so that an instance starts in a moment.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import socket
import socketserver
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import count
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from werkzeug.wrappers import Request, Response

from muster.local.held_port import HeldPort
from muster_coordinator import bootstrap
from muster_coordinator.application import CoordinatorConfig, assemble
from muster_coordinator.http import router
from muster_coordinator.ports import UnavailableError
from muster_coordinator.settings import Settings
from support.plans import SumRuntime
from support.served import Loopback

_FUNCTION, _SHARE = "INSTANCE_FUNCTION", "INSTANCE_FAILING"
_CONTEXT = multiprocessing.get_context("forkserver")
# Imported once, and then forked: an instance is there again in a moment. None of these opens a channel when it is imported.
_CONTEXT.set_forkserver_preload(
    [
        "support.instances",
        "functions_framework",
        *(f"muster_coordinator.adapters.{name}" for name in ("firestore", "gcs", "cloud_tasks", "oidc", "system")),
    ]
)


class Shaky:
    """A port of which a share of all calls fails: half of them before, half after they took effect."""

    def __init__(self, inner: Any, randomness: random.Random, share: float) -> None:
        self._inner = inner
        self._chance = randomness
        self._share = share

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        def call(*arguments: Any, **more: Any) -> Any:
            fate = self._chance.random()
            if fate < self._share / 2:
                raise UnavailableError(f"{name} was lost on its way")
            result = method(*arguments, **more)
            if fate < self._share:
                raise UnavailableError(f"the answer to {name} was lost")
            return result

        return call


@cache
def _made() -> Any:
    settings = Settings.from_environment(os.environ)
    randomness, share = random.Random(), float(os.environ[_SHARE])  # noqa: S311  not for secrets
    platform = bootstrap.platform(settings)
    platform = replace(
        platform,
        documents=Shaky(platform.documents, randomness, share),
        blobs=Shaky(platform.blobs, randomness, share),
        queue=Shaky(platform.queue, randomness, share),
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
    """What functions-framework calls."""
    return _made()(request)


def _serve(name: str, port: int, environment: Mapping[str, str], log: str, paths: list[str]) -> None:
    from functions_framework import create_app
    from werkzeug.serving import make_server

    sys.path[:] = paths
    os.environ.update({**environment, _FUNCTION: name})
    notes = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(notes, 1)
    os.dup2(notes, 2)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = create_app(target="function", source=__file__, signature_type="http")
    make_server("127.0.0.1", port, app, threaded=True).serve_forever()


class Instance:
    """One process of a function, at a port that stays its own."""

    def __init__(self, function: str, environment: Mapping[str, str], *, logs: Path, failing: float) -> None:
        self.function = function
        self._held = HeldPort()
        self.port = self._held.number
        self._log = logs / f"{function}-{self.port}.log"
        self._environment = {**environment, _SHARE: str(failing)}
        self._process: BaseProcess | None = None

    def start(self) -> None:
        self._process = _CONTEXT.Process(
            target=_serve,
            args=(self.function, self.port, self._environment, str(self._log), list(sys.path)),
            daemon=True,
        )
        self._process.start()

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.join()

    def end(self) -> None:
        """SIGKILL, for good."""
        self.kill()
        self._held.close()

    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""


class FrontEnd(Loopback):
    """One address for several instances: each connection goes to the next one that takes it, and ends if that dies."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        turns = count()
        front = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                at = next(turns)
                for step in range(len(front.ports)):
                    with suppress(OSError):
                        port = front.ports[(at + step) % len(front.ports)]
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
