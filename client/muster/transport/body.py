"""An update as the body of a request: as it is, or encoded where that pays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Optional, Protocol

from muster.wire.encodings import compressed
from muster.wire.tensors import encode_chunks

PIECE = 1 << 17  # bytes; a socket's time-out holds for each piece, so a slow line still gets a large body through


class Body(Protocol):
    """What a request sends: has a length, gives pieces, as often as it is asked, and may have a content encoding."""

    @property
    def encoding(self) -> Optional[str]:
        """The content encoding; None: none."""

    def __len__(self) -> int:
        """Bytes of the whole; requests makes the Content-Length of it."""

    def __iter__(self) -> Iterator[memoryview]: ...


class TensorBody:
    """Named tensors as a request's body: views of their memory, which may be sent more than once.

    Args:
      tensors: Arrays by name, as `muster.wire.tensors.encode` takes them; they must not change while this is in use.
    """

    encoding: Optional[str] = None

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        self._chunks = [memoryview(chunk) for chunk in encode_chunks(tensors)]
        self._size = sum(chunk.nbytes for chunk in self._chunks)
        self._shorter: dict[tuple[str, ...], Body] = {}

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

    def encoded(self, encodings: Iterable[str]) -> Body:
        """The same in the first of `encodings` that this installation knows and that saves enough, else itself.

        Found out once: a repeat sends the same bytes.
        """
        wanted = tuple(encodings)
        if wanted not in self._shorter:
            found = compressed(self._chunks, wanted, fast=True)
            self._shorter[wanted] = self if found is None else _EncodedBody(found[1], found[0])
        return self._shorter[wanted]


class _EncodedBody:
    """An encoded body, in memory."""

    def __init__(self, data: bytes, encoding: str) -> None:
        self._data = memoryview(data)
        self.encoding: Optional[str] = encoding

    def __len__(self) -> int:
        return self._data.nbytes

    def __iter__(self) -> Iterator[memoryview]:
        return (self._data[at : at + PIECE] for at in range(0, self._data.nbytes, PIECE))
