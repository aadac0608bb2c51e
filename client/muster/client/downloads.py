"""One download over as many requests as it takes: encoded where the coordinator has it so, and from where the last one broke off.

Ranges are of the encoded bytes (RFC 9110 §14.2), and `If-Range` with the ETag sees to it that the rest is of the same ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Optional

import requests

from muster.wire.encodings import IDENTITY, EncodingError, available, decoded
from muster.wire.problems import ProblemError, ProblemType

from .body import PIECE
from .failures import UnreachableError

PROGRESS = 1 << 17  # bytes; so much more is worth another round of attempts
_PARTIAL = 206


class Receiving:
    """What has come of a download.

    Args:
      url: What it is called in errors.
      limit: The most bytes that there may be, encoded and decoded. None: any number, so nothing is decoded, which might not end.
    """

    def __init__(self, url: str, *, limit: Optional[int]) -> None:
        self._url = url
        self._limit = limit
        self._content = bytearray()
        self._encoding = IDENTITY
        self._tag: Optional[str] = None

    @property
    def size(self) -> int:
        """How many bytes have come, as they are sent."""
        return len(self._content)

    def headers(self) -> dict[str, str]:
        """What the next request asks for."""
        if self._content and self._tag is not None:
            # Just the encoding that has begun: another one would start anew.
            return {"Accept-Encoding": self._encoding, "Range": f"bytes={self.size}-", "If-Range": self._tag}
        return {"Accept-Encoding": IDENTITY if self._limit is None else ", ".join(available())}

    def read(self, response: requests.Response) -> bytes:
        """Takes a response to the end, and gives the whole.

        Raises:
          UnreachableError: the connection broke; what has come is kept.
          ProblemError: `too_large`, or `internal` for what is no answer to what was asked.
        """
        self._begin(response)
        expected = response.headers.get("Content-Length", "")
        end = self.size + int(expected) if expected.isdecimal() else None
        # Undecoded, past requests, whose decoder knows no bound and starts anew with each response.
        for piece in response.raw.stream(PIECE, decode_content=False):
            self._content += piece
            self._check(self.size)
        if end is not None and self.size < end:
            raise UnreachableError(self._url, f"the connection broke after {self.size} of {end} bytes")
        return self._whole()

    def _begin(self, response: requests.Response) -> None:
        encoding = response.headers.get("Content-Encoding", IDENTITY).strip().lower()
        tag = response.headers.get("ETag")
        if response.status_code == _PARTIAL:
            found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != self.size or encoding != self._encoding or tag != self._tag:
                self._content.clear()
                self._tag = None  # and so the next request asks for the whole
                raise UnreachableError(self._url, "it answered with another part than the one that was missing")
            return
        self._content.clear()
        if encoding != IDENTITY and (self._limit is None or encoding not in available()):
            raise ProblemError(
                ProblemType.INTERNAL, f"{self._url} came with the encoding {encoding[:50]!r}, which was not asked for"
            )
        self._encoding = encoding
        # A weak tag does not tell one sequence of bytes from another (RFC 9110 §13.1.5).
        self._tag = None if tag is None or tag.startswith("W/") else tag

    def _check(self, size: int) -> None:
        if self._limit is not None and size > self._limit:
            raise ProblemError(
                ProblemType.TOO_LARGE, f"{self._url} is longer than the {self._limit} bytes that were announced"
            )

    def _whole(self) -> bytes:
        if self._encoding == IDENTITY:
            return bytes(self._content)
        whole = bytearray()
        try:
            for piece in _pieces(self._content, self._encoding):
                whole += piece
                self._check(len(whole))
        except EncodingError as error:
            self._content.clear()
            raise ProblemError(ProblemType.INTERNAL, f"{self._url} can't be decoded: {error}") from error
        return bytes(whole)


def _pieces(content: bytearray, encoding: str) -> Iterator[bytes]:
    view, at = memoryview(content), 0

    def read(size: int) -> bytes:
        nonlocal at
        start, at = at, at + size
        return bytes(view[start:at])

    inner = decoded(read, encoding)
    try:
        while piece := inner(PIECE):
            yield piece
    finally:
        view.release()
