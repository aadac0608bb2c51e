"""Direct uploads: limits of the upload, counting, and invalid updates in the fold."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from support import cloud, direct
from support.bucket import ACCOUNT, AccountCredentials, Bucket, checksum
from support.harness import Harness
from support.plans import every_dtype_plan, every_dtype_update, sum_update

from muster.wire.messages import DirectUpload, Receipt, Report, UploadStart
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import encode
from muster_coordinator.adapters.directory import DirectoryBlobs
from muster_coordinator.adapters.gcs_uploads import GcsDirectUploads, IamSigner
from muster_coordinator.domain import names

P = ProblemType


class Deployment(Harness):
    """Coordinator whose clients reach its bucket directly."""

    def __init__(self, root, bucket, *, resumable_above=1 << 30, **more):
        with cloud.environment(STORAGE_EMULATOR_HOST=bucket.url):
            signer = IamSigner(credentials=AccountCredentials(), endpoint=bucket.url)
            direct = GcsDirectUploads("bucket", signer=signer, resumable_above=resumable_above, patience=2.0)
        super().__init__(root, wrap=lambda platform: replace(platform, direct=direct), direct_above=100, **more)

    def start(self, token, body):
        wanted = UploadStart(size=len(body), crc32c=checksum(body))
        return DirectUpload.decode(self.ask("POST", "/v1/updates:start", body=wanted.encode(), token=token))

    def uploaded(self, token):
        body = Report(outcome="uploaded").encode()
        return Receipt.decode(self.ask("POST", "/v1/updates:report", body=body, token=token))

    def bring(self, client, body):
        """Performs a complete direct upload."""
        token = self.assigned(client).token
        assert put(self.start(token, body), body) == 200
        return self.uploaded(token)


@pytest.fixture
def bucket(tmp_path):
    with Bucket(DirectoryBlobs(tmp_path / "blobs")) as bucket:
        yield bucket


@pytest.fixture
def h(tmp_path, bucket):
    h = Deployment(tmp_path, bucket)
    h.begin(goal=3, chunk=2)
    return h


def put(grant, body, **headers):
    return direct.request(
        grant.method, grant.url, data=body, headers={**grant.headers, **headers}, timeout=5
    ).status_code


def file_of(client, value=0.0):
    return bytes(encode(sum_update(client, value)))


def refusal(call):
    with pytest.raises(ProblemError) as refused:
        call()
    return refused.value.type


def test_reported_direct_upload_is_counted(h):
    assignment = h.assigned(0)
    assert assignment.direct_above == 100
    receipts = [h.bring(1, file_of(1)), h.upload(h.assigned(2).token, sum_update(2))]
    assert put(h.start(assignment.token, file_of(0)), file_of(0)) == 200
    receipts.append(h.uploaded(assignment.token))
    assert {receipt.status for receipt in receipts} == {"accepted"}
    assert all(receipt.cookie for receipt in receipts)
    h.deliver_all()
    assert int(h.result(1)["ids"]) == 0b111
    (committed,) = h.committed()
    assert committed.tally.folded == 3
    h.settle()
    assert h.blobs("updates/") == []
    assert h.leftovers() == []


def test_repeated_report_is_counted_once(h):
    token = h.assigned(0).token
    put(h.start(token, file_of(0)), file_of(0))
    assert [h.uploaded(token).status for _ in range(3)] == ["accepted"] * 3
    h.upload(token, file_of(0))
    shard = h.inner.documents.get(names.shard_path(h.key(), 0))
    assert shard.data["updates"] == 1
    h.operate("cancel")  # the count of a small round is published after its end
    assert h.task().current.reported == 1


def test_report_of_a_missing_update_closes_no_round(h):
    for client in range(3):
        h.uploaded(h.assigned(client).token)
    h.deliver_all()
    assert h.task().current.phase.value == "COLLECTING"
    assert h.checkin("d").status == "wait"  # the cap holds


def test_unreported_direct_upload_is_counted_at_close(h):
    token = h.assigned(0).token
    put(h.start(token, file_of(0)), file_of(0))
    h.upload(h.assigned(1).token, sum_update(1))
    h.clock.advance(601)
    h.tick()
    h.settle()
    assert int(h.result(1)["ids"]) == 0b11


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        pytest.param(b"x" * 400, {}, 400, id="another size"),
        pytest.param(b"x" * len(file_of(0)), {}, 400, id="other bytes of that size"),
        pytest.param(file_of(0), {"x-goog-hash": f"crc32c={checksum(b'x')}"}, 403, id="another checksum"),
        pytest.param(file_of(0), {"x-goog-content-length-range": "0,9999999"}, 403, id="another range"),
        pytest.param(file_of(0), {"x-goog-if-generation-match": "7"}, 403, id="to overwrite"),
        pytest.param(file_of(0), {"x-goog-meta-note": "mine"}, 403, id="more than was signed"),
        pytest.param(file_of(0), {"Content-Type": "text/html"}, 403, id="another type"),
    ],
)
def test_signed_url_accepts_exactly_one_file(h, body, headers, status):
    grant = h.start(h.assigned(0).token, file_of(0))
    assert put(grant, body, **headers) == status
    assert h.blobs("updates/") == []
    assert put(grant, file_of(0)) == 200
    assert put(grant, file_of(0)) == 412


def test_signed_url_expires_with_the_assignment(h, bucket):
    assignment = h.assigned(0)
    h.clock.advance(100)
    grant = h.start(assignment.token, file_of(0))
    assert grant.expires_at == assignment.expires_at
    assert "X-Goog-Expires=200" in grant.url
    assert f"X-Goog-Credential={ACCOUNT.replace('@', '%40')}%2F" in grant.url
    assert len(bucket.signed) == 1
    assert put(grant.model_copy(update={"url": grant.url.replace("Expires=200", "Expires=900")}), file_of(0)) == 403
    assert assignment.expires_at - grant.expires_at == timedelta(0)


def test_fold_drops_invalid_direct_uploads_with_reason(tmp_path, bucket):
    h = Deployment(tmp_path, bucket)
    h.begin(goal=6, chunk=10)
    good = file_of(0)
    bad = {
        1: good[:-4],  # cut
        2: b"no update at all",
        3: file_of(3, np.nan),
        4: bytes(encode({**sum_update(4), "more": np.zeros(1)}))[: len(good) + 60],
    }
    h.bring(0, good)
    for client, body in bad.items():
        assert h.bring(client, body).status == "accepted"
    h.bring(5, file_of(5))
    h.settle()
    assert int(h.result(1)["ids"]) == 0b100001
    (committed,) = h.committed()
    assert committed.tally.folded == 2
    assert committed.tally.dropped == {"update_invalid": 3, "update_not_finite": 1}
    assert h.leftovers() == []


def test_oversized_blob_is_dropped_unread(tmp_path, bucket):
    h = Deployment(tmp_path, bucket)
    h.begin(goal=2)
    h.upload(h.assigned(0).token, sum_update(0))
    claims = h.app.tokens.read_assignment(h.assigned(1).token, now=h.clock.now())
    h.inner.blobs.create(names.update_name(h.key(), claims.shard, claims.pseudonym), [bytes(1 << 20)])
    h.clock.advance(601)
    h.settle()
    (committed,) = h.committed()
    assert committed.tally.dropped == {"too_large": 1}
    assert int(h.result(1)["ids"]) == 1


def test_start_is_refused_like_an_upload(h, tmp_path):
    token = h.assigned(0).token
    large = UploadStart(size=1 << 20, crc32c=checksum(b"")).encode()
    assert refusal(lambda: h.ask("POST", "/v1/updates:start", body=large, token=token)) is P.TOO_LARGE
    assert refusal(lambda: h.start("x", b"x")) is P.ASSIGNMENT_INVALID
    for body in (b'{"size": 0, "crc32c": "AAAAAA=="}', b'{"size": 9, "crc32c": "AAAAAB=="}', b'{"size": 9}'):
        assert (
            refusal(lambda body=body: h.ask("POST", "/v1/updates:start", body=body, token=token)) is P.INVALID_REQUEST
        )
    h.clock.advance(300)
    assert refusal(lambda: h.start(token, b"x")) is P.ASSIGNMENT_EXPIRED
    assert h.blobs("updates/") == []
    plain = Harness(tmp_path / "plain", plan=every_dtype_plan(), direct_above=100)
    plain.begin()
    assignment = plain.assigned(0)
    assert assignment.direct_above is None
    for call in (Deployment.start, Deployment.uploaded):
        arguments = (
            (assignment.token, encode(every_dtype_update())) if call is Deployment.start else (assignment.token,)
        )
        assert refusal(lambda call=call, arguments=arguments: call(plain, *arguments)) is P.NOT_SUPPORTED


def test_upload_after_the_round_is_refused_and_swept(h):
    late = h.assigned("late").token
    grant = h.start(late, file_of(9))
    h.operate("rollback", version=0)
    h.deliver_all()
    assert put(grant, file_of(9)) == 200
    assert refusal(lambda: h.uploaded(late)) is P.ROUND_CLOSED
    h.deliver_all()
    assert h.blobs("updates/") == []


def test_tick_deletes_late_unreported_uploads(h):
    grant = h.start(h.assigned("late").token, file_of(9))
    h.operate("rollback", version=0)
    h.deliver_all()
    put(grant, file_of(9))
    h.tick()
    assert h.blobs("updates/") == []


def test_upload_session_is_bound_like_a_signed_url(tmp_path, bucket):
    h = Deployment(tmp_path, bucket, resumable_above=100)
    h.begin(goal=2)
    token, body = h.assigned(0).token, file_of(0)
    grant = h.start(token, body)
    assert (grant.resumable, grant.headers, bucket.calls) == (True, {}, {"open": 1})
    (session,) = bucket.sessions.values()
    assert (session.crc32c, session.size) == (checksum(body), len(body))
    whole = {"Content-Range": f"bytes 0-{len(body) - 1}/{len(body)}"}
    assert put(grant, b"x" * len(body), **whole) == 400
    assert put(h.start(token, body), body, **whole) == 200
    assert refusal(lambda: h.start(token, body)) is P.CONFLICT
    assert h.uploaded(token).status == "accepted"


def test_only_a_failure_report_has_a_reason(h):
    token = h.assigned(0).token
    for body in (b"{}", b'{"outcome": "failed"}', b'{"outcome": "uploaded", "reason": "data"}', b'{"outcome": "lost"}'):
        assert (
            refusal(lambda body=body: h.ask("POST", "/v1/updates:report", body=body, token=token)) is P.INVALID_REQUEST
        )
    assert h.ask("POST", "/v1/updates:report", body=b'{"reason": "data"}', token=token)
