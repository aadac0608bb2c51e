"""Encoded, interrupted and cached transfers of a client."""

from __future__ import annotations

import gzip
import io
import os
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from support.double import Double, Worker, drop_after, problem
from support.served import Loopback
from support.zstd import zstd

from muster.client import Contributed, MusterClient, TensorBody, Transport, UnreachableError
from muster.client.cache import BROADCAST, PLAN, DownloadCache
from muster.transport import downloads
from muster.wire import encodings
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import decode, encode

FILE = np.random.default_rng(0).integers(0, 16, 3_000_000, dtype=np.uint8).tobytes()
ENCODED = {"identity": FILE, "zstd": zstd.compress(FILE), "gzip": gzip.compress(FILE, 1)}


class Breaking(Loopback):
    """Server of `files` by encoding; its answers break after the numbers of bytes in `breaks`."""

    def __init__(self, files: dict[str, bytes], *breaks: int, tags: Callable[[int], str] = lambda _: '"a"') -> None:
        self.requests: list[dict[str, str]] = []
        left, server = list(breaks), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                headers = dict(self.headers.items())
                tag = tags(len(server.requests))
                server.requests.append(headers)
                accepted = [name.strip() for name in headers["Accept-Encoding"].split(",")]
                encoding = next(name for name in [*accepted, "identity"] if name in files)
                start, end, whole = 0, "", files[encoding]
                partial = "Range" in headers and headers.get("If-Range", tag) == tag
                if partial:
                    first, end = headers["Range"].removeprefix("bytes=").split("-")
                    start = int(first)
                data = whole[start : int(end) + 1 if end else None]
                self.send_response(206 if partial else 200)
                if partial:
                    self.send_header("Content-Range", f"bytes {start}-{start + len(data) - 1}/{len(whole)}")
                if encoding != "identity":
                    self.send_header("Content-Encoding", encoding)
                self.send_header("ETag", tag)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                at = left.pop(0) if left else len(data)
                self.wfile.write(data[:at])
                self.close_connection = at < len(data)

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(ThreadingHTTPServer(("127.0.0.1", 0), Handler))


def fetch(server: Breaking, *, limit: int | None = len(FILE)) -> bytes:
    with server, Transport(server.url) as transport:
        return transport.download("/file", limit=limit)


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize("encoding", ENCODED)
def test_broken_download_resumes(encoding):
    server = Breaking({encoding: ENCODED[encoding]}, 300_000, 5, 200_000)
    assert fetch(server) == FILE
    assert [headers.get("Range") for headers in server.requests] == [
        None,
        "bytes=300000-",
        "bytes=300005-",
        "bytes=500005-",
    ]
    assert {headers["Accept-Encoding"] for headers in server.requests[1:]} == {encoding}


@pytest.mark.usefixtures("no_waits")
def test_download_is_retried_while_it_makes_progress():
    server = Breaking({"identity": FILE}, *[200_000] * 14)
    assert fetch(server) == FILE
    with pytest.raises(UnreachableError):
        fetch(Breaking({"identity": FILE}, *[1000] * 14))


@pytest.mark.usefixtures("no_waits")
def test_download_restarts_without_a_matching_strong_etag():
    assert fetch(Breaking({"identity": FILE}, 300_000, tags=lambda number: f'"{number}"')) == FILE
    weak = Breaking({"identity": FILE}, 300_000, tags=lambda _: 'W/"a"')
    assert fetch(weak) == FILE
    assert "Range" not in weak.requests[1]


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize("encoding", ["identity", "zstd"])
def test_large_download_uses_ranges_each_of_which_may_break(encoding, monkeypatch):
    monkeypatch.setattr(downloads, "RANGE_BYTES", 1_000_000)
    server = Breaking({encoding: ENCODED[encoding]}, 1_000_000, 300_000)
    assert fetch(server) == FILE
    ranges = [headers["Range"] for headers in server.requests]
    assert ranges[:3] == ["bytes=0-999999", "bytes=1000000-1999999", "bytes=1300000-2299999"]
    assert len(ranges) == {"identity": 4, "zstd": 3}[encoding]
    assert {headers["Accept-Encoding"] for headers in server.requests[1:]} == {encoding}
    assert [headers.get("If-Range") for headers in server.requests[:2]] == [None, '"a"']


@pytest.mark.usefixtures("no_waits")
def test_range_without_a_limit_fits_a_cloud_function():
    server = Breaking({"identity": FILE})
    assert fetch(server, limit=None) == FILE
    assert [headers["Range"] for headers in server.requests] == ["bytes=0-31457279"]


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize("tags", [lambda number: f'"{number}"', lambda _: 'W/"a"'], ids=["changing", "weak"])
def test_whole_file_is_requested_without_a_usable_etag(tags, monkeypatch):
    monkeypatch.setattr(downloads, "RANGE_BYTES", 1_000_000)
    server = Breaking({"identity": FILE}, tags=tags)
    assert fetch(server) == FILE
    assert server.requests[-1].get("Range") is None or server.requests[-1]["If-Range"] != tags(len(server.requests) - 1)


@pytest.mark.parametrize("encoding", ["zstd", "gzip"])
def test_decompression_bomb_is_refused_at_the_announced_size(encoding):
    with pytest.raises(ProblemError, match="announced") as refused:
        fetch(Breaking({encoding: ENCODED[encoding]}), limit=len(FILE) - 1)
    assert refused.value.type is ProblemType.TOO_LARGE


def test_no_encoding_is_accepted_without_a_limit():
    server = Breaking(ENCODED)
    assert fetch(server, limit=None) == FILE
    assert server.requests[0]["Accept-Encoding"] == "identity"


def test_wrongly_declared_encoding_is_refused():
    with pytest.raises(ProblemError, match="can't be decoded"):
        fetch(Breaking({"gzip": FILE[:5000]}))


@pytest.fixture
def without_zstd(monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(encodings, "_zstd", lambda: None)
    encodings.available.cache_clear()
    yield
    monkeypatch.undo()
    encodings.available.cache_clear()


@pytest.mark.usefixtures("without_zstd")
def test_client_without_zstd_accepts_gzip():
    server = Breaking(ENCODED)
    assert fetch(server) == FILE
    assert server.requests[0]["Accept-Encoding"] == "gzip"
    assert TensorBody({"a": np.zeros(10_000)}).encoded(["zstd", "gzip"]).encoding == "gzip"


@pytest.mark.parametrize(
    ("tensor", "offered", "encoding"),
    [
        (np.zeros(100_000, np.float32), ["zstd", "gzip"], "zstd"),
        (np.zeros(100_000, np.float32), ["gzip"], "gzip"),
        (np.zeros(100_000, np.float32), [], None),
        (np.zeros(100_000, np.float32), ["br"], None),
        (np.zeros(100, np.float32), ["zstd"], None),
        (np.random.default_rng(0).normal(size=100_000).astype(np.float32), ["zstd", "gzip"], None),
        (np.frombuffer(np.random.default_rng(0).bytes(400_000), np.uint8), ["zstd", "gzip"], None),
    ],
)
def test_update_is_encoded_if_accepted_and_smaller(tensor, offered, encoding):
    body = TensorBody({"tensor": tensor})
    sent = body.encoded(offered)
    assert sent.encoding == encoding
    whole = b"".join(sent)
    assert len(whole) == len(sent)
    if encoding is not None:
        read = encodings.decoding_reader(io.BytesIO(whole).read, encoding)
        assert b"".join(iter(lambda: read(1 << 20), b"")) == encode({"tensor": tensor})
        assert list(body.encoded(offered)) == list(sent)
    else:
        assert sent is body


class Wide(Worker):
    def work(self, data: Any, broadcast: Any) -> dict[str, Any]:
        return {**super().work(data, broadcast), "wide": np.zeros(50_000)}


def client(double: Double, **more: Any) -> MusterClient:
    return MusterClient(
        double.url, "devices", lambda: {"id": 3}, client_id="me", **{"runtime_factory": lambda _: Worker(), **more}
    )


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize("fault", [None, drop_after, problem(ProblemType.ENCODING_NOT_SUPPORTED)])
def test_refused_encoding_falls_back_to_identity(double, fault):
    double.assignment = {"update_encodings": ("zstd", "gzip"), "max_update_bytes": 1_000_000}
    if fault is not None:
        double.faults["PUT /v1/updates"] = [fault]
    with client(double, runtime_factory=lambda _: Wide()) as muster_client:
        assert isinstance(muster_client.run_once(), Contributed)
    (body,) = double.uploads.values()
    refused = fault is not None and fault is not drop_after
    if not refused:
        assert len(body) < 10_000
        body = zstd.decompress(body)
    assert decode(body)["wide"].shape == (50_000,)


def test_cached_files_are_not_fetched_again_after_a_restart(double, tmp_path):
    for _ in range(3):
        with client(double, cache=tmp_path) as muster_client:
            assert isinstance(muster_client.run_once(), Contributed)
    gets = {route: number for route, number in double.requests.items() if route.startswith("GET")}
    assert set(gets.values()) == {1}
    assert len(gets) == 2


def test_damaged_cache_file_is_fetched_again_and_replaced(double, tmp_path):
    with client(double, cache=tmp_path) as muster_client:
        muster_client.run_once()
    files = {file: file.read_bytes() for file in tmp_path.iterdir()}
    for file in files:
        file.write_bytes(b"damaged")
    with client(double, cache=tmp_path) as muster_client:
        assert isinstance(muster_client.run_once(), Contributed)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == files


def test_cache_holds_the_last_broadcasts_within_its_bounds(tmp_path):
    cache = DownloadCache(tmp_path, max_bytes=1000)
    names = [sha256(bytes([number])).hexdigest() for number in range(9)]
    cache.put("plan", PLAN, bytes(10))
    for number, name in enumerate(names):
        cache.put(name, BROADCAST, bytes(10))
        os.utime(tmp_path / f"{name}.broadcast", (number, number))
    assert {file.name for file in tmp_path.iterdir()} == {"plan.plan", *(f"{name}.broadcast" for name in names[-4:])}
    cache.put("large", BROADCAST, bytes(985))
    assert {file.name for file in tmp_path.iterdir()} == {"plan.plan", "large.broadcast", f"{names[-1]}.broadcast"}
    cache.put("too large", BROADCAST, bytes(1001))
    assert cache.get("too large", BROADCAST) is None


def test_shared_cache_shows_no_incomplete_file(tmp_path):
    whole, seen, start = bytes(1_000_000), [], threading.Barrier(8)

    def use() -> None:
        cache = DownloadCache(tmp_path)
        start.wait()
        for _ in range(20):
            cache.put("one", BROADCAST, whole)
            seen.append(cache.get("one", BROADCAST))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [whole] * 160
    assert [file.name for file in tmp_path.iterdir()] == ["one.broadcast"]


def test_unusable_cache_only_costs_downloads(double, tmp_path):
    (tmp_path / "file").write_bytes(b"no folder")
    for _ in range(2):
        with client(double, cache=tmp_path / "file") as muster_client:
            assert isinstance(muster_client.run_once(), Contributed)
