"""Content encodings (RFC 9110 §8.4.1): `zstd` (RFC 8878, with the window of RFC 9659) and `gzip`; made whole, read in bounded pieces.

Hashes and sizes in messages are always of the bytes before they are encoded. gzip is in every Python; zstd is where the package
`zstandard` is installed, or Python is 3.14 or newer.
"""

from __future__ import annotations

import gzip
import importlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, BinaryIO, Callable, Optional, Union, cast

Buffer = Union[bytes, bytearray, memoryview]
Read = Callable[[int], bytes]

IDENTITY = "identity"
ZSTD = "zstd"
GZIP = "gzip"
ENCODINGS = (ZSTD, GZIP)
LEAST = 4096  # bytes; of a smaller body the headers of a request are the larger part
_SAMPLE = 1 << 18  # bytes at the start of a body that tell for all of it
_WINDOW = 8 << 20  # bytes that a decoder of zstd may be made to hold (RFC 9659 §3)
_GZIP_WINDOW = 16 + 15  # zlib's number for a gzip header and the largest window
_BLOCK = 1 << 20  # bytes given to a compressor at a time
# The saving, as a part of the whole, from which an encoding is worth its time. Of dense float32 weights 7 % can be saved: worth it for
# what zstd makes once and many download, not for an update, nor for gzip at 40 MB/s. docs/decisions/0022-encodings.md.
_WORTH = 0.15
_WORTH_FOR_MANY = 0.05


class EncodingError(ValueError):
    """Bytes are not what their encoding says."""


@lru_cache(maxsize=1)
def available() -> tuple[str, ...]:
    """The encodings that this installation can write and read, the best one first."""
    return (GZIP,) if _zstandard() is None and _standard_zstd() is None else ENCODINGS


def compress(chunks: Iterable[Buffer], encoding: str, *, fast: bool = False) -> bytes:
    """Chunks as one encoded body, in memory.

    Args:
      chunks: The bytes.
      encoding: One of `available`.
      fast: Spends less time: for what is sent once.
    """
    compressor = _compressor(encoding, fast=fast)
    pieces: list[bytes] = []
    for chunk in chunks:
        view = memoryview(chunk)
        view = view.cast("B") if view.nbytes else view
        pieces += (compressor.compress(view[at : at + _BLOCK]) for at in range(0, view.nbytes, _BLOCK))
    pieces.append(compressor.flush())
    return b"".join(pieces)


def compressed(
    chunks: Sequence[Buffer], encodings: Iterable[str], *, fast: bool = False
) -> Optional[tuple[str, bytes]]:
    """The body in the first of `encodings` that is worth it, or None.

    A sample tells whether the rest is tried, so that what does not compress costs a millisecond.

    Args:
      chunks: The body.
      encodings: The encodings to try, in this order; those that are not `available` are passed over.
      fast: As for `compress`: less time, and more to be saved for it.
    """
    size = sum(memoryview(chunk).nbytes for chunk in chunks)
    if size < LEAST:
        return None
    for encoding in encodings:
        if encoding not in available():
            continue
        most = 1.0 - (_WORTH_FOR_MANY if encoding == ZSTD and not fast else _WORTH)
        sample = list(_start(chunks, _SAMPLE))
        if len(compress(sample, encoding, fast=True)) > most * sum(map(len, sample)):
            continue
        data = compress(chunks, encoding, fast=fast)
        if len(data) <= most * size:
            return encoding, data
    return None


def decoded(read: Read, encoding: str) -> Read:
    """Reads what an encoded body holds; memory of a few blocks and zstd's window, whatever it comes to.

    Args:
      read: Reads up to so many bytes of the encoded body; b"" at its end. What it raises passes through.
      encoding: One of `available`.

    Returns:
      Reads up to so many bytes of the body; b"" at its end, also where the encoded body ended too early. It raises
      `EncodingError` if the bytes are not `encoding`.
    """
    source = cast("BinaryIO", _Source(read))
    reader: Any
    errors: tuple[type[Exception], ...]
    zstandard, standard = _zstandard(), _standard_zstd()
    if encoding == GZIP:
        reader, errors = gzip.GzipFile(fileobj=source, mode="rb"), (gzip.BadGzipFile, zlib.error)
    elif encoding == ZSTD and zstandard is not None:
        reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW).stream_reader(source, read_across_frames=True)
        errors = (zstandard.ZstdError,)
    elif encoding == ZSTD and standard is not None:
        bound = {standard.DecompressionParameter.window_log_max: _WINDOW.bit_length() - 1}
        reader, errors = standard.ZstdFile(source, options=bound), (standard.ZstdError,)
    else:
        raise ValueError(f"there is no encoding {encoding!r} here")

    def read_decoded(size: int) -> bytes:
        try:
            return bytes(reader.read(size))
        except EOFError:
            return b""
        except errors as error:
            raise EncodingError(f"it is not {encoding}") from error  # the error itself may quote the body

    return read_decoded


class _Source:
    """A function that reads, as a file."""

    def __init__(self, read: Read) -> None:
        self._read = read

    def read(self, size: int = -1) -> bytes:
        return self._read(size if size > 0 else _BLOCK)


def _start(chunks: Iterable[Buffer], size: int) -> Iterator[memoryview]:
    for chunk in chunks:
        view = memoryview(chunk)
        if view.nbytes and size:
            view = view.cast("B")[:size]
            size -= view.nbytes
            yield view


def _compressor(encoding: str, *, fast: bool) -> Any:
    zstandard, standard = _zstandard(), _standard_zstd()
    if encoding == GZIP:
        return zlib.compressobj(1 if fast else 6, zlib.DEFLATED, _GZIP_WINDOW)
    if encoding == ZSTD and zstandard is not None:
        return zstandard.ZstdCompressor(level=1 if fast else 3, write_checksum=True).compressobj()
    if encoding == ZSTD and standard is not None:
        return standard.ZstdCompressor(level=1 if fast else 3)
    raise ValueError(f"there is no encoding {encoding!r} here")


@lru_cache(maxsize=1)
def _zstandard() -> Any:
    return _module("zstandard")


@lru_cache(maxsize=1)
def _standard_zstd() -> Any:
    return _module("compression.zstd")


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
