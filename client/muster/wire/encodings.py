"""Content encodings of bodies (RFC 9110 §8.4.1): `zstd` (RFC 8878, RFC 9659) and `gzip`.

Bodies are encoded in memory and decoded as a stream in bounded memory. Hashes and sizes in messages
are of the bytes before encoding. gzip is available in every Python. zstd needs Python 3.14 or the
package `backports.zstd`, which has the same interface.
"""

from __future__ import annotations

import contextlib
import importlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Callable, Optional, Union

Buffer = Union[bytes, bytearray, memoryview]
Read = Callable[[int], bytes]

IDENTITY = "identity"
ZSTD = "zstd"
GZIP = "gzip"
ENCODINGS = (ZSTD, GZIP)
MIN_ENCODED_BYTES = 4096  # smaller bodies are sent as they are: their headers are larger
_SAMPLE_BYTES = 1 << 18  # at the start of a body, to estimate how well it compresses
_MAX_WINDOW_LOG = 23  # log2 of a zstd decoder's window in bytes: 8 MiB (RFC 9659 §3)
_GZIP_START = 0x1F  # first byte of each member
_GZIP_WINDOW = 16 + 15  # zlib's number for a gzip header and the largest window
_BLOCK = 1 << 20  # bytes passed to a compressor in one call
_READ = 1 << 16  # bytes of one read from a gzip body
_MAX_FRAMES = 10_000  # in one body; an encoder starts one at most every few megabytes
_LEVELS = {GZIP: (6, 1), ZSTD: (3, 1)}  # compression levels: by default, and fast
_ZSTD_MAGIC, _SKIPPABLE_MAGIC, _MAGIC_BYTES = 0xFD2FB528, 0x184D2A50, 4
# Least saving, as a fraction of the size, for which an encoding is used. Dense float32 weights save
# 7 %: enough for a zstd body that is encoded once and downloaded by many clients, too little for an
# update, and for gzip at 40 MB/s (docs/decisions/0022-encodings.md).
_MIN_SAVING = 0.15
_MIN_SHARED_SAVING = 0.05


class EncodingError(ValueError):
    """Error raised when bytes are not valid in their encoding."""


class TruncatedError(EncodingError):
    """Error raised when encoded bytes end within a frame or its checksum."""

    def __init__(self, encoding: str) -> None:
        super().__init__(f"its {encoding} data are incomplete")


@lru_cache(maxsize=1)
def available() -> tuple[str, ...]:
    """Returns the encodings that this installation supports, in order of preference."""
    return (GZIP,) if _zstd() is None else ENCODINGS


def compress(chunks: Iterable[Buffer], encoding: str, *, fast: bool = False) -> bytes:
    """Encodes chunks as one body, in memory.

    Args:
      chunks: Bytes of the body, in pieces of any size.
      encoding: One of `available`.
      fast: Whether to use the fastest level, for a body that is sent once.

    Raises:
      ValueError: this installation does not support `encoding`.
    """
    compressor = _compressor(encoding, fast=fast)
    pieces: list[bytes] = []
    for chunk in chunks:
        view = memoryview(chunk)
        view = view.cast("B") if view.nbytes else view
        pieces += (compressor.compress(view[at : at + _BLOCK]) for at in range(0, view.nbytes, _BLOCK))
    pieces.append(compressor.flush())
    return b"".join(pieces)


def compress_if_smaller(
    chunks: Sequence[Buffer], encodings: Iterable[str], *, fast: bool = False
) -> Optional[tuple[str, bytes]]:
    """Encodes a body in the first encoding that saves enough, if any does.

    A sample is encoded first, so that a body that does not compress costs about a millisecond.

    Args:
      chunks: Bytes of the body, in pieces of any size.
      encodings: Encodings to try, in order. Those that are not `available` are skipped.
      fast: Whether to use the fastest level, for a body that is sent once. It must save more.

    Returns:
      The encoding and the encoded body; None if no encoding saves enough.
    """
    size = sum(memoryview(chunk).nbytes for chunk in chunks)
    if size < MIN_ENCODED_BYTES:
        return None
    for encoding in encodings:
        if encoding not in available():
            continue
        max_fraction = 1.0 - (_MIN_SHARED_SAVING if encoding == ZSTD and not fast else _MIN_SAVING)
        sample = list(_start(chunks, _SAMPLE_BYTES))
        if len(compress(sample, encoding, fast=True)) > max_fraction * sum(map(len, sample)):
            continue
        data = compress(chunks, encoding, fast=fast)
        if len(data) <= max_fraction * size:
            return encoding, data
    return None


def decoding_reader(read: Read, encoding: str) -> Read:
    """Decodes a body as a stream, in memory of a few blocks and zstd's window.

    The body must consist of complete frames (gzip: members) and nothing else. Their checksums are
    verified.

    Args:
      read: Reads up to the given number of bytes of the encoded body; returns b"" at its end. Its
        exceptions propagate.
      encoding: One of `available`.

    Returns:
      A function that reads up to the given number of bytes of the decoded body. It returns b"" once
      the encoded body is read to its end and complete. It raises `EncodingError` for bytes that are
      not valid, and `TruncatedError` for a body that ends early.

    Raises:
      ValueError: this installation does not support `encoding`.
    """
    if encoding == GZIP:
        return _GzipReader(read).read
    if encoding == ZSTD and ZSTD in available():
        return _zstd_reader(read)
    raise _unsupported(encoding)


class _GzipReader:
    """Reader of the members of a gzip body (RFC 1952)."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._member: Any = None
        self._members = 0
        self._pending = b""  # encoded bytes that are not decoded yet

    def read(self, size: int) -> bytes:
        """Reads up to `size` bytes of the decoded body; see `decoded`."""
        while size > 0 and (self._pending or self._fill()):
            if self._member is None:
                self._members += 1
                _check_frames(self._members)
                if self._pending[0] != _GZIP_START:  # zlib reports it at the second byte only
                    raise EncodingError(f"it is not {GZIP}")
                self._member = zlib.decompressobj(_GZIP_WINDOW)
            try:
                data: bytes = self._member.decompress(self._pending, size)
            except zlib.error as error:
                raise EncodingError(f"it is not {GZIP}") from error
            if self._member.eof:  # zlib has verified its checksum and size
                self._member, self._pending = None, self._member.unused_data
            else:
                self._pending = self._member.unconsumed_tail
            if data:
                return data
        return b""

    def _fill(self) -> bool:
        self._pending = self._read(_READ)
        if not self._pending and (self._member is not None or not self._members):
            raise TruncatedError(GZIP)
        return bool(self._pending)


def _zstd_reader(read: Read) -> Read:
    zstd = _zstd()
    frames = ZstdFrames()

    def read_checked(size: int) -> bytes:
        piece = read(size)
        frames.feed(piece)
        if not piece and not frames.complete:
            raise TruncatedError(ZSTD)
        return piece

    options = {zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG}
    reader = zstd.ZstdFile(_ReadableFile(read_checked), options=options)

    def read_decoded(size: int) -> bytes:
        try:
            return bytes(reader.read(size))
        except EOFError as error:
            raise TruncatedError(ZSTD) from error
        except zstd.ZstdError as error:
            raise EncodingError(f"it is not {ZSTD}") from error  # the error itself may quote the body

    return read_decoded


class ZstdFrames:
    """Parser of the frames of a zstd stream (RFC 8878 §3.1); decoders accept an incomplete one.

    Blocks are skipped by their declared sizes. The decoder verifies them and the checksums.
    """

    def __init__(self) -> None:
        self._frames = 0
        self._skip = 0  # bytes to skip before the next field
        self._needed = _MAGIC_BYTES  # bytes of that field
        self._field = b""  # its bytes that have arrived
        self._parse: Callable[[bytes], None] = self._begin
        self._checksum = False

    @property
    def complete(self) -> bool:
        """True if at least one frame was read, and the last one to its end."""
        return bool(self._frames) and not self._skip and not self._field and self._parse == self._begin

    def feed(self, data: bytes) -> None:
        """Parses the next bytes.

        Raises:
          EncodingError: the bytes where a frame should start are not a frame's.
        """
        at = 0
        while at < len(data):
            if self._skip:
                passed = min(self._skip, len(data) - at)
                self._skip -= passed
                at += passed
                continue
            piece = data[at : at + self._needed - len(self._field)]
            self._field += piece
            at += len(piece)
            if len(self._field) == self._needed:
                field, self._field = self._field, b""
                self._parse(field)

    def _expect(self, needed: int, parse: Callable[[bytes], None], *, skip: int = 0) -> None:
        self._needed, self._parse, self._skip = needed, parse, skip

    def _begin(self, magic: bytes) -> None:
        number = int.from_bytes(magic, "little")
        self._frames += 1
        _check_frames(self._frames)
        if number == _ZSTD_MAGIC:
            self._expect(1, self._describe)
        elif number & ~0xF == _SKIPPABLE_MAGIC:
            self._expect(4, self._skip_frame)
        else:
            raise EncodingError(f"it is not {ZSTD}")

    def _skip_frame(self, size: bytes) -> None:
        self._expect(_MAGIC_BYTES, self._begin, skip=int.from_bytes(size, "little"))

    def _describe(self, descriptor: bytes) -> None:
        flags = descriptor[0]
        single = bool(flags & 0x20)
        self._checksum = bool(flags & 0x04)
        window, dictionary = (0 if single else 1), (0, 1, 2, 4)[flags & 3]
        content = (1 if single else 0, 2, 4, 8)[flags >> 6]
        self._expect(3, self._pass_block, skip=window + dictionary + content)

    def _pass_block(self, header: bytes) -> None:
        number = int.from_bytes(header, "little")
        last, run, size = number & 1, (number >> 1) & 3 == 1, number >> 3
        skip = 1 if run else size
        if last:
            self._expect(_MAGIC_BYTES, self._begin, skip=skip + (4 if self._checksum else 0))
        else:
            self._expect(3, self._pass_block, skip=skip)


def _check_frames(count: int) -> None:
    """Raises `EncodingError` for so many frames that their overhead would occupy a reader."""
    if count > _MAX_FRAMES:
        raise EncodingError(f"it has more than {_MAX_FRAMES} frames")


class _ReadableFile:
    """File whose contents a function reads."""

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
    if encoding not in available():
        raise _unsupported(encoding)
    level = _LEVELS[encoding][fast]
    if encoding == GZIP:
        return zlib.compressobj(level, zlib.DEFLATED, _GZIP_WINDOW)
    parameter = _zstd().CompressionParameter
    return _zstd().ZstdCompressor(options={parameter.compression_level: level, parameter.checksum_flag: True})


def _unsupported(encoding: str) -> ValueError:
    return ValueError(f"encoding {encoding!r} is not supported here; available: {', '.join(available())}")


@lru_cache(maxsize=1)
def _zstd() -> Any:
    """Returns the module of zstd (the interface of Python 3.14), or None."""
    for name in ("compression.zstd", "backports.zstd"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    return None
