"""Content encodings (RFC 9110 §8.4.1): `zstd` (RFC 8878, with the window of RFC 9659) and `gzip`; made whole, read in bounded pieces.

Hashes and sizes in messages are always of the bytes before they are encoded. gzip is in every Python; zstd is where the package
`zstandard` is installed, or Python is 3.14 or newer.
"""

from __future__ import annotations

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
_GZIP_START = 0x1F  # the first byte of each member
_GZIP_WINDOW = 16 + 15  # zlib's number for a gzip header and the largest window
_BLOCK = 1 << 20  # bytes given to a compressor at a time
_READ = 1 << 16  # bytes of one read from a gzip body
_MAX_FRAMES = 10_000  # in one body; an encoder starts one at most every few megabytes
_ZSTD_MAGIC, _SKIPPABLE_MAGIC, _MAGIC_BYTES = 0xFD2FB528, 0x184D2A50, 4
# The saving, as a part of the whole, from which an encoding is worth its time. Of dense float32 weights 7 % can be saved: worth it for
# what zstd makes once and many download, not for an update, nor for gzip at 40 MB/s. docs/decisions/0022-encodings.md.
_WORTH = 0.15
_WORTH_FOR_MANY = 0.05


class EncodingError(ValueError):
    """Bytes are not what their encoding says."""


class TruncatedError(EncodingError):
    """Error raised when encoded bytes end within a frame or its checksum."""

    def __init__(self, encoding: str) -> None:
        super().__init__(f"its {encoding} is not whole")


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
    """Decodes an encoded body as a stream, in memory of a few blocks and zstd's window.

    The body must consist of whole frames (gzip: members), one after another. Their checksums are verified.

    Args:
      read: Reads up to the given number of bytes of the encoded body; b"" at its end. Its exceptions pass through.
      encoding: One of `available`.

    Returns:
      A function that reads up to the given number of bytes of the body; b"" at its end, once all of the encoded body is
      read and complete. It raises `EncodingError` if the bytes are not `encoding`, and `TruncatedError` if they end
      early.
    """
    if encoding == GZIP:
        return _GzipReader(read).read
    if encoding == ZSTD and ZSTD in available():
        return _zstd_reader(read)
    raise ValueError(f"there is no encoding {encoding!r} here")


class _GzipReader:
    """Reader of the members of a gzip body (RFC 1952)."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._member: Any = None
        self._members = 0
        self._pending = b""  # read, not yet decoded

    def read(self, size: int) -> bytes:
        """See `decoded`."""
        while size > 0 and (self._pending or self._fill()):
            if self._member is None:
                self._members += 1
                _check_frames(self._members)
                if self._pending[0] != _GZIP_START:  # zlib waits for a second byte before it refuses
                    raise EncodingError(f"it is not {GZIP}")
                self._member = zlib.decompressobj(_GZIP_WINDOW)
            try:
                data: bytes = self._member.decompress(self._pending, size)
            except zlib.error as error:
                raise EncodingError(f"it is not {GZIP}") from error
            if self._member.eof:  # its checksum and size have been verified
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
    frames = ZstdFrames()

    def followed(size: int) -> bytes:
        piece = read(size)
        frames.feed(piece)
        if not piece and not frames.whole:
            raise TruncatedError(ZSTD)
        return piece

    source = cast("BinaryIO", _Source(followed))
    reader: Any
    zstandard, standard = _zstandard(), _standard_zstd()
    if zstandard is not None:
        reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW).stream_reader(source, read_across_frames=True)
        error_type = zstandard.ZstdError
    else:
        bound = {standard.DecompressionParameter.window_log_max: _WINDOW.bit_length() - 1}
        reader, error_type = standard.ZstdFile(source, options=bound), standard.ZstdError

    def read_decoded(size: int) -> bytes:
        try:
            return bytes(reader.read(size))
        except EOFError as error:
            raise TruncatedError(ZSTD) from error
        except error_type as error:
            raise EncodingError(f"it is not {ZSTD}") from error  # the error itself may quote the body

    return read_decoded


class ZstdFrames:
    """Parser of the frames of a zstd stream (RFC 8878 §3.1), since decoders do not report an unfinished one.

    Blocks are skipped by their declared sizes; the decoder verifies them and the checksums.
    """

    def __init__(self) -> None:
        self._frames = 0
        self._skip = 0  # bytes to skip before the next part
        self._needed = _MAGIC_BYTES  # bytes of that part
        self._part = b""
        self._next: Callable[[bytes], None] = self._begin
        self._checksum = False

    @property
    def whole(self) -> bool:
        """Returns whether at least one frame was read, and the last one to its end."""
        return bool(self._frames) and not self._skip and not self._part and self._next == self._begin

    def feed(self, data: bytes) -> None:
        """Parses the next bytes. Raises `EncodingError` if a frame should begin and none does."""
        at = 0
        while at < len(data):
            if self._skip:
                passed = min(self._skip, len(data) - at)
                self._skip -= passed
                at += passed
                continue
            taken = data[at : at + self._needed - len(self._part)]
            self._part += taken
            at += len(taken)
            if len(self._part) == self._needed:
                part, self._part = self._part, b""
                self._next(part)

    def _expect(self, needed: int, then: Callable[[bytes], None], *, skip: int = 0) -> None:
        self._needed, self._next, self._skip = needed, then, skip

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
    """Raises `EncodingError` for too many frames, whose overhead alone would occupy a reader."""
    if count > _MAX_FRAMES:
        raise EncodingError(f"it has more than {_MAX_FRAMES} frames")


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
