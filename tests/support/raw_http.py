"""Sends raw requests over sockets to a coordinator served with gunicorn."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import requests

from muster.local.settings import settings_of
from support import direct
from support.harness import SECRET

ROOT = Path(__file__).parents[2]
CRLF = b"\r\n"


@contextmanager
def served(root: Path, port: int, internal: int, *, patience: float) -> Iterator[None]:
    """Serves the functions over the stores in `root` with one process and two threads."""
    environment = {**os.environ, **settings_of(root), "MUSTER_SECRET": SECRET.hex()}
    command = [sys.executable, "-m", "muster.local.serving", "web", "--address", f"127.0.0.1:{port}"]
    command += ["--internal-port", str(internal), "--workers", "1", "--threads", "2", "--patience", str(patience)]
    with (root / "web.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment
        )
    try:
        while not answers(port):  # until the test's timeout
            assert process.poll() is None, (root / "web.log").read_text()
        yield
    finally:
        process.terminate()
        process.wait(120)
        if process.stdin is not None:
            process.stdin.close()


def answers(port: int) -> bool:
    """Returns whether a coordinator answers at the port."""
    try:
        return direct.get(f"http://127.0.0.1:{port}/healthz", timeout=30).ok
    except (requests.ConnectionError, requests.Timeout):
        return False


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    """Yields a connection to the port."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        yield connection


def head(method: str, path: str, *headers: str) -> bytes:
    """Returns a request up to its body."""
    lines = [f"{method} {path} HTTP/1.1", "Host: muster", *headers]
    return "\r\n".join(lines).encode() + CRLF + CRLF


def read_answer(connection: socket.socket) -> tuple[int, bytes] | None:
    """Returns the status and body of the response, or None if the connection ends without one."""
    data = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            data += piece
    if not data:
        return None
    start, _, body = data.partition(CRLF + CRLF)
    return int(start.split()[1]), body


def ask(port: int, data: bytes) -> tuple[int, bytes] | None:
    """Sends `data`, closes the sending side, and returns the response like `read_answer`."""
    with connected(port) as connection:
        with suppress(OSError):  # the server may respond and close before it has read everything
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        return read_answer(connection)


def chunked(*pieces: bytes) -> bytes:
    """Returns a body of these chunks."""
    return b"".join(f"{len(piece):x}".encode() + CRLF + piece + CRLF for piece in pieces) + b"0" + CRLF + CRLF
