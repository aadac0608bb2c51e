"""A gunicorn worker that gives up on slow clients, who would otherwise keep its threads for as long as they like.

Gunicorn's threads wait for a request's bytes without end. Here a request may take so many seconds to arrive, and longer only as
its bytes come in at a pace, and each piece of an answer may take so long to be taken. Only the time spent waiting counts, and each
request starts afresh. Connections that wait for their next request take no thread, and are gunicorn's own business (`keepalive`).
"""

from __future__ import annotations

import errno
import socket
import time
from typing import Any, Callable

from gunicorn.workers.gthread import ThreadWorker

SECONDS = 20.0  # that a client may let us wait for a request
PACE = 1000.0  # bytes of a request that buy one more second
# Bytes at most. Gunicorn asks for up to 1 MB of a body, and copies what is left of it for each piece that is read.
RECEIVED = 1 << 17
ANSWER_SECONDS = 60.0  # for each piece of an answer, of at most 256 KB


class SlowClientError(ConnectionResetError):
    """The client let us wait too long; its connection is of no more use."""

    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, "the client was too slow")


class DeadlineSocket:
    """A connected socket whose waits are limited; everything else is the socket's own.

    Args:
      sock: The socket.
      seconds: See the module. Likewise `pace` and `answer_seconds`.
      clock: Monotonic seconds.
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
        """A new request may come."""
        self._left = self._seconds

    def recv(self, size: int, *flags: int) -> bytes:
        """See `socket.recv`; gives 128 KB at most. Raises `SlowClientError`."""
        data: bytes = self._within(self._left, self._sock.recv, min(size, RECEIVED), *flags)
        self._left += len(data) / self._pace
        return data

    def recv_into(self, buffer: Any, *more: int) -> int:
        """See `socket.recv_into`. Raises `SlowClientError`."""
        count: int = self._within(self._left, self._sock.recv_into, buffer, *more)
        self._left += count / self._pace
        return count

    def send(self, data: Any, *flags: int) -> int:
        """See `socket.send`. Raises `SlowClientError`."""
        sent: int = self._within(self._answer_seconds, self._sock.send, data, *flags)
        return sent

    def sendall(self, data: Any, *flags: int) -> None:
        """See `socket.sendall`, whose time-out is for all of the data. Raises `SlowClientError`."""
        self._within(self._answer_seconds, self._sock.sendall, data, *flags)

    def _within(self, seconds: float, call: Callable[..., Any], *arguments: Any) -> Any:
        before = self._sock.gettimeout()
        if before == 0:  # gunicorn asks for what is there, and does not wait
            return call(*arguments)
        # Whoever set a shorter time meant it, and gets its own error.
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
    """Gunicorn's threaded worker over such sockets."""

    seconds = SECONDS

    def enqueue_req(self, conn: Any) -> None:
        """Has a thread take a connection with a request on it."""
        if not isinstance(conn.sock, DeadlineSocket):
            conn.sock = DeadlineSocket(conn.sock, seconds=self.seconds)
        conn.sock.begin()
        super().enqueue_req(conn)
