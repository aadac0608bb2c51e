"""Uploads that go straight to a Cloud Storage bucket: by a signed URL, or a large one by an upload session, which can be resumed.

A signed URL (V4) binds the name, the length, the checksum and that the name must be free; the signature is made by the IAM
Credentials API, so no key is ever here. A session is opened by us, and not by the client with another signed URL: what a signed
request says of length and checksum is not held against a session's bytes, what the JSON API is told is (docs/decisions/0010).
"""

from __future__ import annotations

import base64
import os
from datetime import timedelta
from typing import Any, Protocol

import google.auth
from google.api_core import exceptions
from google.auth import credentials as google_credentials
from google.auth.transport.requests import AuthorizedSession, Request
from google.cloud.storage.retry import DEFAULT_RETRY

from muster_coordinator.adapters.gcs import open_bucket
from muster_coordinator.adapters.google_calls import PATIENCE, harmless, translated
from muster_coordinator.adapters.loopback import exclude_loopback_from_proxies
from muster_coordinator.adapters.paths import check_blob
from muster_coordinator.ports import AlreadyExistsError, DirectUploadTarget, StoreError

RESUMABLE_ABOVE = 16 << 20  # bytes; up to so many, sending all again costs a client less than asking does
_IAM = "https://iamcredentials.googleapis.com"
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_TIMEOUT = (5.0, 10.0)  # seconds to connect, and without an answer
_LONGEST = 7 * 86400.0  # seconds that a signature may hold
_MEDIA_TYPE = "application/octet-stream"


class Signer(Protocol):
    """Signs as a service account."""

    @property
    def account(self) -> str:
        """The account's e-mail address."""

    def sign(self, data: bytes) -> bytes:
        """The signature, RSA with SHA-256. Raises `StoreError`, `UnavailableError`."""


class IamSigner:
    """Signs as the service account that runs us, by `signBlob` of the IAM Credentials API.

    The account needs the role Service Account Token Creator on itself. A project may have 60,000 signatures a minute.
    """

    def __init__(
        self,
        *,
        credentials: google_credentials.Credentials | None = None,
        endpoint: str = _IAM,
        patience: float = PATIENCE,
    ) -> None:
        """Connects with the first call.

        Args:
          credentials: The account's; those of the environment if None.
          endpoint: Where the API is.
          patience: Seconds that a signature may take, repeats included.

        Raises:
          StoreError: there are no credentials.
        """
        exclude_loopback_from_proxies()
        if credentials is None:
            with translated("signing"):
                credentials, _ = google.auth.default(scopes=[_SCOPE])
        self._credentials = credentials
        self._session = AuthorizedSession(credentials)
        self._endpoint = endpoint
        self._patience = patience

    @property
    def account(self) -> str:
        """See `Signer.account`."""
        if getattr(self._credentials, "service_account_email", None) == "default":
            with translated("signing"):
                self._credentials.refresh(Request())  # the metadata server then says who we are
        account = getattr(self._credentials, "service_account_email", None)
        if not isinstance(account, str) or "@" not in account:
            raise StoreError(
                "Updates can't be taken by signed URL: the credentials here are of no service account. Run under one, or "
                "set MUSTER_DIRECT_ABOVE=never"
            )
        return account

    def sign(self, data: bytes) -> bytes:
        """See `Signer.sign`."""
        account = self.account
        url = f"{self._endpoint}/v1/projects/-/serviceAccounts/{account}:signBlob"
        body = {"payload": base64.b64encode(data).decode("ascii")}

        def ask() -> Any:
            answer = self._session.post(url, json=body, timeout=_TIMEOUT)
            if not answer.ok:
                raise exceptions.from_http_response(answer)
            return answer.json()

        with translated(f"signBlob as {account}"):
            return base64.b64decode(harmless(self._patience)(ask)()["signedBlob"])

    def close(self) -> None:
        """Closes the connections."""
        self._session.close()


class NoSigner:
    """For fake-gcs-server, which checks no signature."""

    account = "nobody@muster-emulated.iam.gserviceaccount.com"

    def sign(self, _: bytes) -> bytes:
        """See `Signer.sign`."""
        return b"unsigned"


class GcsDirectUploads:
    """`DirectUploads` of a bucket."""

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        signer: Signer | None = None,
        resumable_above: int = RESUMABLE_ABOVE,
        patience: float = PATIENCE,
    ) -> None:
        """Connects with the first call, under the credentials of the environment, or to `STORAGE_EMULATOR_HOST`.

        Args:
          bucket: The bucket's name.
          prefix: As of `GcsBlobs`.
          signer: Who signs; the account that runs us if None.
          resumable_above: A file of more bytes gets an upload session.
          patience: Seconds that a start may take, repeats included.

        Raises:
          StoreError: there are no credentials.
        """
        self._prefix = f"{prefix}/" if prefix else ""
        self._bucket = open_bucket(bucket)
        if signer is None:
            signer = NoSigner() if os.environ.get("STORAGE_EMULATOR_HOST") else IamSigner(patience=patience)
        self._credentials = _Signing(signer)
        self._resumable_above = resumable_above
        self._retry = DEFAULT_RETRY.with_timeout(patience)

    def start(self, name: str, *, size: int, crc32c: str, seconds: float) -> DirectUploadTarget:
        """See `DirectUploads.start`. One request, to sign or to open a session; a session holds for a week, whatever `seconds`."""
        check_blob(name)
        if size > self._resumable_above:
            return DirectUploadTarget(self._open_session(name, size=size, crc32c=crc32c), headers={}, resumable=True)
        headers = {
            "Content-Type": _MEDIA_TYPE,
            # Cloud Storage does not hold a signed Content-Length against the body; this it does.
            "x-goog-content-length-range": f"{size},{size}",
            "x-goog-hash": f"crc32c={crc32c}",
            "x-goog-if-generation-match": "0",
        }
        with translated(name):
            url = self._bucket.blob(self._prefix + name).generate_signed_url(
                version="v4",
                method="PUT",
                expiration=timedelta(seconds=int(max(1.0, min(seconds, _LONGEST)))),
                headers=dict(headers),  # the library adds to it
                credentials=self._credentials,
            )
        return DirectUploadTarget(url, headers=headers, resumable=False)

    def close(self) -> None:
        """Closes the connections."""
        self._bucket.client.close()

    def _open_session(self, name: str, *, size: int, crc32c: str) -> str:
        blob = self._bucket.blob(self._prefix + name)
        blob.crc32c = crc32c  # what is finished with another one is refused
        with translated(name):
            try:
                url: str = blob.create_resumable_upload_session(
                    content_type=_MEDIA_TYPE, size=size, if_generation_match=0, timeout=_TIMEOUT, retry=self._retry
                )
            except exceptions.PreconditionFailed:
                url = ""
        if not url:
            raise AlreadyExistsError(f"{name} is there already")
        return url


class _Signing(google_credentials.Signing):
    """A `Signer` in the form in which Google's library takes one."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def sign_bytes(self, message: bytes) -> bytes:
        return self._signer.sign(message)

    @property
    def signer_email(self) -> str:
        return self._signer.account

    @property
    def signer(self) -> Signer:
        return self._signer
