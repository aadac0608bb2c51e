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
    made = Double()
    server = make_server("127.0.0.1", 0, made, threaded=True)
    # A kept-alive connection is what real coordinators give, and what a dropped one is about.
    server.RequestHandlerClass.protocol_version = "HTTP/1.1"
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
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
    ) as made:
        yield made


@pytest.fixture
def no_waits() -> Iterator[None]:
    """Retries at once."""
    stamina.set_testing(True, attempts=5, cap=True)
    yield
    stamina.set_testing(False)
