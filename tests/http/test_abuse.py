"""Abusive requests to the served coordinator, over sockets, gunicorn and functions-framework."""

from __future__ import annotations

import socket
import time
from contextlib import suppress

import psutil
import pytest
from gunicorn.config import Config
from support import direct
from support.harness import POPULATION, SECRET, Harness
from support.plans import sum_update
from support.raw_http import CRLF, answers, ask, chunked, connected, head, read_answer, served

from muster.local.reserved_port import ReservedPort
from muster.wire.problems import CONTENT_TYPE
from muster.wire.tensors import encode

CHECKIN = f"/v1/populations/{POPULATION}:checkin"
PATIENCE = 1.0  # seconds
TRICKLE = 400  # bytes at most, of which a thousand would buy a second


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Folder of a deployment with an open round; the harness hands out its slots."""
    root = tmp_path_factory.mktemp("served")
    harness = Harness(root, durable=True, start=time.time())
    harness.begin(goal=50, round_seconds=3600.0, assignment_seconds=3600.0)
    return root, harness


@pytest.fixture(scope="module")
def server(home):
    """Address of the served functions: one process with two threads."""
    root, _ = home
    with (
        ReservedPort() as port,
        ReservedPort() as internal,
        served(root, port.number, internal.number, patience=PATIENCE),
    ):
        yield port.number


def test_chunked_body_is_read_up_to_its_limit(server):
    lines = ("Transfer-Encoding: chunked", "Content-Type: application/json", "Connection: close")
    status, body = ask(server, head("POST", CHECKIN, *lines) + chunked(b'{"client":', b'"chunked"}'))
    assert status == 200, body
    status, body = ask(server, head("POST", CHECKIN, *lines) + chunked(*[b" " * 8192] * 20))
    assert status == 413, body


def test_chunked_update_is_counted_like_any_other(server, home):
    _, harness = home
    update = encode(sum_update(0, 1.0))
    token = harness.assigned("chunked").token
    lines = (f"Authorization: Bearer {token}", "Transfer-Encoding: chunked", "Connection: close")
    too_long = head("PUT", "/v1/updates", *lines) + chunked(update, *[b"x" * 65536] * 200)
    assert ask(server, too_long)[0] == 422
    assert ask(server, head("PUT", "/v1/updates", *lines) + chunked(update[:20], update[20:]))[0] == 200


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 5", "Content-Length: 50"),
        ("Content-Length: 5, 50",),
        ("Content-Length: -1",),
        ("Content-Length: 0x10",),
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked, chunked",),
        ("Transfer-Encoding: gzip",),
        ("X-Large: " + "x" * 20_000,),
        tuple(f"X-{number}: 1" for number in range(200)),
    ],
    ids=lambda lines: lines[-1][:40],
)
def test_contradictory_or_too_many_headers_are_refused(server, lines):
    status, _ = ask(server, head("POST", CHECKIN, *lines) + b'{"a":')
    assert 400 <= status < 500 or status == 501
    assert answers(server)


def test_too_long_path_is_refused(server):
    assert 400 <= ask(server, head("GET", "/v1/" + "x" * 5000, "Connection: close"))[0] < 500
    longer = ask(server, head("GET", "/v1/" + "x" * 1_000_000, "Connection: close"))
    assert longer is None or 400 <= longer[0] < 500
    assert answers(server)


def test_headers_with_underscores_do_not_alias_others():
    """WSGI can't distinguish `X_Proxy_Secret` and `X-Proxy-Secret`; gunicorn drops the first."""
    assert Config().header_map == "drop"


def test_slow_clients_are_disconnected_and_do_not_block_others(server):
    body = head("POST", CHECKIN, "Content-Length: 1000", "Content-Type: application/json") + b"{"
    slow = [b"POST /v1/upd", head("PUT", "/v1/updates", "Content-Length: 9")[:-2], body, body]
    connections = [socket.create_connection(("127.0.0.1", server), timeout=120) for _ in slow]
    try:
        for connection, data in zip(connections, slow, strict=True):
            connection.sendall(data)
        assert answers(server)
        received = [read_answer(connection) for connection in connections]
    finally:
        for connection in connections:
            connection.close()
    # The exact time limit is tested with a manual clock, in unit/test_slow_clients.py.
    assert received[:2] == [None, None]  # there was no request to answer
    assert all(status == 400 and b"too slowly" in text for status, text in received[2:])


def test_slow_update_leaves_nothing_behind(server, home):
    _, harness = home
    token = harness.assigned("slow").token
    update = encode(sum_update(1, 1.0))
    lines = (f"Authorization: Bearer {token}", f"Content-Length: {len(update)}")
    with connected(server) as connection:
        connection.sendall(head("PUT", "/v1/updates", *lines) + update[:-8])
        status, body = read_answer(connection)
    assert status == 400
    assert b"update_truncated" in body
    whole = head("PUT", "/v1/updates", *lines, "Connection: close") + update
    assert ask(server, whole)[0] == 200  # the name was free


def test_trickling_body_is_refused(server):
    """An occasional byte does not occupy a thread: the server closes the connection soon."""
    with connected(server) as connection:
        connection.settimeout(0.2)
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        ended = False
        for _ in range(TRICKLE):
            try:
                connection.sendall(b"a")
                ended = connection.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True
            if ended:
                break
    assert ended


def test_server_errors_are_problem_documents_without_internals(server, home):
    root, _ = home
    response = direct.post(f"http://127.0.0.1:{server}{CHECKIN}", data=b"[" * 60_000, timeout=60)
    assert response.headers["Content-Type"] == CONTENT_TYPE
    for secret in (str(root), SECRET.hex(), "Traceback", ".py", "site-packages"):
        assert secret not in response.text


def test_refused_body_is_not_held_in_memory(server):
    process = next(child for child in psutil.Process().children(recursive=True) if "--internal-port" in child.cmdline())
    (worker,) = process.children()
    before = worker.memory_info().rss
    piece = b"x" * (1 << 20)
    with connected(server) as connection, suppress(OSError):  # the server closes once it has read enough
        connection.sendall(head("PUT", "/v1/updates", "Transfer-Encoding: chunked"))
        for _ in range(200):
            connection.sendall(f"{len(piece):x}".encode() + CRLF + piece + CRLF)
    assert answers(server)
    assert worker.memory_info().rss - before < 32 << 20
