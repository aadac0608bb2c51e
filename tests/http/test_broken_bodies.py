"""Malformed and incomplete bodies on every route.

Each is answered with a problem document and a closed connection, without a traceback in the log.
"""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress

import pytest
from support.harness import POPULATION, SECRET, TASK, Harness
from support.plans import sum_update
from support.raw_http import CRLF, answers, chunked, connected, head, served
from werkzeug.wrappers import Request

from muster.local.reserved_port import ReservedPort
from muster.wire.problems import CONTENT_TYPE
from muster.wire.tensors import encode
from muster_coordinator.http.bodies import wrap_body

CHECKIN = f"/v1/populations/{POPULATION}:checkin"
NEXT = head("GET", "/health", "Connection: close")
UPDATE = encode(sum_update(0, 1.0))

# gunicorn refuses each of these while it reads the body; the comment names its error.
MALFORMED = {
    "hex prefix": b"0x2\r\n{}\r\n0\r\n\r\n",  # InvalidChunkSize, like the next ones
    "negative": b"-2\r\n{}\r\n0\r\n\r\n",
    "plus": b"+2\r\n{}\r\n0\r\n\r\n",
    "underscore": b"0_2\r\n{}\r\n0\r\n\r\n",
    "empty": b"\r\n{}\r\n0\r\n\r\n",
    "space before": b" 2\r\n{}\r\n0\r\n\r\n",
    "space after": b"2 \r\n{}\r\n0\r\n\r\n",
    "letters": b"xyz\r\n{}\r\n0\r\n\r\n",
    "other digits": "\u0662\r\n{}\r\n0\r\n\r\n".encode(),
    "size without end": b"2" * 20_000,
    "second size": b"2\r\n{}\r\nno\r\n",
    "size too small": b"1\r\n{}\r\n0\r\n\r\n",  # ChunkMissingTerminator, like the next ones
    "no terminator": b"2\r\n{}0\r\n\r\n",
    "bare line feed": b"2\r\n{}\n0\r\n\r\n",
    "extension without name": b"2;\r\n{}\r\n0\r\n\r\n",  # InvalidChunkExtension, like the next ones
    "extension with control": b"2;a=\x01\r\n{}\r\n0\r\n\r\n",
    "extension with quote": b'2;a="b\r\n{}\r\n0\r\n\r\n',
    "extension with carriage return": b"2;a\r=b\r\n{}\r\n0\r\n\r\n",
    "trailer without colon": b"2\r\n{}\r\n0\r\nbad\r\n\r\n",  # InvalidHeader
    "trailer with odd name": b"2\r\n{}\r\n0\r\nb@d: 1\r\n\r\n",  # InvalidHeaderName
    "trailer that is folded": b"2\r\n{}\r\n0\r\na: 1\r\n b\r\n\r\n",  # ObsoleteFolding
    "trailer with line feed": b"2\r\n{}\r\n0\r\na: 1\nb: 2\r\n\r\n",  # InvalidHeader
    "trailers without end": b"2\r\n{}\r\n0\r\n" + b"a: 1\r\n" * 200_000,  # LimitRequestHeaders
    "too many trailers": b"2\r\n{}\r\n0\r\n" + b"a: 1\r\n" * 500 + b"\r\n",  # LimitRequestHeaders
}

# Requests with their status for a valid empty body; None if the status depends on the body.
REQUESTS = [
    ("GET", "/health", 200),
    ("GET", "/v1/tasks", 200),
    ("GET", "/v1/nothing", 404),
    ("HEAD", "/health", 200),
    ("DELETE", "/v1/tasks", 405),
    ("OPTIONS", "/v1/tasks", 405),
    ("GET", f"/v1/tasks/{TASK}/rounds/1/broadcast", 400),
    ("PUT", "/v1/updates", 401),
    ("POST", "/v1/updates:report", 401),
    ("POST", f"/v1/tasks/{TASK}:pause", 200),
    ("POST", f"/v1/tasks/{TASK}:resume", 200),
    ("POST", CHECKIN, None),
    ("POST", "/v1/tasks", None),
    ("POST", f"/v1/tasks/{TASK}:rollback", None),
    ("POST", "/v1/revocations", None),
    ("PUT", f"/v1/plans/{'0' * 64}", None),
]
CHUNKED = "Transfer-Encoding: chunked"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    root = tmp_path_factory.mktemp("served")
    harness = Harness(root, durable=True, start=time.time())
    harness.begin(goal=50, over_selection=4.0, round_seconds=3600.0, assignment_seconds=3600.0)
    return root, harness


@pytest.fixture(scope="module")
def server(home):
    """Port of the served functions. Checks at the end that the log has no traceback."""
    root, _ = home
    with ReservedPort() as port, ReservedPort() as internal, served(root, port.number, internal.number, patience=5.0):
        yield port.number, internal.number
        assert answers(port.number)
    log = (root / "web.log").read_text()
    assert "Traceback" not in log
    assert "Error" not in log
    assert SECRET.hex() not in log


def conversation(port, data, *, end):
    """Returns all bytes received for `data`.

    `end` closes the sending side first.
    """
    received = b""
    with connected(port) as connection:
        with suppress(OSError):  # the server answered and closed before it read everything
            connection.sendall(data)
            if end:
                connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                received += piece
    return received


def check(received, status, *, method="POST", closes=True):
    """Checks for one response with `status` that closes the connection.

    A failure must be a problem document.
    """
    start, _, body = received.partition(CRLF + CRLF)
    lines = start.decode("latin-1").lower().splitlines()
    assert received.count(b"HTTP/1.1 ") == 1, received
    assert lines[0].split()[1] == str(status), received
    assert not closes or "connection: close" in lines, received
    if status >= 400:
        assert f"content-type: {CONTENT_TYPE}" in lines, received
    return json.loads(body) if status >= 400 and method != "HEAD" else body


@pytest.mark.parametrize(("method", "path", "status"), REQUESTS, ids=lambda value: str(value)[:40])
def test_malformed_chunked_body_is_refused_or_ignored(server, method, path, status):
    port, _ = server
    for name, body in MALFORMED.items():
        lines = [CHUNKED] + (["Content-Type: application/json"] if status is None else [])
        # The bytes that follow are never parsed as a request: its start is unknown.
        problem = check(
            conversation(port, head(method, path, *lines) + body + NEXT, end=False), status or 400, method=method
        )
        if status is None:
            assert problem["type"].endswith("/update_truncated"), (name, problem)


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_chunked_update_is_truncated_without_trace(server, home, name):
    (port, _), (_, harness) = server, home
    token = harness.assigned(name).token
    lines = (f"Authorization: Bearer {token}", CHUNKED)
    # The update itself is complete if only the trailers are malformed.
    half = f"{len(UPDATE):x}".encode() + CRLF + UPDATE + CRLF
    for start in (b"", half):
        problem = check(
            conversation(port, head("PUT", "/v1/updates", *lines) + start + MALFORMED[name] + NEXT, end=False), 400
        )
        if not start or "trailer" in name or not MALFORMED[name].startswith(b"2\r\n{}"):
            assert problem["type"].endswith("/update_truncated"), problem
    assert harness.blobs("updates/") == []


def test_chunked_body_that_ends_early_is_truncated(server, home):
    (port, internal), (_, harness) = server, home
    token = harness.assigned("cut").token
    whole = chunked(UPDATE[:50], UPDATE[50:])
    upload = head("PUT", "/v1/updates", f"Authorization: Bearer {token}", CHUNKED)
    checkin = head("POST", CHECKIN, CHUNKED, "Content-Type: application/json")
    work = head("POST", "/internal/close", CHUNKED, "Content-Type: application/json")
    body = chunked(b'{"cli', b'ent":"x"}')
    cuts = [(port, upload, whole[:at]) for at in [*range(12), *range(48, 64), *range(len(whole) - 12, len(whole))]]
    cuts += [
        (at_port, start, body[:at]) for at_port, start in ((port, checkin), (internal, work)) for at in range(len(body))
    ]
    for at_port, start, data in cuts:
        problem = check(conversation(at_port, start + data, end=True), 400)
        assert problem["type"].endswith("/update_truncated"), (data, problem)
    assert harness.blobs("updates/") == []
    received = conversation(
        port, upload.replace(CRLF + CRLF, CRLF + b"Connection: close" + CRLF + CRLF) + whole, end=True
    )
    check(received, 200)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", CHECKIN, b"{}"),
        ("POST", CHECKIN, b""),
        ("POST", "/v1/tasks", b"{}"),
        ("POST", f"/v1/tasks/{TASK}:rollback", b'{"version":0}'),
        ("POST", "/v1/revocations", b'{"id":"' + b"0" * 32 + b'"}'),
        ("PUT", f"/v1/plans/{'0' * 64}", b"PK"),
    ],
)
def test_body_shorter_than_its_declared_length_is_truncated(server, home, method, path, body):
    (port, _), (_, harness) = server, home
    before = harness.inner.documents.list("audit"), harness.inner.documents.get("enrolments/revoked")
    start = head(method, path, "Content-Length: 50", "Content-Type: application/json")
    if path.startswith("/v1/plans"):
        start = head(method, path, "Content-Length: 50")
    problem = check(conversation(port, start + body, end=True), 400, closes=False)  # the client closed it
    assert problem["type"].endswith("/update_truncated")
    assert (harness.inner.documents.list("audit"), harness.inner.documents.get("enrolments/revoked")) == before


def test_connection_stays_open_after_valid_unread_bodies(server):
    """Only a broken body closes the connection; pipelined requests are all answered."""
    port, _ = server
    good = head("GET", "/health", CHUNKED) + b"2;a=b\r\n{}\r\n0\r\nX-Trailer: 1\r\n\r\n"
    received = conversation(port, good + good + head("GET", "/health", "Content-Length: 3") + b"abc" + NEXT, end=False)
    assert received.count(b"HTTP/1.1 200 ") == 4, received


def test_framework_may_read_the_rest_of_a_body():
    """functions-framework reads the rest of every request after its response."""
    request = Request.from_values(data=b"left over", method="POST")
    wrap_body(request)
    assert request.stream.read(4) == b"left"
    assert request.get_data() == b" over"
