"""An update as the body of a request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from muster.wire.tensors import encode_chunks

PIECE = 1 << 17  # bytes; a socket's time-out holds for each piece, so a slow line still gets a large body through


class TensorBody:
    """Named tensors as a request's body: views of their memory, which may be sent more than once.

    Args:
      tensors: Arrays by name, as `muster.wire.tensors.encode` takes them; they must not change while this is in use.
    """

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        self._chunks = [memoryview(chunk) for chunk in encode_chunks(tensors)]
        self._size = sum(chunk.nbytes for chunk in self._chunks)

    def __len__(self) -> int:
        """Bytes of the whole; requests makes the Content-Length of it."""
        return self._size

    def __iter__(self) -> Iterator[memoryview]:
        return self.rest(0)

    def rest(self, offset: int) -> Iterator[memoryview]:
        """The bytes from `offset` on, piece by piece."""
        for chunk in self._chunks:
            for at in range(min(offset, chunk.nbytes), chunk.nbytes, PIECE):
                yield chunk[at : at + PIECE]
            offset = max(0, offset - chunk.nbytes)
