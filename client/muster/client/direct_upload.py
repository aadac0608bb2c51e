"""An update put straight into the coordinator's store, past the coordinator: in one request, or in a session that can be resumed.

The coordinator says where to (`updates:start`) and is told when it is there (`updates:report`, by `muster_client`). The store is
Cloud Storage: its upload sessions, https://cloud.google.com/storage/docs/resumable-uploads.
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
from muster.transport.http import Answer, Transport, UnreachableError
from muster.wire.messages import Assignment, DirectUpload, UploadStart
from muster.wire.problems import ProblemError, ProblemType

_OK, _CREATED, _RESUME, _TAKEN = 200, 201, 308, 412
_LATER = frozenset({408, 429})
_REFUSALS = 3  # of one update by the store, until it goes through the coordinator after all
_THROUGH = 30 << 20  # bytes that a coordinator in the cloud takes; its functions take 32 MB
_STEPS = 10  # how often progress is told


class DirectSender:
    """Brings one update to the store. Keeps what it has reached, so that it may be called again after any failure.

    Args:
      transport: To the coordinator; requests to the store go over the same session, without its credentials.
      assignment: Whose update it is.
      body: The update.
      tell: Is told, some ten times, how many bytes have left.
    """

    def __init__(
        self,
        transport: Transport,
        assignment: Assignment,
        body: TensorBody,
        *,
        tell: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.token = assignment.token
        self._transport = transport
        self._body = body
        self._tell = tell
        self._target: Optional[DirectUpload] = None
        self._begun = False  # some of the update may be at the target
        self._answered = False  # by the store, ever
        self._refusals = 0
        self._done = False

    def send(self) -> bool:
        """Brings the update there, with a few repeats.

        Returns:
          Whether it is there. If not, the store does not take it from here, and it should go through the coordinator.

        Raises:
          ProblemError: the coordinator refused, or the store did not take it now (`unavailable`).
          UnreachableError: the coordinator, or the store, did not answer.
        """
        if not self._done and not self._given_up():
            try:
                self._transport.repeat(self._once)
            except UnreachableError as error:
                if error.what == "coordinator" or self._answered or len(self._body) > _THROUGH:
                    raise
                self._refusals = _REFUSALS  # a network that lets its devices reach the coordinator alone
        return self._done

    def abandon(self, *, seconds: Optional[float] = None) -> None:
        """Cancels a session in the store. If the store can't be reached, the session expires after a week.

        Args:
          seconds: Longest time for the request; None: the transport's default.
        """
        target, self._target = self._target, None
        if target is not None and target.resumable and not self._done:
            with contextlib.suppress(UnreachableError):
                self._transport.exchange("DELETE", target.url, headers={}, seconds=seconds)

    def _given_up(self) -> bool:
        return self._refusals >= _REFUSALS

    def _once(self) -> None:
        if self._target is None and not self._start():
            return
        target = self._target
        if target is None:
            raise AssertionError("there is no place to send to")
        offset = 0
        headers = dict(target.headers)
        if target.resumable:
            found = self._offset(target) if self._begun else 0
            if found is None:
                return
            offset, size = found, len(self._body)
            headers["Content-Range"] = f"bytes {offset}-{size - 1}/{size}"
        self._begun = True
        body = _Part(self._body, offset, self._tell)
        answer = self._transport.exchange("PUT", target.url, headers=headers, body=body)
        if not self._arrived(answer):
            self._refused(answer)

    def _start(self) -> bool:
        """Asks where to; False if nothing is to be sent."""
        wanted = UploadStart(size=len(self._body), crc32c=crc32c(self._body))
        try:
            self._target = self._transport.call(
                "POST", "/v1/updates:start", message=wanted, answer=DirectUpload, token=self.token, attempts=1
            )
        except ProblemError as problem:
            if problem.type is ProblemType.CONFLICT:
                self._done = True
            elif problem.type is ProblemType.NOT_SUPPORTED:
                self._refusals = _REFUSALS
            else:
                raise
            return False
        self._begun = False
        return True

    def _offset(self, target: DirectUpload) -> Optional[int]:
        """How many bytes the session has; None if it has them all, or is gone for good."""
        headers = {**target.headers, "Content-Range": f"bytes */{len(self._body)}"}
        answer = self._transport.exchange("PUT", target.url, headers=headers)
        if answer.status == _RESUME and "Location" not in answer.headers:  # elsewhere a 308 is a redirect
            self._answered = True
            found = re.fullmatch(r"bytes=0-(\d+)", answer.headers.get("Range", ""))
            return int(found[1]) + 1 if found else 0
        if not self._arrived(answer):
            self._refused(answer)
        return None

    def _arrived(self, answer: Answer) -> bool:
        if is_page(answer.headers) and answer.status in (_OK, _CREATED, _TAKEN, _RESUME):
            # A login page, for example: treating it as success would lose the update. The store sends XML, JSON or no
            # body.
            where = host_of(self._target.url if self._target is not None else "")
            reason = f"it answered {answer.status} with a page, as no store does"
            raise ForeignAnswerError(where, reason, status=answer.status, again=True, what="store")
        self._answered = True
        # A name that is taken was taken by this update, or by another one of this client: one of them counts.
        self._done = answer.status in (_OK, _CREATED, _TAKEN)
        return self._done

    def _refused(self, answer: Answer) -> None:
        """What to do about an answer that is no success: repeat, begin anew, or leave it."""
        lasting = 400 <= answer.status < 500 and answer.status not in _LATER  # noqa: PLR2004
        if lasting:  # a signature or session that has run out, bytes that arrived damaged, or something that stays so
            self._target = None
            self._refusals += 1
            if self._given_up():
                return
        detail = f"The store answered an upload with {answer.status} {answer.reason}"
        raise ProblemError(ProblemType.UNAVAILABLE, detail)


class _Part:
    """The rest of a body as a request's body."""

    def __init__(self, body: TensorBody, offset: int, tell: Callable[[int], None]) -> None:
        self._body = body
        self._offset = offset
        self._tell = tell

    def __len__(self) -> int:
        return len(self._body) - self._offset

    def __iter__(self) -> Iterator[memoryview]:
        size, sent = len(self._body), self._offset
        for piece in self._body.rest(self._offset):
            yield piece
            before, sent = sent, sent + piece.nbytes
            if before * _STEPS // size < sent * _STEPS // size:
                self._tell(sent)


def crc32c(body: TensorBody) -> str:
    """The CRC32C of a body, big-endian in base64, as Cloud Storage writes it."""
    digest = google_crc32c.Checksum()
    for piece in body:
        digest.update(bytes(piece))
    return base64.b64encode(digest.digest()).decode("ascii")
