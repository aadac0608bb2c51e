"""Encoded bodies: complete frames with valid checksums, decoded in bounded memory."""

from __future__ import annotations

import gzip
import io
import random
import struct
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.zstd import zstd as zstd_module

from muster.wire.encodings import EncodingError, TruncatedError, available, compress, decoding_reader

CompressionParameter = zstd_module.CompressionParameter
NO_CHECKSUM = {CompressionParameter.checksum_flag: False}
NO_SIZE = {CompressionParameter.content_size_flag: False}
TEXT = bytes(random.Random(0).choices(b"abcd", k=3000)) + bytes(200_000)  # noqa: S311  no secret


def zstd(data, options=()):
    return zstd_module.compress(data, options={CompressionParameter.checksum_flag: True, **dict(options)})


def skippable(data):
    return b"\x5f\x2a\x4d\x18" + len(data).to_bytes(4, "little") + data


def gzip_with_all_fields(data):
    """Returns a gzip member with every optional field of its header, and its checksum."""
    head = b"\x1f\x8b\x08\x1e" + bytes(6) + struct.pack("<H", 4) + b"abcd" + b"a name\0" + b"a comment\0"
    head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    body = zlib.compressobj(wbits=-15)
    return head + body.compress(data) + body.flush() + struct.pack("<II", zlib.crc32(data), len(data))


WHOLE = {
    "gzip": gzip.compress(TEXT),
    "gzip, empty": gzip.compress(b""),
    "gzip, stored": gzip.compress(TEXT[:5000], 0),
    "gzip, fields": gzip_with_all_fields(TEXT[:5000]),
    "gzip, two": gzip.compress(b"one") + gzip.compress(b"two"),
    "zstd": zstd(TEXT),
    "zstd, empty": zstd(b""),
    "zstd, streamed": compress([TEXT], "zstd"),  # no size in the frame
    "zstd, no checksum": zstd(TEXT[:5000], NO_CHECKSUM),
    "zstd, no size": zstd(TEXT[:5000], NO_SIZE),
    "zstd, raw": zstd(bytes(random.Random(1).randbytes(5000))),  # noqa: S311  no secret
    "zstd, one block a run": zstd(bytes(400_000)),
    "zstd, two": zstd(b"one") + zstd(b"two", NO_CHECKSUM),
    "zstd, skippable": skippable(b"x" * 300) + zstd(TEXT[:100]) + skippable(b""),
}


def encoding_of(name):
    return name.partition(",")[0]


def read_all(data, encoding, *, size=1 << 16, piece=1 << 20):
    source = io.BytesIO(data)
    read, chunks = decoding_reader(lambda requested: source.read(min(requested, piece)), encoding), []
    while chunk := read(size):
        assert len(chunk) <= size
        chunks.append(chunk)
    assert read(1) == b""
    return b"".join(chunks)


def plain(name):
    data = WHOLE[name]
    if encoding_of(name) == "gzip":
        return gzip.decompress(data)
    return zstd_module.decompress(data)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize(("size", "piece"), [(1 << 16, 1 << 20), (1000, 1), (7, 13)])
def test_complete_bodies_are_decoded_in_any_pieces(name, size, piece):
    assert read_all(WHOLE[name], encoding_of(name), size=size, piece=piece) == plain(name)


@pytest.mark.parametrize("name", WHOLE)
def test_body_cut_anywhere_is_truncated(name):
    data = WHOLE[name]
    cuts = {*range(min(len(data), 64)), *range(max(0, len(data) - 64), len(data)), *range(0, len(data), 997)}
    ends = {len(gzip.compress(b"one")), len(zstd(b"one"))} if "two" in name else set()
    if "skippable" in name:
        ends = {308, 308 + len(zstd(TEXT[:100]))}
    for at in cuts - ends:
        with pytest.raises(TruncatedError):
            read_all(data[:at], encoding_of(name))


@pytest.mark.parametrize("name", WHOLE)
def test_trailing_bytes_are_refused(name):
    encoding = encoding_of(name)
    other = WHOLE[encoding]
    for more in (
        b"\0",
        b"x",
        bytes(100),
        b"and more",
        other[:1],
        other[:3],
        other[:10],
        other[: len(other) // 2],
        other[:-1],
    ):
        for piece in (1, 1 << 20):
            with pytest.raises(EncodingError):
                read_all(WHOLE[name] + more, encoding, piece=piece)


@pytest.mark.parametrize(
    "name", [name for name in WHOLE if "no checksum" not in name and "two" not in name and "skip" not in name]
)
def test_wrong_checksum_is_refused(name):
    data = WHOLE[name]
    size = 8 if encoding_of(name) == "gzip" else 4
    for at in range(len(data) - size, len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(EncodingError) as refused:
            read_all(bytes(changed), encoding_of(name))
        assert not isinstance(refused.value, TruncatedError)


@pytest.mark.parametrize("encoding", available())
@pytest.mark.parametrize("data", [b"", b"\0", b"no such encoding", bytes(1000)])
def test_unencoded_bytes_are_refused(encoding, data):
    with pytest.raises(EncodingError):
        read_all(data, encoding)


@pytest.mark.parametrize("encoding", available())
def test_endless_empty_frames_are_refused_early(encoding):
    frame = gzip.compress(b"") if encoding == "gzip" else skippable(b"")
    taken = 0

    def read(size):
        nonlocal taken
        taken += size
        return (frame * (size // len(frame) + 1))[: size - size % len(frame)]

    with pytest.raises(EncodingError, match="more than"):
        decoding_reader(read, encoding)(1)
    assert taken < 2 << 20


@pytest.mark.slow
@pytest.mark.parametrize("encoding", available())
def test_bomb_is_decoded_in_bounded_memory(encoding):
    bomb = compress([bytes(256 << 20)], encoding)
    read = decoding_reader(io.BytesIO(bomb).read, encoding)
    tracemalloc.start()
    try:
        for _ in range(64):
            assert len(read(1 << 17)) <= 1 << 17
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_exceptions_of_the_source_propagate():
    class SourceError(Exception):
        pass

    def read(_):
        raise SourceError

    for encoding in available():
        with pytest.raises(SourceError):
            decoding_reader(read, encoding)(10)


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(sorted(WHOLE)), data=st.data())
def test_changed_body_is_refused_or_decodes_the_same(name, data):
    whole = bytearray(WHOLE[name])
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    try:
        contents = read_all(bytes(whole), encoding_of(name))
    except EncodingError:
        return
    if "no checksum" not in name and "two" not in name:
        assert contents == plain(name)  # the change was in a field without contents, such as a name
