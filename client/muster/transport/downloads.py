"""Downloads one file over several requests, and resumes after a broken connection.

Large files are requested in ranges, since a Cloud Function answers with 32 MB at most
(https://cloud.google.com/functions/quotas). A range counts the encoded bytes (RFC 9110 §14.2), and
`If-Range` with the ETag guarantees that all ranges belong to the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Optional

import requests

from muster.transport.body import CHUNK_BYTES
from muster.transport.failures import UnreachableError, foreign_answer, is_page, media_type
from muster.wire.encodings import IDENTITY, EncodingError, available, decoding_reader
from muster.wire.problems import ProblemError, ProblemType

MIN_PROGRESS = 1 << 17  # bytes after which a broken download may be resumed again
RANGE_BYTES = 30 << 20  # bytes of one request
_PARTIAL = 206
_MESSAGES = ("application/json", "application/problem+json")


class DownloadBuffer:
    """Bytes of one download, collected over several responses.

    Args:
      url: The address, for error texts.
      limit: The most bytes to accept, encoded and decoded. None: no limit, and no encoding, because
        decoded data could be endless.
    """

    def __init__(self, url: str, *, limit: Optional[int]) -> None:
        self._url = url
        self._limit = limit
        self._content = bytearray()
        self._encoding = IDENTITY
        self._tag: Optional[str] = None
        self._use_ranges = limit is None or limit > RANGE_BYTES

    @property
    def size(self) -> int:
        """Returns the number of bytes received so far, before decoding."""
        return len(self._content)

    def headers(self) -> dict[str, str]:
        """Returns the headers of the next request."""
        end = self.size + RANGE_BYTES - 1 if self._use_ranges else ""
        if self._content and self._tag is not None:
            # Only the encoding of the bytes so far: another one would start over.
            return {"Accept-Encoding": self._encoding, "Range": f"bytes={self.size}-{end}", "If-Range": self._tag}
        accepted = {"Accept-Encoding": IDENTITY if self._limit is None else ", ".join(available())}
        return {**accepted, "Range": f"bytes=0-{end}"} if self._use_ranges else accepted

    def read(self, response: requests.Response) -> Optional[bytes]:
        """Reads a response to its end. Returns the file, or None if a further range is missing.

        Raises:
          UnreachableError: the connection broke, or the wrong range arrived; usable bytes are
            retained.
          ForeignAnswerError: a web page or a message arrived instead of the file.
          ProblemError: `too_large`, or `internal` if the response does not match the request.
        """
        if is_page(response.headers) or (self._limit is not None and media_type(response.headers) in _MESSAGES):
            raise foreign_answer(response, "a file was requested")
        end, total = self._begin(response)
        # Not decoded by `requests`, whose decoder has no size limit and starts over with each
        # response.
        for piece in response.raw.stream(CHUNK_BYTES, decode_content=False):
            self._content += piece
            self._check(self.size)
        if end is not None and self.size < end:
            raise UnreachableError(self._url, f"the connection broke after {self.size} of {end} bytes")
        return self._whole() if total is None or self.size >= total else None

    def _begin(self, response: requests.Response) -> tuple[Optional[int], Optional[int]]:
        """Checks that the response continues the bytes so far, or starts over.

        Returns:
          The number of bytes after this response, and the size of the file if the response is a
          range; None where the response does not state it.
        """
        encoding = response.headers.get("Content-Encoding", IDENTITY).strip().lower()
        tag = response.headers.get("ETag")
        if response.status_code == _PARTIAL:
            span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
            if not self._content and span is not None and span[1] == "0":
                self._start(encoding, tag)
            # Without a strong tag, the next range may belong to other bytes.
            is_next = span is not None and int(span[1]) == self.size <= int(span[2])
            if span is None or not is_next or encoding != self._encoding or self._tag is None or tag != self._tag:
                self._content.clear()
                self._tag, self._use_ranges = None, False  # the next request asks for the whole file
                raise UnreachableError(self._url, "it answered with the wrong range of the file")
            return int(span[2]) + 1, int(span[3])
        self._start(encoding, tag)
        expected = response.headers.get("Content-Length", "")
        return int(expected) if expected.isdecimal() else None, None

    def _start(self, encoding: str, tag: Optional[str]) -> None:
        self._content.clear()
        if encoding != IDENTITY and (self._limit is None or encoding not in available()):
            raise ProblemError(
                ProblemType.INTERNAL, f"{self._url} has the encoding {encoding[:50]!r}, which was not requested"
            )
        self._encoding = encoding
        # A weak tag does not identify a sequence of bytes (RFC 9110 §13.1.5).
        self._tag = None if tag is None or tag.startswith("W/") else tag

    def _check(self, size: int) -> None:
        if self._limit is not None and size > self._limit:
            raise ProblemError(
                ProblemType.TOO_LARGE, f"{self._url} is larger than the {self._limit} bytes that were announced"
            )

    def _whole(self) -> bytes:
        if self._encoding == IDENTITY:
            return bytes(self._content)
        whole = bytearray()
        try:
            for piece in _decoded_chunks(self._content, self._encoding):
                whole += piece
                self._check(len(whole))
        except EncodingError as error:
            self._content.clear()
            raise ProblemError(ProblemType.INTERNAL, f"{self._url} can't be decoded: {error}") from error
        return bytes(whole)


def _decoded_chunks(content: bytearray, encoding: str) -> Iterator[bytes]:
    view, at = memoryview(content), 0

    def read(size: int) -> bytes:
        nonlocal at
        start, at = at, at + size
        return bytes(view[start:at])

    inner = decoding_reader(read, encoding)
    try:
        while piece := inner(CHUNK_BYTES):
            yield piece
    finally:
        view.release()
