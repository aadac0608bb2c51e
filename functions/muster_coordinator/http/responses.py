"""Builds responses: messages, problem documents, and binary content that never changes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus

from werkzeug.wrappers import Request, Response

from muster.wire import problems
from muster.wire.base import Message
from muster.wire.encodings import available
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.http.encodings import accepted
from muster_coordinator.state.encoded_copies import EncodedCopy

SAFETENSORS = "application/octet-stream"
_PIECE_SIZE = 1 << 18  # bytes of a response that are sent at a time
_IMMUTABLE = "max-age=31536000, immutable"


def json_response(message: Message, status: int = HTTPStatus.OK) -> Response:
    """Returns `message` as a JSON response."""
    return Response(message.encode(), status=status, content_type="application/json")


def followed_response(request: Request, message: Message, *, retry_after: float) -> Response:
    """Returns `message` as a JSON response for callers that poll: with an ETag, or as a 304.

    Args:
      request: The request, with its conditions.
      message: The message.
      retry_after: Seconds after which a change is expected. The header is in whole seconds, at
        least one.
    """
    body = message.encode()
    response = Response(body, content_type="application/json")
    response.set_etag(hashlib.sha256(body).hexdigest()[:32])
    response.headers["Cache-Control"] = "private, no-cache"
    response.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
    response.make_conditional(request.environ)
    return response


def problem_response(problem: ProblemError, headers: dict[str, str] | None = None) -> Response:
    """Returns a problem document (RFC 9457) with the headers that its type requires.

    `Retry-After` is in whole seconds, rounded up.
    """
    body = problem.to_problem().model_dump_json(exclude_none=True)
    response = Response(body, status=problem.status, content_type=problems.CONTENT_TYPE, headers=headers)
    if problem.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"  # required by RFC 9110 §11.6.1
    if problem.type is ProblemType.ENCODING_NOT_SUPPORTED:
        response.headers["Accept-Encoding"] = ", ".join(available())  # RFC 9110 §12.5.3
    if problem.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(problem.retry_after)))
    return response


def immutable_response(
    request: Request,
    data: memoryview,
    *,
    etag: str,
    content_type: str,
    private: bool = False,
    encoding: str | None = None,
) -> Response:
    """Returns content that never changes at its address, with an ETag, 304 and ranges.

    Args:
      request: The request, with its conditions and ranges.
      data: The content, in `encoding`.
      etag: The entity tag.
      content_type: The media type.
      private: Whether shared caches must not store it.
      encoding: Content encoding of `data`, if any. Ranges count encoded bytes (RFC 9110 §14.2).
    """
    response = Response(_pieces(data), content_type=content_type, direct_passthrough=True)
    response.content_length = len(data)
    if encoding is not None:
        response.content_encoding = encoding
    _mark_immutable(response, etag=etag, private=private)
    response.make_conditional(request.environ, accept_ranges=True, complete_length=len(data))
    return response


def encoded_response(
    request: Request, read: Callable[[Sequence[str]], EncodedCopy], *, sha256: str, content_type: str
) -> Response:
    """Returns immutable content in an encoding that the client accepts.

    Each encoding has its own strong ETag (RFC 9110 §8.8.3.3), since ranges of two encodings can't
    be combined.

    Args:
      request: The request.
      read: Returns the content in the first available of some encodings. Not called if the client
        already has it.
      sha256: Hash of the content, which must exist.
      content_type: The media type.
    """
    encodings = accepted(request)
    tags = [sha256, *(f"{sha256}-{encoding}" for encoding in encodings)]
    cached_tag = next((tag for tag in tags if request.if_none_match.contains_weak(tag)), None)
    if cached_tag is not None:
        response = Response(status=HTTPStatus.NOT_MODIFIED)
        _mark_immutable(response, etag=cached_tag)
    else:
        copy = read(encodings)
        etag = sha256 if copy.encoding is None else f"{sha256}-{copy.encoding}"
        response = immutable_response(request, copy.data, etag=etag, content_type=content_type, encoding=copy.encoding)
    response.vary.add("Accept-Encoding")
    return response


def _mark_immutable(response: Response, *, etag: str, private: bool = False) -> None:
    response.set_etag(etag)
    response.headers["Cache-Control"] = f"{'private' if private else 'public'}, {_IMMUTABLE}"


def _pieces(data: memoryview) -> Iterator[bytes]:
    for start in range(0, len(data), _PIECE_SIZE):
        yield bytes(data[start : start + _PIECE_SIZE])
