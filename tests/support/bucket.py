"""A test double of Cloud Storage for direct uploads, and of the IAM method `signBlob`.

The double checks signed URLs as https://cloud.google.com/storage/docs/access-control/signed-urls
describes, and shares no code with their signer. An upload session stores multiples of 256 KiB of a
broken request. Finished uploads are stored in a `Blobs`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import google_crc32c
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from google.auth.credentials import AnonymousCredentials

from muster_coordinator.ports import Blobs
from support.served import Loopback

ACCOUNT = "client-api@muster-test.iam.gserviceaccount.com"
_QUANTUM = 256 << 10  # bytes


class AccountCredentials(AnonymousCredentials):
    """Credentials of a service account, without a secret."""

    service_account_email = ACCOUNT


@dataclass
class Session:
    """Resumable upload session.

    Attributes:
      name: The blob's name.
      crc32c: The announced checksum.
      size: The announced size, in bytes.
      received: The bytes so far.
      done: Whether the blob is stored.
    """

    name: str
    crc32c: str
    size: int
    received: bytes = b""
    done: bool = False


def _key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Bucket(Loopback):
    """Server of one bucket, which runs inside its `with` block.

    Attributes:
      url: The address, for `STORAGE_EMULATOR_HOST` and as that of the IAM Credentials API.
      signed: The signed payloads.
      calls: The number of requests by kind: `sign`, `put`, `open`, `session`, `ask`, `delete`.
      breaks: For each of the next uploads, the number of bytes after which its connection breaks.
        None: it does not break; -1: it breaks after the last byte, before the response.
      refusals: The statuses of the next uploads, which are refused unread.
      brought: The number of received bytes of upload bodies.
      headers: The headers of the last upload.
    """

    def __init__(self, blobs: Blobs, name: str = "bucket") -> None:
        self._blobs = blobs
        self._name = name
        self._key = _key()
        self.sessions: dict[str, Session] = {}
        self.signed: list[bytes] = []
        self.calls: Counter[str] = Counter()
        self.breaks: list[int | None] = []
        self.refusals: list[int] = []
        self.brought = 0
        self.headers: dict[str, str] = {}
        bucket = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def _serve(self) -> None:
                status, headers, body = bucket._answer(self)
                if status == 0:  # closes the connection without a response
                    self.close_connection = True
                    return
                self.send_response(status)
                for key, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        for verb in ("PUT", "POST", "DELETE"):
            setattr(Handler, f"do_{verb}", Handler._serve)
        super().__init__(ThreadingHTTPServer(("127.0.0.1", 0), Handler))

    def forget_sessions(self) -> None:
        """Drops all sessions, as the service does after a week."""
        self.sessions.clear()

    def _answer(self, request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        length = int(request.headers.get("Content-Length", 0))
        parts = urlsplit(request.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        if parts.path.endswith(":signBlob"):
            return self._sign(unquote(parts.path), request.rfile.read(length))
        if request.command == "POST":
            return self._open(query, request.headers, json.loads(request.rfile.read(length)))
        if "upload_id" in query:
            return self._session(request, self.sessions.get(query["upload_id"]), length)
        self.calls["put"] += 1
        body, broken = self._body(request, length)
        refusal = self._check(request, parts.path, parts.query)
        if broken or refusal:
            return (0 if broken else refusal), {}, b""
        headers = request.headers
        low, high = map(int, headers["x-goog-content-length-range"].split(","))
        name = unquote(parts.path).removeprefix(f"/{self._name}/")
        if not low <= len(body) <= high or headers["x-goog-hash"] != f"crc32c={checksum(body)}":
            return 400, {}, b"BadDigest"
        assert headers["x-goog-if-generation-match"] == "0"
        created = self._blobs.create(name, [body]).created
        return self._unless_lost(200 if created else 412)

    def _sign(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        self.calls["sign"] += 1
        assert path == f"/v1/projects/-/serviceAccounts/{ACCOUNT}:signBlob"
        data = base64.b64decode(json.loads(body)["payload"])
        self.signed.append(data)
        signature = self._key.sign(data, padding.PKCS1v15(), hashes.SHA256())
        answer = {"keyId": "k", "signedBlob": base64.b64encode(signature).decode()}
        return 200, {"Content-Type": "application/json"}, json.dumps(answer).encode()

    def _check(self, request: BaseHTTPRequestHandler, path: str, query: str) -> int:
        """Returns the status of a refusal (403 unless signed and not expired), or 0."""
        parameters = dict(parse_qsl(query))
        signature = bytes.fromhex(parameters.pop("X-Goog-Signature", ""))
        names = parameters["X-Goog-SignedHeaders"].split(";")
        headers = {key.lower(): " ".join(value.split()) for key, value in request.headers.items()}
        if any(key.startswith("x-goog-") and key not in names for key in headers) or "authorization" in headers:
            return 403
        fields = [
            request.command,
            path,
            "&".join(sorted(f"{quote(key, safe='~')}={quote(value, safe='~')}" for key, value in parameters.items())),
            *(f"{name}:{headers.get(name, '')}" for name in names),
            "",
            ";".join(names),
            "UNSIGNED-PAYLOAD",
        ]
        digest = hashlib.sha256("\n".join(fields).encode()).hexdigest()
        scope = parameters["X-Goog-Credential"].removeprefix(f"{ACCOUNT}/")
        text = "\n".join([parameters["X-Goog-Algorithm"], parameters["X-Goog-Date"], scope, digest])
        signed_at = datetime.strptime(parameters["X-Goog-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if (datetime.now(UTC) - signed_at).total_seconds() > int(parameters["X-Goog-Expires"]):
            return 403
        try:
            self._key.public_key().verify(signature, text.encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return 403
        return self.refusals.pop(0) if self.refusals else 0

    def _open(self, query: dict[str, str], headers: Any, resource: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        self.calls["open"] += 1
        assert query["uploadType"] == "resumable"
        assert query["ifGenerationMatch"] == "0"
        if self._blobs.stat(resource["name"]) is not None:
            return 412, {}, b""
        key = f"session-{self.calls['open']}"
        size = int(headers["x-upload-content-length"])
        self.sessions[key] = Session(resource["name"], resource["crc32c"], size)
        location = f"{self.url}/upload/storage/v1/b/{self._name}/o?uploadType=resumable&upload_id={key}"
        return 200, {"Location": location}, b""

    def _session(
        self, request: BaseHTTPRequestHandler, session: Session | None, length: int
    ) -> tuple[int, dict[str, str], bytes]:
        sent = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)", request.headers.get("Content-Range", ""))
        kind = "delete" if request.command == "DELETE" else "ask" if sent and sent[1] is None else "session"
        self.calls[kind] += 1
        body, broken = self._body(request, length) if kind == "session" else (b"", False)
        if session is None:
            return 404, {}, b""
        if kind == "delete":
            self.sessions = {key: value for key, value in self.sessions.items() if value is not session}
            return 499, {}, b""
        assert sent is not None
        assert int(sent[3]) == session.size
        if kind == "session" and self.refusals:
            return self.refusals.pop(0), {}, b""
        if kind == "session" and not session.done:
            assert int(sent[1]) == len(session.received), "resumes where the session ends"
            session.received += body
            if broken:
                session.received = session.received[: len(session.received) // _QUANTUM * _QUANTUM]
                return 0, {}, b""
            if len(session.received) != session.size or checksum(session.received) != session.crc32c:
                return 400, {}, b""
            session.done = True
            created = self._blobs.create(session.name, [session.received]).created
            return self._unless_lost(200 if created else 412)
        if session.done:
            return 200, {}, b""
        return 308, {"Range": f"bytes=0-{len(session.received) - 1}"} if session.received else {}, b""

    def _body(self, request: BaseHTTPRequestHandler, length: int) -> tuple[bytes, bool]:
        self.headers = dict(request.headers)
        if self.breaks and self.breaks[0] is not None and self.breaks[0] >= 0:
            body = request.rfile.read(self.breaks.pop(0))
            self.brought += len(body)
            return body, True
        body = request.rfile.read(length)
        self.brought += len(body)
        return body, False

    def _unless_lost(self, status: int) -> tuple[int, dict[str, str], bytes]:
        lost = bool(self.breaks) and self.breaks.pop(0) == -1
        return (0 if lost else status), {}, b""


def checksum(data: bytes) -> str:
    """Returns the CRC32C of `data`, in base64 as Cloud Storage writes it."""
    return base64.b64encode(google_crc32c.Checksum(data).digest()).decode()
