"""Content encodings of requests and answers (RFC 9110 §8.4, §12.5.3): what a client takes, and what it has sent."""

from __future__ import annotations

from werkzeug.wrappers import Request

from muster.wire import encodings
from muster.wire.problems import ProblemError, ProblemType

_ALIASES = {"x-gzip": encodings.GZIP}  # RFC 9110 §8.4.1.3


def accepted(request: Request) -> tuple[str, ...]:
    """The encodings that the client would rather have than none, the best one first.

    Empty for a client that does not say what it takes. One that takes nothing that there is gets the bytes as they are, which
    RFC 9110 §12.5.3 allows and which helps it more than a refusal.
    """
    if "Accept-Encoding" not in request.headers:
        return ()
    said = {name.lower(): quality for name, quality in request.accept_encodings}
    every = said.get("*")
    # Left unsaid, identity is taken, and is the last resort.
    plain = said.get(encodings.IDENTITY, 0.0)
    weights = {name: said.get(name, every or 0.0) for name in encodings.available()}
    for alias, name in _ALIASES.items():
        if name in weights and name not in said and alias in said:
            weights[name] = said[alias]
    wanted = [name for name, weight in weights.items() if weight > 0 and weight >= plain]
    return tuple(sorted(wanted, key=lambda name: -weights[name]))


def of_body(request: Request) -> str | None:
    """The encoding of the request's body; None: none.

    Raises:
      ProblemError: `encoding_not_supported`, for one that is not known here, and for several on top of each other.
    """
    said = request.headers.get("Content-Encoding", "").strip().lower()
    name = _ALIASES.get(said, said)
    if name in ("", encodings.IDENTITY):
        return None
    if name not in encodings.available():
        detail = (
            f"The body's Content-Encoding is {said[:50]!r}; here it may be {', '.join(encodings.available())} or none"
        )
        raise ProblemError(ProblemType.ENCODING_NOT_SUPPORTED, detail)
    return name
