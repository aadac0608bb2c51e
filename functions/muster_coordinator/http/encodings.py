"""Negotiates content encodings (RFC 9110 §8.4, §12.5.3)."""

from __future__ import annotations

from werkzeug.wrappers import Request

from muster.wire import encodings
from muster.wire.problems import ProblemError, ProblemType

_ALIASES = {"x-gzip": encodings.GZIP}  # RFC 9110 §8.4.1.3


def accepted(request: Request) -> tuple[str, ...]:
    """Returns the encodings that the client prefers to none, the preferred one first.

    Empty without an `Accept-Encoding` header. A client that accepts no available encoding gets the
    bytes unencoded, which RFC 9110 §12.5.3 allows and which helps it more than a refusal.
    """
    if "Accept-Encoding" not in request.headers:
        return ()
    qualities = {name.lower(): quality for name, quality in request.accept_encodings}
    wildcard = qualities.get("*")
    # Not listed, `identity` is acceptable as the last resort.
    identity = qualities.get(encodings.IDENTITY, 0.0)
    weights = {name: qualities.get(name, wildcard or 0.0) for name in encodings.available()}
    for alias, name in _ALIASES.items():
        if name in weights and name not in qualities and alias in qualities:
            weights[name] = qualities[alias]
    preferred = [name for name, weight in weights.items() if weight > 0 and weight >= identity]
    return tuple(sorted(preferred, key=lambda name: -weights[name]))


def body_encoding(request: Request) -> str | None:
    """Returns the content encoding of the request's body, or None if it is not encoded.

    Raises:
      ProblemError: `encoding_not_supported`, for an unknown encoding or several of them.
    """
    header = request.headers.get("Content-Encoding", "").strip().lower()
    name = _ALIASES.get(header, header)
    if name in ("", encodings.IDENTITY):
        return None
    if name not in encodings.available():
        supported = ", ".join(encodings.available())
        detail = f"The body's Content-Encoding is {header[:50]!r}; this route supports {supported} or none"
        raise ProblemError(ProblemType.ENCODING_NOT_SUPPORTED, detail)
    return name
