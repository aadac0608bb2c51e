"""Direct upload of an update to Cloud Storage, in one request or in a resumable session.

    client ── updates:start ──▶ coordinator          answers with a signed address
    client ── PUT ────────────▶ Cloud Storage        repeated or resumed until it is complete
    client ── updates:report ─▶ coordinator          by `muster.client.client`

Resumable sessions: https://cloud.google.com/storage/docs/resumable-uploads
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Iterator
from typing import Callable, Optional

import google_crc32c

from muster.transport.body import TensorBody
from muster.transport.failures import ForeignAnswerError, host_of, is_page
from muster.transport.http import StoreAnswer, Transport, UnreachableError
from muster.wire.messages import Assignment, DirectUpload, UploadStart
from muster.wire.problems import ProblemError, ProblemType

_OK, _CREATED, _INCOMPLETE, _EXISTS = 200, 201, 308, 412
_TEMPORARY = frozenset({408, 429})
_MAX_REFUSALS = 3  # refusals of the store before the update goes through the coordinator
_MAX_FUNCTION_BODY = 30 << 20  # bytes of an update through the coordinator; Cloud Functions accept 32 MB
_PROGRESS_REPORTS = 10  # calls of `on_progress` for each upload


class DirectUploader:
    """Uploader of one update to the store. Call `send` again after a failure to resume.

    Args:
      transport: The transport to the coordinator. Requests to the store use the same session,
        without its credentials.
      assignment: The assignment of the update.
      body: The update.
      on_progress: Called about ten times with the number of bytes sent so far.
    """

    def __init__(
        self,
        transport: Transport,
        assignment: Assignment,
        body: TensorBody,
        *,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.token = assignment.token
        self._transport = transport
        self._body = body
        self._on_progress = on_progress
        self._target: Optional[DirectUpload] = None
        self._sent_before = False  # the target may hold the start of the update
        self._store_answered = False  # at least once
        self._refusals = 0
        self._done = False

    def send(self) -> bool:
        """Uploads the update, with a few retries.

        Returns:
          True if the store holds the update. False if the store does not accept it from this
          device: then it must go through the coordinator.

        Raises:
          ProblemError: the coordinator refused, or the store is not available (`unavailable`).
          UnreachableError: the coordinator or the store did not answer.
        """
        if not self._done and not self._store_rejects():
            try:
                self._transport.retry(self._attempt)
            except UnreachableError as error:
                if error.service == "coordinator" or self._store_answered or len(self._body) > _MAX_FUNCTION_BODY:
                    raise
                self._refusals = _MAX_REFUSALS  # the network blocks the store but not the coordinator
        return self._done

    def abandon(self, *, seconds: Optional[float] = None) -> None:
        """Cancels a session in the store, which otherwise expires in a week.

        Args:
          seconds: Time-out of the request; None: the transport's default.
        """
        target, self._target = self._target, None
        if target is not None and target.resumable and not self._done:
            with contextlib.suppress(UnreachableError):
                self._transport.exchange("DELETE", target.url, headers={}, seconds=seconds)

    def _store_rejects(self) -> bool:
        return self._refusals >= _MAX_REFUSALS

    def _attempt(self) -> None:
        if self._target is None and not self._request_target():
            return
        target = self._target
        if target is None:
            raise AssertionError("no upload target")
        offset = 0
        headers = dict(target.headers)
        if target.resumable:
            received = self._received_bytes(target) if self._sent_before else 0
            if received is None:
                return
            offset, size = received, len(self._body)
            headers["Content-Range"] = f"bytes {offset}-{size - 1}/{size}"
        self._sent_before = True
        body = _BodyTail(self._body, offset, self._on_progress)
        answer = self._transport.exchange("PUT", target.url, headers=headers, body=body)
        if not self._is_stored(answer):
            self._handle_refusal(answer)

    def _request_target(self) -> bool:
        """Requests a signed address from the coordinator. Returns False if nothing must be sent."""
        message = UploadStart(size=len(self._body), crc32c=crc32c(self._body))
        try:
            self._target = self._transport.call(
                "POST", "/v1/updates:start", message=message, answer=DirectUpload, token=self.token, attempts=1
            )
        except ProblemError as problem:
            if problem.type is ProblemType.CONFLICT:
                self._done = True
            elif problem.type is ProblemType.NOT_SUPPORTED:
                self._refusals = _MAX_REFUSALS
            else:
                raise
            return False
        self._sent_before = False
        return True

    def _received_bytes(self, target: DirectUpload) -> Optional[int]:
        """Returns the bytes that the session holds, or None if it is complete or lost."""
        headers = {**target.headers, "Content-Range": f"bytes */{len(self._body)}"}
        answer = self._transport.exchange("PUT", target.url, headers=headers)
        if answer.status == _INCOMPLETE and "Location" not in answer.headers:  # other servers' 308 is a redirect
            self._store_answered = True
            stored = re.fullmatch(r"bytes=0-(\d+)", answer.headers.get("Range", ""))
            return int(stored[1]) + 1 if stored else 0
        if not self._is_stored(answer):
            self._handle_refusal(answer)
        return None

    def _is_stored(self, answer: StoreAnswer) -> bool:
        if is_page(answer.headers) and answer.status in (_OK, _CREATED, _EXISTS, _INCOMPLETE):
            # A login page, for example: treating it as success would lose the update. The store
            # sends XML, JSON or no body.
            host = host_of(self._target.url if self._target is not None else "")
            reason = f"it answered {answer.status} with a web page, which the store never sends"
            raise ForeignAnswerError(host, reason, status=answer.status, retryable=True, service="store")
        self._store_answered = True
        # If the object exists, this client has stored an update for this assignment; one of them
        # counts.
        self._done = answer.status in (_OK, _CREATED, _EXISTS)
        return self._done

    def _handle_refusal(self, answer: StoreAnswer) -> None:
        """Raises `unavailable`, which causes a retry, unless the store has refused too often."""
        permanent = 400 <= answer.status < 500 and answer.status not in _TEMPORARY  # noqa: PLR2004
        if permanent:  # an expired signature or session, a wrong checksum: request a new address
            self._target = None
            self._refusals += 1
            if self._store_rejects():
                return
        detail = f"The store answered an upload with {answer.status} {answer.reason}"
        raise ProblemError(ProblemType.UNAVAILABLE, detail)


class _BodyTail:
    """Request body with the bytes of another body from an offset on."""

    def __init__(self, body: TensorBody, offset: int, on_progress: Callable[[int], None]) -> None:
        self._body = body
        self._offset = offset
        self._on_progress = on_progress

    def __len__(self) -> int:
        return len(self._body) - self._offset

    def __iter__(self) -> Iterator[memoryview]:
        size, sent = len(self._body), self._offset
        for piece in self._body.rest(self._offset):
            yield piece
            before, sent = sent, sent + piece.nbytes
            if before * _PROGRESS_REPORTS // size < sent * _PROGRESS_REPORTS // size:
                self._on_progress(sent)


def crc32c(body: TensorBody) -> str:
    """Returns the CRC32C of a body in Cloud Storage's format: big-endian, base64."""
    digest = google_crc32c.Checksum()
    for piece in body:
        digest.update(bytes(piece))
    return base64.b64encode(digest.digest()).decode("ascii")
