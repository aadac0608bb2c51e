"""Signed URLs: the exact bytes that are signed, and the signing account."""

from __future__ import annotations

import hashlib
from urllib.parse import parse_qs, urlsplit

import pytest
from google.auth.credentials import AnonymousCredentials
from support import cloud
from support.bucket import ACCOUNT, AccountCredentials, Bucket

from muster_coordinator.adapters.directory import DirectoryBlobs
from muster_coordinator.adapters.gcs_uploads import GcsDirectUploads, IamSigner
from muster_coordinator.ports import StoreError, UnavailableError

NAME = "updates/8f3a/digits/000003-0000/0001/0123456789abcdef0123456789abcdef"
CANONICAL = """\
PUT
/muster-bucket/home/{name}
X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential={account}%2F{day}%2Fauto%2Fstorage%2Fgoog4_request&X-Goog-Date={date}\
&X-Goog-Expires=299&X-Goog-SignedHeaders=content-type%3Bhost%3Bx-goog-content-length-range%3Bx-goog-hash%3Bx-goog-if-generation-match
content-type:application/octet-stream
host:{host}
x-goog-content-length-range:9000000,9000000
x-goog-hash:crc32c=AAAAAA==
x-goog-if-generation-match:0

content-type;host;x-goog-content-length-range;x-goog-hash;x-goog-if-generation-match
UNSIGNED-PAYLOAD"""


@pytest.fixture
def bucket(tmp_path):
    with Bucket(DirectoryBlobs(tmp_path)) as bucket:
        yield bucket


def test_signature_binds_length_checksum_and_free_name(bucket):
    with cloud.environment(STORAGE_EMULATOR_HOST=bucket.url):
        signer = IamSigner(credentials=AccountCredentials(), endpoint=bucket.url)
        uploads = GcsDirectUploads("muster-bucket", "home", signer=signer)
    grant = uploads.start(NAME, size=9_000_000, crc32c="AAAAAA==", seconds=299.9)
    uploads.close()
    signer.close()
    query = {key: value for key, (value,) in parse_qs(urlsplit(grant.url).query).items()}
    date = query["X-Goog-Date"]
    canonical = CANONICAL.format(
        name=NAME, account=ACCOUNT.replace("@", "%40"), day=date[:8], date=date, host=urlsplit(bucket.url).netloc
    )
    scope = f"{date[:8]}/auto/storage/goog4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    assert bucket.signed == [f"GOOG4-RSA-SHA256\n{date}\n{scope}\n{digest}".encode()]
    assert grant.headers == {
        "Content-Type": "application/octet-stream",
        "x-goog-content-length-range": "9000000,9000000",
        "x-goog-hash": "crc32c=AAAAAA==",
        "x-goog-if-generation-match": "0",
    }
    assert not grant.resumable
    assert len(bytes.fromhex(query["X-Goog-Signature"])) == 256


@pytest.mark.parametrize(("seconds", "signed"), [(-5.0, 1), (0.2, 1), (1e9, 7 * 86400)])
def test_signature_ttl_is_between_a_second_and_a_week(bucket, seconds, signed):
    with cloud.environment(STORAGE_EMULATOR_HOST=bucket.url):
        uploads = GcsDirectUploads("b")
    assert f"X-Goog-Expires={signed}&" in uploads.start("a", size=1, crc32c="AAAAAA==", seconds=seconds).url
    assert bucket.calls == {}  # an emulator checks no signature, so none is requested
    uploads.close()


def test_invalid_names_are_not_signed(bucket):
    with cloud.environment(STORAGE_EMULATOR_HOST=bucket.url):
        uploads = GcsDirectUploads("b")
    with pytest.raises(ValueError, match=r"\.\."):
        uploads.start("a/../b", size=1, crc32c="AAAAAA==", seconds=1)
    uploads.close()


def test_account_is_read_from_the_metadata_server():
    class OfAFunction(AnonymousCredentials):
        service_account_email = "default"

        def refresh(self, _request):
            self.service_account_email = ACCOUNT

    assert IamSigner(credentials=OfAFunction()).account == ACCOUNT


def test_credentials_of_a_person_are_refused_with_advice():
    with pytest.raises(StoreError, match="MUSTER_DIRECT_ABOVE=never"):
        IamSigner(credentials=AnonymousCredentials()).sign(b"x")


def test_failing_signer_raises_port_errors(bucket):
    nowhere = IamSigner(credentials=AccountCredentials(), endpoint="http://127.0.0.1:1", patience=0.2)
    with pytest.raises(UnavailableError, match="signBlob as client-api@"):
        nowhere.sign(b"x")
    forbidden = IamSigner(credentials=AccountCredentials(), endpoint=f"{bucket.url}/nothing:signBlob/", patience=0.2)
    with pytest.raises(StoreError):
        forbidden.sign(b"x")
