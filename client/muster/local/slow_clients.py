"""Gunicorn worker that disconnects slow clients.

A thread of gunicorn's `gthread` worker waits for a request's bytes without a limit, so a few slow
clients can block all threads. `DeadlineWorker` limits these waits:

- A request has `SECONDS` to arrive, plus one second for each `PACE` bytes.
- Each write of an answer has `ANSWER_SECONDS`.

Only time spent waiting for the client counts, and each request starts with a new allowance. Idle
connections use no thread; gunicorn closes them (`keepalive`).

`DeadlineWorker` subclasses internals of gunicorn: `ThreadWorker.enqueue_req`, and the attribute
`sock` of its connections (`TConn`). It is tested with gunicorn 27.0.
`tests/unit/test_slow_clients.py` fails by name if an internal disappears. For clients on the
Internet, a proxy in front that buffers requests, such as nginx, is the recommended way.
"""

from __future__ import annotations

import errno
import socket
import time
from typing import Any, Callable

from gunicorn.workers.gthread import ThreadWorker

SECONDS = 20.0  # of waiting for one request
PACE = 1000.0  # bytes of a request for one more second
# Gunicorn reads up to 1 MB of a body at once, and copies the rest of that for each chunk it
# returns.
MAX_RECEIVED = 1 << 17  # bytes
ANSWER_SECONDS = 60.0  # of waiting in one write, of at most 256 KB


class SlowClientError(ConnectionResetError):
    """Error raised when a client exceeds its waiting time. The connection must be closed."""

    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, "the client was too slow")


class DeadlineSocket:
    """Proxy for a connected socket that limits its waits. Other attributes are the socket's.

    Args:
      sock: The socket.
      seconds: Seconds of waiting for one request.
      pace: Bytes of a request for one more second.
      answer_seconds: Seconds of waiting in one write.
      clock: Returns monotonic seconds.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        seconds: float = SECONDS,
        pace: float = PACE,
        answer_seconds: float = ANSWER_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sock = sock
        self._seconds = seconds
        self._pace = pace
        self._answer_seconds = answer_seconds
        self._clock = clock
        self._left = seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def begin(self) -> None:
        """Starts the allowance of a new request."""
        self._left = self._seconds

    def recv(self, size: int, *flags: int) -> bytes:
        """Reads as `socket.recv`, at most 128 KB. Raises `SlowClientError`."""
        data: bytes = self._within(self._left, self._sock.recv, min(size, MAX_RECEIVED), *flags)
        self._left += len(data) / self._pace
        return data

    def recv_into(self, buffer: Any, *more: int) -> int:
        """Reads as `socket.recv_into`. Raises `SlowClientError`."""
        count: int = self._within(self._left, self._sock.recv_into, buffer, *more)
        self._left += count / self._pace
        return count

    def send(self, data: Any, *flags: int) -> int:
        """Writes as `socket.send`. Raises `SlowClientError`."""
        sent: int = self._within(self._answer_seconds, self._sock.send, data, *flags)
        return sent

    def sendall(self, data: Any, *flags: int) -> None:
        """Writes as `socket.sendall`; the time-out is for all data. Raises `SlowClientError`."""
        self._within(self._answer_seconds, self._sock.sendall, data, *flags)

    def _within(self, seconds: float, call: Callable[..., Any], *arguments: Any) -> Any:
        before = self._sock.gettimeout()
        if before == 0:  # a non-blocking call never waits
            return call(*arguments)
        # A shorter time-out of the caller applies, with its own error.
        shorter = before is not None and before < seconds
        if not shorter and seconds <= 0:
            raise SlowClientError
        started = self._clock()
        try:
            self._sock.settimeout(before if shorter else seconds)
            return call(*arguments)
        except socket.timeout as error:  # TimeoutError, from Python 3.10 on
            if shorter:
                raise
            raise SlowClientError from error
        finally:
            if call in (self._sock.recv, self._sock.recv_into):
                self._left -= self._clock() - started
            if self._sock.fileno() >= 0:
                self._sock.settimeout(before)


class DeadlineWorker(ThreadWorker):  # type: ignore[misc, unused-ignore]  # gunicorn has no types
    """Gunicorn's threaded worker with `DeadlineSocket`s. Uses internals; see the module."""

    seconds = SECONDS

    def enqueue_req(self, conn: Any) -> None:
        """Wraps the socket of a connection with a new request, and passes it to a thread."""
        if not isinstance(conn.sock, DeadlineSocket):
            conn.sock = DeadlineSocket(conn.sock, seconds=self.seconds)
        conn.sock.begin()
        super().enqueue_req(conn)
