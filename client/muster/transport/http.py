"""Sends requests to a coordinator: retries, time-outs, problem documents as errors.

Every request of the protocol is idempotent, so `Transport` retries them all, for a few seconds. Its
caller handles longer outages, because it can wait in an interruptible way.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Mapping, Sized
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar, Union, cast
from urllib.parse import urlsplit

import requests
import stamina
from requests.auth import AuthBase

from muster import __version__
from muster.transport.answers import Followed, StoreAnswer
from muster.transport.body import Body
from muster.transport.downloads import MIN_PROGRESS, DownloadBuffer
from muster.transport.failures import (
    UnreachableError,
    date_of,
    error_from_answer,
    foreign_answer,
    host_of,
    retry_after_of,
    translate_errors,
    without_credentials,
)
from muster.transport.sessions import is_address, new_session, proxies_for, proxy_of
from muster.wire.base import Message
from muster.wire.problems import ProblemError, ProblemType

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["BINARY", "Followed", "StoreAnswer", "Transport", "UnreachableError"]

BINARY = "application/octet-stream"
_JSON = "application/json"
_USER_AGENT = f"muster/{__version__}"
_NOT_MODIFIED = 304
_JWT_DOTS = 2  # in a JSON Web Token
_MIN_WAIT, _MAX_WAIT, _JITTER = 0.1, 5.0, 0.5  # seconds between attempts, without `Retry-After`
_RETRYABLE_PROBLEMS = frozenset({ProblemType.UNAVAILABLE, ProblemType.RATE_LIMITED, ProblemType.UPDATE_TRUNCATED})
# stamina accepts a wait from 25.2 on (Python 3.9 has 25.1). Without that, the caller handles
# `Retry-After`.
_CAN_SET_WAIT = tuple(int(part) for part in version("stamina").split(".")[:2]) >= (25, 2)

# stamina logs each retry. Python would print that to stderr in an application without logging.
logging.getLogger("stamina").addHandler(logging.NullHandler())

M = TypeVar("M", bound=Message)
T = TypeVar("T")


class _Bearer(AuthBase):
    """Bearer token as `auth`: `requests` would replace a plain header with that of a .netrc."""

    def __init__(self, token: Optional[str]) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Transport:
    """Sender of requests to one coordinator over persistent connections.

    Args:
      url: The coordinator's address, such as `https://muster.example`; may have a path.
      session: The session, with its proxies, certificates and authentication; None:
        `new_session()`.
      token: Bearer token of each request that has no other token.
      connect_seconds: Time-out of a connection, and of sending each chunk of a body.
      read_seconds: Time-out of each read.
      attempts: Most attempts of a request.
      max_retry_after: Longest `Retry-After`, in seconds, to wait for; a longer one is raised.

    Raises:
      ProblemError: `invalid_request`, if `url` is not an http address.
    """

    def __init__(
        self,
        url: str,
        *,
        session: Optional[requests.Session] = None,
        token: Optional[str] = None,
        connect_seconds: float = 10.0,
        read_seconds: float = 60.0,
        attempts: int = 5,
        max_retry_after: float = 10.0,
    ) -> None:
        if not is_address(url):
            detail = f"{url!r} is not a coordinator's address. Write one like http://127.0.0.1:8080"
            raise ProblemError(ProblemType.INVALID_REQUEST, detail)
        self.url = url.rstrip("/")
        self._session = new_session() if session is None else session
        self._token = token
        self._timeouts = (connect_seconds, read_seconds)
        self._attempts = attempts
        self._max_retry_after = max_retry_after

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._session.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        answer: type[M],
        message: Optional[Message] = None,
        token: Optional[str] = None,
        params: Optional[Mapping[str, Union[str, int]]] = None,
        attempts: Optional[int] = None,
        seconds: Optional[float] = None,
        on_date: Callable[[Optional[datetime]], None] = lambda _: None,
    ) -> M:
        """Sends a message and returns the answer.

        Args:
          method: The HTTP method.
          path: The path at the coordinator.
          answer: The answer's type.
          message: The body.
          token: Overrides the transport's token.
          params: The query.
          attempts: Overrides the transport's attempts.
          seconds: Overrides the transport's time-outs.
          on_date: Called with the `Date` header of the answer, or None.

        Raises:
          ProblemError: the coordinator refused.
          UnreachableError: the coordinator did not answer any attempt; `ForeignAnswerError`, if
            another server answered.
        """
        body = None if message is None else message.encode()

        def read(response: requests.Response) -> M:
            decoded = self._message(response, answer)
            on_date(date_of(response.headers))
            return decoded

        return self._send(
            method,
            path,
            read,
            body=body,
            content_type=_JSON if body else None,
            token=token,
            params=params,
            attempts=attempts,
            seconds=seconds,
        )

    def follow(
        self,
        path: str,
        *,
        answer: type[M],
        previous: Optional[Followed[M]] = None,
        params: Optional[Mapping[str, Union[str, int]]] = None,
    ) -> Followed[M]:
        """Returns the answer of a GET; an unchanged answer is not sent again (RFC 9110 §13).

        Args:
          path: The path at the coordinator.
          answer: The answer's type.
          previous: The result of the previous call with the same path and query, or None.
          params: The query.

        Raises:
          ProblemError: as `call`.
          UnreachableError: as `call`.
        """
        etag = None if previous is None else previous.etag

        def read(response: requests.Response) -> Followed[M]:
            retry_after = retry_after_of(response.headers)
            if response.status_code == _NOT_MODIFIED and previous is not None:
                return replace(previous, changed=False, retry_after=retry_after)
            return Followed(
                self._message(response, answer),
                changed=True,
                etag=response.headers.get("ETag"),
                retry_after=retry_after,
            )

        return self._send(
            "GET",
            path,
            read,
            params=params,
            headers=lambda: {} if etag is None else {"If-None-Match": etag},
            accept_unchanged=etag is not None,
        )

    def upload(self, path: str, body: Union[Body, bytes], *, answer: type[M], token: Optional[str] = None) -> M:
        """PUTs a body, with its content encoding if it has one, and returns the answer.

        Raises the errors of `call`.
        """
        encoding = None if isinstance(body, bytes) else body.encoding
        return self._send(
            "PUT",
            path,
            lambda response: self._message(response, answer),
            body=body,
            content_type=BINARY,
            token=token,
            headers=lambda: {} if encoding is None else {"Content-Encoding": encoding},
        )

    def put(self, path: str, body: bytes, *, content_type: str) -> None:
        """PUTs bytes and ignores the answer's body. Raises the errors of `call`."""
        self._send("PUT", path, lambda _: None, body=body, content_type=content_type)

    def download(self, url: str, *, limit: Optional[int] = None) -> bytes:
        """Downloads a file, in ranges if it may be large.

        Accepts content encodings if there is a `limit`.

        Resumes a broken download as long as each series of attempts makes progress.

        Args:
          url: A path at the coordinator, or an absolute address.
          limit: The most bytes to accept, after decoding.

        Raises:
          ProblemError: as `call`; `too_large`, if the file exceeds `limit`; `internal`, if it does
            not have the declared encoding.
          UnreachableError: as `call`; `ForeignAnswerError` also for a page or a message instead of
            the file.
        """
        buffer = DownloadBuffer(url, limit=limit)
        while True:
            before = buffer.size
            try:
                whole = self._send("GET", url, buffer.read, headers=buffer.headers)
                if whole is not None:
                    return whole
            except UnreachableError as error:
                if not error.retryable or buffer.size < before + MIN_PROGRESS:
                    raise

    def exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: Union[Sized, Iterable[memoryview], None] = None,
        seconds: Optional[float] = None,
    ) -> StoreAnswer:
        """Sends one request to the store, in one attempt, without the session's credentials.

        Args:
          method: The HTTP method.
          url: A signed address. It is a secret, so no error quotes it.
          headers: All relevant headers.
          body: Iterable of chunks, with a length.
          seconds: Overrides the transport's time-outs.

        Returns:
          The answer, whatever its status is.

        Raises:
          UnreachableError: the store did not answer.
        """
        with (
            translate_errors(host_of(url), service="store", quote=False, proxy_of=lambda: proxy_of(self._session, url)),
            self._session.request(
                method,
                url,
                data=cast("Any", body),
                # None removes a header that the session would add.
                headers={"User-Agent": _USER_AGENT, "Authorization": None, "Content-Type": None, **headers},
                auth=_Bearer(None),
                timeout=self._timeouts if seconds is None else seconds,
                proxies=proxies_for(url),
                stream=True,
                allow_redirects=False,
            ) as response,
        ):
            return StoreAnswer(response.status_code, response.reason, response.headers)

    def retry(self, request: Callable[[], T], *, attempts: Optional[int] = None) -> T:
        """Calls `request`, and retries it after temporary errors."""
        retrying = stamina.RetryingCaller(
            attempts=attempts or self._attempts,
            timeout=None,
            wait_initial=_MIN_WAIT,
            wait_max=_MAX_WAIT,
            wait_jitter=_JITTER,
        )
        return retrying(self._retry_after, request)

    def _send(
        self,
        method: str,
        path: str,
        read: Callable[[requests.Response], T],
        *,
        body: Union[bytes, Body, None] = None,
        content_type: Optional[str] = None,
        token: Optional[str] = None,
        params: Optional[Mapping[str, Union[str, int]]] = None,
        attempts: Optional[int] = None,
        seconds: Optional[float] = None,
        headers: Callable[[], Mapping[str, str]] = dict,
        accept_unchanged: bool = False,
    ) -> T:
        elsewhere = urlsplit(path).scheme in ("http", "https")
        url = path if elsewhere else self.url + path
        bearer = token if token is not None or elsewhere else self._token
        common = {"User-Agent": _USER_AGENT}
        if content_type is not None:
            common["Content-Type"] = content_type
        if token is None and bearer is not None and bearer.count(".") == _JWT_DOTS:
            # Cloud Run removes the signature of a token in Authorization, unless this header is
            # set.
            common["X-Serverless-Authorization"] = f"Bearer {bearer}"

        def proxy() -> Optional[str]:
            return proxy_of(self._session, url)

        def send_once() -> T:
            with (
                translate_errors(without_credentials(self.url), proxy_of=proxy),
                self._session.request(
                    method,
                    url,
                    data=cast("Any", body),  # the type stubs lack iterables of memory views
                    params=params,
                    headers={**common, **headers()},
                    auth=_Bearer(bearer),
                    timeout=self._timeouts if seconds is None else seconds,
                    proxies=proxies_for(url),
                    stream=True,
                    allow_redirects=False,
                ) as response,
            ):
                unchanged = accept_unchanged and response.status_code == _NOT_MODIFIED
                if response.status_code >= 300 and not unchanged:  # noqa: PLR2004
                    raise error_from_answer(response, proxy=proxy(), sent=0 if body is None else len(body))
                return read(response)

        return self.retry(send_once, attempts=attempts)

    def _retry_after(self, error: Exception) -> Union[bool, float]:
        """Returns whether to retry a request after `error`, or the seconds to wait before that."""
        if isinstance(error, UnreachableError):
            retryable = error.retryable
        elif isinstance(error, ProblemError):
            retryable = error.type in _RETRYABLE_PROBLEMS or error.retry_after is not None
        else:
            return False
        if not retryable or error.retry_after is None:
            return retryable
        if not _CAN_SET_WAIT or error.retry_after > self._max_retry_after:
            return False
        # Up to 25 % more, so that clients that were refused together do not return together.
        return max(error.retry_after, _MIN_WAIT) * (1 + random.random() / 4)  # noqa: S311

    def _message(self, response: requests.Response, kind: type[M]) -> M:
        content_type = response.headers.get("Content-Type", "")
        if not content_type.startswith(_JSON):
            raise foreign_answer(response, f"expected {_JSON}", proxy=proxy_of(self._session, response.url))
        try:
            return kind.decode(response.content)
        except ProblemError as error:
            expected = f"expected the fields of {kind.__name__}"
            raise foreign_answer(response, expected, proxy=proxy_of(self._session, response.url)) from error
