"""Reads the body of a request through a stream that translates every failure into one problem.

A server reports a body that ends early, arrives too slowly or is malformed by its own error.
The functions can't name these errors, since any server may run them. gunicorn alone has a dozen,
some of which are not an `OSError`.
"""

from __future__ import annotations

import logging
from typing import IO, cast

from werkzeug.wrappers import Request, Response

from muster.wire.problems import ProblemError, ProblemType

LOG = logging.getLogger(__name__)


class BrokenBodyError(ProblemError):
    """Error raised when the body of the request can't be read to its end."""

    def __init__(self) -> None:
        super().__init__(
            ProblemType.UPDATE_TRUNCATED, "The body ended early, arrived too slowly or is malformed; send it again"
        )


class RequestBody:
    """Readable stream of a body that either reaches its end or raises `BrokenBodyError`.

    After an error, every further read raises it too. If the request declares a length, an end
    before that length is an error.
    """

    def __init__(self, stream: IO[bytes], *, length: int | None) -> None:
        self._stream = stream
        self._length = length
        self._received = 0
        self.broken = False

    def read(self, size: int = -1) -> bytes:
        """Returns up to `size` bytes, by default all that are left, and b"" at the end.

        Raises:
          BrokenBodyError: The body can't be read to its end.
        """
        if self.broken:  # a server may treat the bytes after a bad chunk as the end
            raise BrokenBodyError
        try:
            piece = self._stream.read(size)
        except Exception as error:
            self.broken = True
            LOG.debug("a body can't be read: %s", type(error).__name__)
            raise BrokenBodyError from error
        self._received += len(piece)
        if not piece and size and self._length is not None and self._received < self._length:
            self.broken = True
            raise BrokenBodyError
        return piece


def wrap_body(request: Request) -> None:
    """Replaces the request's stream by a `RequestBody`."""
    request.stream = cast("IO[bytes]", RequestBody(request.stream, length=request.content_length))


def close_if_broken(request: Request, response: Response) -> Response:
    """Closes the connection after `response` if the request's body broke, and returns `response`.

    The start of a next request on the connection is unknown then.
    """
    if getattr(request.stream, "broken", False):
        response.headers["Connection"] = "close"
        # gunicorn ignores this header of an application, and versions before 27 do not detect a
        # broken body.
        message = getattr(getattr(request.environ.get("wsgi.input"), "reader", None), "req", None)
        close = getattr(message, "force_close", None)
        if callable(close):
            close()
    return response
