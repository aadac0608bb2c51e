"""One download over as many requests as it takes: encoded where the coordinator has it so, and from where the last one ended.

A large one is asked for in parts, since a function of Google's answers with 32 MB at most (https://cloud.google.com/functions/quotas).
Ranges are of the encoded bytes (RFC 9110 §14.2), and `If-Range` with the ETag sees to it that the rest is of the same ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Optional

import requests

from muster.transport.body import PIECE
from muster.transport.failures import UnreachableError, is_page, media_type, not_ours
from muster.wire.encodings import IDENTITY, EncodingError, available, decoded
from muster.wire.problems import ProblemError, ProblemType

PROGRESS = 1 << 17  # bytes; so much more is worth another round of attempts
PART = 30 << 20  # bytes that one request asks for
_PARTIAL = 206
_MESSAGES = ("application/json", "application/problem+json")


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
        self._in_parts = limit is None or limit > PART

    @property
    def size(self) -> int:
        """How many bytes have come, as they are sent."""
        return len(self._content)

    def headers(self) -> dict[str, str]:
        """What the next request asks for."""
        end = self.size + PART - 1 if self._in_parts else ""
        if self._content and self._tag is not None:
            # Just the encoding that has begun: another one would start anew.
            return {"Accept-Encoding": self._encoding, "Range": f"bytes={self.size}-{end}", "If-Range": self._tag}
        accepted = {"Accept-Encoding": IDENTITY if self._limit is None else ", ".join(available())}
        return {**accepted, "Range": f"bytes=0-{end}"} if self._in_parts else accepted

    def read(self, response: requests.Response) -> Optional[bytes]:
        """Reads a response to its end. Returns the whole file, or None if further parts must be requested.

        Raises:
          UnreachableError: the connection broke, or another part arrived; usable bytes are retained.
          ForeignAnswerError: a page or a message arrived in place of the file.
          ProblemError: `too_large`, or `internal` if the response does not match the request.
        """
        if is_page(response.headers) or (self._limit is not None and media_type(response.headers) in _MESSAGES):
            raise not_ours(response, "it is not a file")
        end, total = self._begin(response)
        # Undecoded, past requests, whose decoder knows no bound and starts anew with each response.
        for piece in response.raw.stream(PIECE, decode_content=False):
            self._content += piece
            self._check(self.size)
        if end is not None and self.size < end:
            raise UnreachableError(self._url, f"the connection broke after {self.size} of {end} bytes")
        return self._whole() if total is None or self.size >= total else None

    def _begin(self, response: requests.Response) -> tuple[Optional[int], Optional[int]]:
        """Checks that the response goes on where the last one ended, or starts anew.

        Gives the number of bytes that are there at its end, where it says so, and of the whole, where it is a part.
        """
        encoding = response.headers.get("Content-Encoding", IDENTITY).strip().lower()
        tag = response.headers.get("ETag")
        if response.status_code == _PARTIAL:
            found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
            if not self._content and found is not None and found[1] == "0":
                self._start(encoding, tag)
            # A part without a strong tag is of no use: nothing says that the next one is of the same bytes.
            missing = found is not None and int(found[1]) == self.size <= int(found[2])
            if found is None or not missing or encoding != self._encoding or self._tag is None or tag != self._tag:
                self._content.clear()
                self._tag, self._in_parts = None, False  # and so the next request asks for the whole
                raise UnreachableError(self._url, "it answered with another part than the one that was missing")
            return int(found[2]) + 1, int(found[3])
        self._start(encoding, tag)
        expected = response.headers.get("Content-Length", "")
        return int(expected) if expected.isdecimal() else None, None

    def _start(self, encoding: str, tag: Optional[str]) -> None:
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
