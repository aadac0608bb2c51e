"""Session of `requests` that counts bytes of bodies on the wire: encoded, and with repeats."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import requests
from requests.adapters import HTTPAdapter


class _Pieces:
    """A body of chunks, each of which is counted when it is read."""

    def __init__(self, body: Any, counter: _Counter) -> None:
        self._body = body
        self._counter = counter

    def __len__(self) -> int:
        return len(self._body)

    def __iter__(self) -> Iterator[Any]:
        for piece in self._body:
            self._counter.up += memoryview(piece).nbytes
            yield piece


class _Counter(HTTPAdapter):
    def __init__(self) -> None:
        super().__init__()
        self.up = 0
        self.down = 0
        self._last: Any = None

    def send(self, request: requests.PreparedRequest, *arguments: Any, **options: Any) -> requests.Response:
        """Sends a request; see `HTTPAdapter.send`."""
        self.settle()
        if isinstance(request.body, bytes | str):
            self.up += len(request.body)
        elif request.body is not None:
            request.body = _Pieces(request.body, self)  # type: ignore[assignment]
        response = super().send(request, *arguments, **options)
        self._last = response.raw
        return response

    def settle(self) -> None:
        """Counts the last response, which is read to its end."""
        if self._last is not None:
            self.down += self._last.tell()  # bytes that arrived over the wire, whatever they were decoded to
            self._last = None


class CountedSession(requests.Session):
    """Session that counts bodies of one request after another, without headers."""

    def __init__(self) -> None:
        super().__init__()
        self._counter = _Counter()
        self.mount("http://", self._counter)

    def taken(self) -> tuple[int, int]:
        """Returns bytes received and sent since the last call."""
        self._counter.settle()
        counts = self._counter.down, self._counter.up
        self._counter.down = self._counter.up = 0
        return counts
