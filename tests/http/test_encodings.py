"""Content encodings of downloads and uploads (RFC 9110)."""

from __future__ import annotations

import gzip
import hashlib
import io
import tracemalloc

import numpy as np
import pytest
from support.harness import Harness, problem_of
from support.plans import SumRuntime, make_plan, sum_plan, sum_update
from support.zstd import zstd

from muster.wire.dtypes import DType
from muster.wire.manifest import TensorSpec
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import encode
from muster_coordinator.domain.updates import decoded_update, rules_for, validated
from muster_coordinator.state.plan_repository import PlanRepository

ENCODERS = {"zstd": zstd.compress, "gzip": gzip.compress}
DECODERS = {"zstd": zstd.decompress, "gzip": gzip.decompress, None: bytes}
SIZE = 100_000


class WideRuntime(SumRuntime):
    """Runtime whose broadcast is compressible or incompressible."""

    def __init__(self, extra) -> None:
        super().__init__()
        self.extra = extra

    def prepare(self, state, **limit):
        return {**super().prepare(state, **limit), "extra": self.extra}


def begun(tmp_path, *, extra=None) -> Harness:
    extra = np.arange(SIZE, dtype=np.int32) if extra is None else extra
    h = Harness(tmp_path, plan=sum_plan(), runtime=WideRuntime(extra))
    h.begin(rounds=3, goal=1)
    return h


@pytest.mark.parametrize(
    ("accepts", "encoding"),
    [
        (None, None),
        ("", None),
        ("identity", None),
        ("br", None),
        ("gzip, deflate", "gzip"),
        ("x-gzip", "gzip"),
        ("GZIP;q=0.5", "gzip"),
        ("gzip, zstd", "zstd"),
        ("*", "zstd"),
        ("zstd;q=0, *", "gzip"),
        ("zstd;q=0.5, gzip", "gzip"),
        ("zstd;q=0.5, identity", None),
        ("identity;q=0, br", None),
    ],
)
def test_broadcast_is_served_in_the_accepted_encoding(tmp_path, accepts, encoding):
    h = begun(tmp_path)
    announced = h.assigned(0).broadcast
    response = h.call("GET", announced.url, headers={} if accepts is None else {"Accept-Encoding": accepts})
    assert response.headers.get("Content-Encoding") == encoding
    assert response.vary.as_set() == {"accept-encoding"}
    assert response.get_etag() == (announced.sha256 + (f"-{encoding}" if encoding else ""), False)
    assert hashlib.sha256(DECODERS[encoding](response.data)).hexdigest() == announced.sha256
    assert announced.size == len(DECODERS[encoding](response.data))


def test_ranges_and_etags_belong_to_the_encoding(tmp_path):
    h = begun(tmp_path)
    url, accept = h.assigned(0).broadcast.url, {"Accept-Encoding": "zstd"}
    whole = h.call("GET", url, headers=accept)
    tag = whole.headers["ETag"]
    rest = h.call("GET", url, headers={**accept, "Range": "bytes=100-", "If-Range": tag})
    assert (rest.status_code, rest.data) == (206, whole.data[100:])
    assert rest.headers["Content-Encoding"] == "zstd"
    other = h.call("GET", url, headers={"Range": "bytes=100-", "If-Range": tag})
    assert other.status_code == 200
    assert h.call("GET", url, headers={**accept, "If-None-Match": tag}).status_code == 304
    assert h.call("GET", url, headers={"If-None-Match": tag}).status_code == 200


def test_incompressible_content_is_not_stored_encoded(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8)
    h = begun(tmp_path, extra=noise)
    assert [name for name in h.blobs("broadcasts/") if "." in name] == []
    response = h.call("GET", h.assigned(0).broadcast.url, headers={"Accept-Encoding": "zstd, gzip"})
    assert "Content-Encoding" not in response.headers


def test_dense_floats_are_stored_in_the_faster_encoding(tmp_path):
    h = begun(tmp_path, extra=np.random.default_rng(0).normal(size=SIZE).astype(np.float32))
    copies = [name.partition(".")[2] for name in h.blobs("broadcasts/") if "." in name]
    assert copies == ["zstd"]


def test_encoded_broadcasts_are_deleted_with_their_rounds(tmp_path):
    h = begun(tmp_path)
    for number in range(3):
        stored = h.blobs("broadcasts/")
        plain = [name for name in stored if "." not in name]
        assert plain
        assert sorted(stored) == sorted(name + end for name in plain for end in ("", ".gzip", ".zstd"))
        h.upload(h.assigned(number).token, sum_update(number))
        h.settle()
    assert h.blobs("broadcasts/") == []


def test_plan_is_served_encoded_and_unencoded(tmp_path):
    specs = tuple(TensorSpec(path=f"tensor/{index}", dtype=DType.FLOAT32, shape=(1,)) for index in range(300))
    zero = {spec.path: np.zeros(1, np.float32) for spec in specs}
    h = Harness(tmp_path, plan=make_plan("wide", state=zero, update=specs, zero=zero))
    h.put_plan()
    url = f"/v1/plans/{h.plan.sha256}"
    plain = h.ask("GET", url)
    assert plain == h.plan.for_client().encode()
    for encoding in ENCODERS:
        response = h.call("GET", url, headers={"Accept-Encoding": encoding})
        assert response.headers["Content-Encoding"] == encoding
        assert DECODERS[encoding](response.data) == plain
        assert len(response.data) < len(plain) / 4


@pytest.mark.parametrize("encoding", ENCODERS)
def test_encoded_update_is_counted_once(tmp_path, encoding):
    h = Harness(tmp_path)
    h.begin(rounds=1, goal=2)
    for client in (0, 0, 3):
        assignment = h.assigned(client) if client or not h.blobs("updates/") else assignment  # noqa: F821
        assert encoding in assignment.update_encodings
        body = ENCODERS[encoding](encode(sum_update(client)))
        h.ask("PUT", "/v1/updates", body=body, token=assignment.token, headers={"Content-Encoding": encoding})
    h.settle()
    assert int(h.result(1)["ids"]) == 0b1001


GZIPPED = gzip.compress(encode(sum_update(0)))
ZSTD = zstd.compress(encode(sum_update(0)), options={zstd.CompressionParameter.checksum_flag: True})


@pytest.mark.parametrize(
    ("encoding", "body", "kind"),
    [
        ("br", b"x", ProblemType.ENCODING_NOT_SUPPORTED),
        ("gzip, zstd", b"x", ProblemType.ENCODING_NOT_SUPPORTED),
        ("gzip", b"no gzip at all", ProblemType.UPDATE_INVALID),
        ("zstd", b"no zstd at all", ProblemType.UPDATE_INVALID),
        ("gzip", gzip.compress(encode(sum_update(0)))[:-30], ProblemType.UPDATE_TRUNCATED),
        ("zstd", ENCODERS["zstd"](encode(sum_update(0)))[:-30], ProblemType.UPDATE_TRUNCATED),
        ("zstd", ENCODERS["zstd"](encode(sum_update(0))) + b"and more", ProblemType.UPDATE_INVALID),
        ("zstd", ENCODERS["zstd"](encode(sum_update(0)) + b"x"), ProblemType.UPDATE_INVALID),
        ("gzip", gzip.compress(encode(sum_update(0)) + b"x"), ProblemType.UPDATE_INVALID),
        ("gzip", GZIPPED[:-8], ProblemType.UPDATE_TRUNCATED),
        ("gzip", GZIPPED[:-6], ProblemType.UPDATE_TRUNCATED),
        ("gzip", GZIPPED[:-1], ProblemType.UPDATE_TRUNCATED),
        ("gzip", GZIPPED[:-8] + b"\0" * 8, ProblemType.UPDATE_INVALID),
        ("gzip", GZIPPED + GZIPPED[:9], ProblemType.UPDATE_TRUNCATED),
        ("gzip", GZIPPED + b"x", ProblemType.UPDATE_INVALID),
        ("gzip", GZIPPED + gzip.compress(b"x"), ProblemType.UPDATE_INVALID),
        ("gzip", b"", ProblemType.UPDATE_TRUNCATED),
        ("zstd", ZSTD[:-4], ProblemType.UPDATE_TRUNCATED),
        ("zstd", ZSTD[:-2], ProblemType.UPDATE_TRUNCATED),
        ("zstd", ZSTD[:-1] + bytes([ZSTD[-1] ^ 1]), ProblemType.UPDATE_INVALID),
        ("zstd", ZSTD + ZSTD[:3], ProblemType.UPDATE_TRUNCATED),
        ("zstd", ZSTD + ZSTD[:-1], ProblemType.UPDATE_INVALID),
        ("zstd", b"", ProblemType.UPDATE_TRUNCATED),
        ("gzip", gzip.compress(b"") * 10_000, ProblemType.TOO_LARGE),
        ("zstd", b"\x50\x2a\x4d\x18\x00\x00\x00\x00" * 10_000, ProblemType.TOO_LARGE),
    ],
    ids=[
        *(
            "unknown",
            "twice",
            "no-gzip",
            "no-zstd",
            "short-gzip",
            "short-zstd",
            "trailing",
            "longer-zstd",
            "longer-gzip",
        ),
        *("gzip-no-checksum", "gzip-half-checksum", "gzip-size-cut", "gzip-zero-checksum", "gzip-part-of-another"),
        *("gzip-byte-more", "gzip-member-more", "gzip-empty"),
        *(
            "zstd-no-checksum",
            "zstd-half-checksum",
            "zstd-wrong-checksum",
            "zstd-part-of-a-magic",
            "zstd-part-of-another",
        ),
        "zstd-empty",
        *("empty-gzips", "empty-zstds"),
    ],
)
def test_invalid_encoded_update_is_refused_without_trace(tmp_path, encoding, body, kind):
    h = Harness(tmp_path)
    h.begin(rounds=1, goal=1)
    token = h.assigned(0).token
    response = h.call("PUT", "/v1/updates", body=body, token=token, headers={"Content-Encoding": encoding})
    assert problem_of(response).type is kind
    if kind is ProblemType.ENCODING_NOT_SUPPORTED:
        assert (response.status_code, response.headers["Accept-Encoding"]) == (415, "zstd, gzip")
    assert h.blobs("updates/") == []


@pytest.mark.parametrize("encoding", ENCODERS)
@pytest.mark.parametrize("chunked", [False, True])
def test_decompression_bomb_stops_at_the_limit(encoding, chunked):
    rules = rules_for(sum_plan().manifest, allow_non_finite=False)
    bomb = io.BytesIO(ENCODERS[encoding](encode(sum_update(0)) + bytes(64 << 20)))
    if len(bomb.getvalue()) > rules.max_bytes:  # crafted to pass the first check
        rules = type(rules)(rules.specs, rules.ranges, len(bomb.getvalue()), rules.allow_non_finite)
    tracemalloc.start()
    try:
        read = decoded_update(bomb.read, rules, encoding=encoding, length=None if chunked else len(bomb.getvalue()))
        with pytest.raises(ProblemError) as refused:
            list(validated(read, rules, length=None))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused.value.type is ProblemType.UPDATE_INVALID
    assert peak < 4 << 20


def test_missing_encoded_copies_are_looked_up_once(tmp_path):
    h = begun(tmp_path, extra=np.zeros(1, np.uint8))
    plans = PlanRepository(h.inner.blobs)
    with pytest.raises(ProblemError):
        plans.for_client("0" * 64, accepted=["br"])
    assert plans._encoded._absent.entries() == {}
    plans.for_client(h.plan.sha256, accepted=["br"])
    assert len(plans._encoded._absent) == 1
