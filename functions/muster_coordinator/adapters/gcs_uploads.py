"""Direct uploads to a Cloud Storage bucket, by a signed URL or a resumable upload session.

A signed URL (V4) fixes the name, the length and the checksum, and requires that the name is free.
The IAM Credentials API signs it, so the functions have no private key. The coordinator itself opens
a session for a large update: Cloud Storage checks a session's bytes against the length and checksum
of a JSON API request, but not against those of a signed request (docs/decisions/0010).
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
from muster_coordinator.adapters.google_calls import PATIENCE, if_idempotent, translated
from muster_coordinator.adapters.loopback import exclude_loopback_from_proxies
from muster_coordinator.adapters.paths import check_blob
from muster_coordinator.domain.deletions import SESSION_ABOVE
from muster_coordinator.ports import AlreadyExistsError, DirectUploadTarget, StoreError

RESUMABLE_ABOVE = SESSION_ABOVE  # bytes; below, sending all again is cheaper than resuming
_IAM = "https://iamcredentials.googleapis.com"
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_TIMEOUT = (5.0, 10.0)  # seconds to connect, and between bytes of a response
_MAX_SIGNATURE_TTL = 7 * 86400.0  # seconds; the service's maximum
_MEDIA_TYPE = "application/octet-stream"


class Signer(Protocol):
    """Signer of bytes as a service account."""

    @property
    def account(self) -> str:
        """E-mail address of the account."""

    def sign(self, data: bytes) -> bytes:
        """Returns the signature of `data`, RSA with SHA-256.

        Raises:
          UnavailableError: The signer does not answer now.
          StoreError: The signer refuses.
        """


class IamSigner:
    """Signer as the service account of this function, by `signBlob` of the IAM Credentials API.

    The account needs the role Service Account Token Creator on itself. The quota is 60,000
    signatures per minute and project. Calls are retried with back-off for `patience` seconds.
    """

    def __init__(
        self,
        *,
        credentials: google_credentials.Credentials | None = None,
        endpoint: str = _IAM,
        patience: float = PATIENCE,
    ) -> None:
        """Creates a signer; it connects with the first call.

        Args:
          credentials: Credentials of the account; None for the environment's.
          endpoint: URL of the API.
          patience: Seconds that a signature may take, retries included.

        Raises:
          StoreError: There are no credentials.
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
                self._credentials.refresh(Request())  # the metadata server then returns the account
        account = getattr(self._credentials, "service_account_email", None)
        if not isinstance(account, str) or "@" not in account:
            raise StoreError(
                "Signed URLs are not available: the credentials here are not of a service account. Run under one, "
                "or set MUSTER_DIRECT_ABOVE=never"
            )
        return account

    def sign(self, data: bytes) -> bytes:
        """See `Signer.sign`."""
        account = self.account
        url = f"{self._endpoint}/v1/projects/-/serviceAccounts/{account}:signBlob"
        body = {"payload": base64.b64encode(data).decode("ascii")}

        def request_signature() -> Any:
            response = self._session.post(url, json=body, timeout=_TIMEOUT)
            if not response.ok:
                raise exceptions.from_http_response(response)
            return response.json()

        with translated(f"signBlob as {account}"):
            return base64.b64decode(if_idempotent(self._patience)(request_signature)()["signedBlob"])

    def close(self) -> None:
        """Closes the connections."""
        self._session.close()


class NoSigner:
    """Signer for fake-gcs-server, which does not verify signatures."""

    account = "unused@muster-emulated.iam.gserviceaccount.com"

    def sign(self, _: bytes) -> bytes:
        """See `Signer.sign`."""
        return b"unsigned"


class GcsDirectUploads:
    """`DirectUploads` to a Cloud Storage bucket.

    The name must be free when the upload ends, and the bytes must match the size and the checksum;
    otherwise Cloud Storage refuses the upload. Requests are retried with back-off for `patience`
    seconds, then raise `UnavailableError`; other failures raise `StoreError`.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        signer: Signer | None = None,
        resumable_above: int = RESUMABLE_ABOVE,
        patience: float = PATIENCE,
    ) -> None:
        """Creates the port; see `open_bucket` for the credentials.

        Args:
          bucket: Name of the bucket.
          prefix: Prefix of all names in the bucket; see `GcsBlobs`.
          signer: Signer of URLs; None to sign as this function's account.
          resumable_above: Size in bytes above which an update gets an upload session.
          patience: Seconds that a start may take, retries included.

        Raises:
          StoreError: There are no credentials.
        """
        self._prefix = f"{prefix}/" if prefix else ""
        self._bucket = open_bucket(bucket)
        if signer is None:
            signer = NoSigner() if os.environ.get("STORAGE_EMULATOR_HOST") else IamSigner(patience=patience)
        self._credentials = _Signing(signer)
        self._resumable_above = resumable_above
        self._retry = DEFAULT_RETRY.with_timeout(patience)

    def start(self, name: str, *, size: int, crc32c: str, seconds: float) -> DirectUploadTarget:
        """See `DirectUploads.start`. Costs one request, to sign a URL or to open a session.

        A session is valid for a week, regardless of `seconds`.
        """
        check_blob(name)
        if size > self._resumable_above:
            return DirectUploadTarget(self._open_session(name, size=size, crc32c=crc32c), headers={}, resumable=True)
        headers = {
            "Content-Type": _MEDIA_TYPE,
            # Cloud Storage checks the body against this header, but not against a signed
            # Content-Length.
            "x-goog-content-length-range": f"{size},{size}",
            "x-goog-hash": f"crc32c={crc32c}",
            "x-goog-if-generation-match": "0",
        }
        with translated(name):
            url = self._bucket.blob(self._prefix + name).generate_signed_url(
                version="v4",
                method="PUT",
                expiration=timedelta(seconds=int(max(1.0, min(seconds, _MAX_SIGNATURE_TTL)))),
                headers=dict(headers),  # a copy, since the library adds to it
                credentials=self._credentials,
            )
        return DirectUploadTarget(url, headers=headers, resumable=False)

    def close(self) -> None:
        """Closes the connections."""
        self._bucket.client.close()

    def _open_session(self, name: str, *, size: int, crc32c: str) -> str:
        blob = self._bucket.blob(self._prefix + name)
        blob.crc32c = crc32c  # the service refuses bytes with another checksum
        with translated(name):
            try:
                url: str = blob.create_resumable_upload_session(
                    content_type=_MEDIA_TYPE, size=size, if_generation_match=0, timeout=_TIMEOUT, retry=self._retry
                )
            except exceptions.PreconditionFailed:
                url = ""
        if not url:
            raise AlreadyExistsError(f"{name} exists already")
        return url


class _Signing(google_credentials.Signing):
    """Adapter from a `Signer` to the interface of Google's library."""

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
