"""Fixtures: the scripted coordinator behind a real socket, and a client of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import stamina
from support.double import Double, Worker
from werkzeug.serving import make_server

from muster.client import MusterClient


@pytest.fixture
def double() -> Iterator[Double]:
    double = Double()
    server = make_server("127.0.0.1", 0, double, threaded=True)
    # Persistent connections, as of a real coordinator, so that a drop breaks one.
    server.RequestHandlerClass.protocol_version = "HTTP/1.1"
    double.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield double
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def client(double: Double, worker: Worker) -> Iterator[MusterClient]:
    with MusterClient(
        double.url, "devices", lambda: {"id": 3}, client_id="me", runtime_factory=lambda _: worker
    ) as client:
        yield client


@pytest.fixture
def no_waits() -> Iterator[None]:
    """Retries without waits."""
    stamina.set_testing(True, attempts=5, cap=True)
    yield
    stamina.set_testing(False)
