"""Time limits of `DeadlineSocket`, and the gunicorn internals that `DeadlineWorker` uses."""

from __future__ import annotations

import inspect
import socket

import pytest

from muster.local.slow_clients import DeadlineSocket, DeadlineWorker, SlowClientError


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_waits_add_up_and_received_bytes_extend_the_time(pair):
    ours, theirs = pair
    now = [0.0]
    # Each call of the clock advances it by two seconds: a wait of two seconds for each chunk.
    limited = DeadlineSocket(ours, seconds=5, pace=100, clock=lambda: now.__setitem__(0, now[0] + 2) or now[0])
    for size in (1, 400, 1, 1, 1):  # 3.01 left; 5.01; 3.02; 1.03; -0.96
        theirs.sendall(b"x" * size)
        assert len(limited.recv(1000)) == size
    theirs.sendall(b"x")
    with pytest.raises(SlowClientError):
        limited.recv(1)
    limited.begin()
    assert limited.recv(1) == b"x"


def test_silent_client_times_out(pair):
    with pytest.raises(SlowClientError):
        DeadlineSocket(pair[0], seconds=0.05).recv(1)
    assert pair[0].gettimeout() is None  # as it was


def test_unread_answer_times_out(pair):
    with pytest.raises(SlowClientError):
        DeadlineSocket(pair[0], answer_seconds=0.05).sendall(b"x" * (8 << 20))


def test_shorter_timeout_of_the_caller_raises_its_own_error(pair):
    limited = DeadlineSocket(pair[0], seconds=5)
    limited.settimeout(0.05)
    with pytest.raises(TimeoutError):
        limited.recv(1)
    limited.setblocking(False)
    with pytest.raises(BlockingIOError):
        limited.recv(1)


def test_gunicorn_worker_still_has_the_method_that_we_override():
    gthread = pytest.importorskip("gunicorn.workers.gthread")
    parameters = list(inspect.signature(gthread.ThreadWorker.enqueue_req).parameters)
    assert parameters == ["self", "conn"], "gunicorn.workers.gthread.ThreadWorker.enqueue_req has changed"
    assert issubclass(DeadlineWorker, gthread.ThreadWorker)


def test_gunicorn_connection_still_has_the_socket_that_we_replace(pair):
    gthread = pytest.importorskip("gunicorn.workers.gthread")
    config = pytest.importorskip("gunicorn.config").Config()
    connection = gthread.TConn(config, pair[0], ("127.0.0.1", 1), ("127.0.0.1", 2))
    assert connection.sock is pair[0], "gunicorn.workers.gthread.TConn.sock has changed"


def test_gunicorn_calls_the_overridden_method_for_each_request():
    gthread = pytest.importorskip("gunicorn.workers.gthread")
    assert "self.enqueue_req(" in inspect.getsource(gthread.ThreadWorker), "ThreadWorker no longer calls enqueue_req"
