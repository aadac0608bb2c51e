"""Request bodies: tensors as views of their memory, plain or with a content encoding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Optional, Protocol

from muster.wire.encodings import compress_if_smaller
from muster.wire.tensors import encode_chunks

# A socket's time-out applies to each chunk, so that a slow connection can send a large body.
CHUNK_BYTES = 1 << 17  # bytes


class Body(Protocol):
    """Body of a request: sized, iterable more than once, with an optional content encoding."""

    @property
    def encoding(self) -> Optional[str]:
        """Returns the content encoding, or None."""

    def __len__(self) -> int:
        """Returns the size in bytes, which becomes the Content-Length."""

    def __iter__(self) -> Iterator[memoryview]: ...


class TensorBody:
    """Body with named tensors as a safetensors file. Views the arrays' memory without a copy.

    Args:
      tensors: Arrays by name, as `muster.wire.tensors.encode` accepts them. They must not change
        while the body is in use.
    """

    encoding: Optional[str] = None

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        self._chunks = [memoryview(chunk) for chunk in encode_chunks(tensors)]
        self._size = sum(chunk.nbytes for chunk in self._chunks)
        self._encoded: dict[tuple[str, ...], Body] = {}

    def __len__(self) -> int:
        """Returns the size in bytes, which becomes the Content-Length."""
        return self._size

    def __iter__(self) -> Iterator[memoryview]:
        return self.rest(0)

    def rest(self, offset: int) -> Iterator[memoryview]:
        """Yields the bytes from `offset` on, in chunks."""
        for chunk in self._chunks:
            for at in range(min(offset, chunk.nbytes), chunk.nbytes, CHUNK_BYTES):
                yield chunk[at : at + CHUNK_BYTES]
            offset = max(0, offset - chunk.nbytes)

    def encoded(self, encodings: Iterable[str]) -> Body:
        """Returns this body in the first usable one of `encodings`, or itself if none saves enough.

        The result is cached, so that a retry sends the same bytes.
        """
        preferred = tuple(encodings)
        if preferred not in self._encoded:
            result = compress_if_smaller(self._chunks, preferred, fast=True)
            self._encoded[preferred] = self if result is None else _EncodedBody(result[1], result[0])
        return self._encoded[preferred]


class _EncodedBody:
    """Body with a content encoding, in memory."""

    def __init__(self, data: bytes, encoding: str) -> None:
        self._data = memoryview(data)
        self.encoding: Optional[str] = encoding

    def __len__(self) -> int:
        return self._data.nbytes

    def __iter__(self) -> Iterator[memoryview]:
        return (self._data[at : at + CHUNK_BYTES] for at in range(0, self._data.nbytes, CHUNK_BYTES))
