"""HTTP to a coordinator: retries, time-outs, problems as errors, bodies without a copy. Knows no message's meaning.

Every request of the protocol may be repeated, so this module repeats them all. It gives up after a few seconds and leaves
longer outages to its caller, who can wait in a way that can be interrupted.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar, Union, cast
from urllib.parse import urlsplit

import requests
import stamina
from requests.auth import AuthBase

from muster import __version__
from muster.transport.body import Body
from muster.transport.downloads import PROGRESS, Receiving
from muster.transport.failures import (
    UnreachableError,
    date_of,
    host_of,
    not_ours,
    reaching,
    refusal,
    without_credentials,
)
from muster.transport.sessions import new_session, proxies_for, proxy_of
from muster.wire.base import Message
from muster.wire.problems import ProblemError, ProblemType

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["BINARY", "Answer", "Transport", "UnreachableError"]

BINARY = "application/octet-stream"
_JSON = "application/json"
_AGENT = f"muster/{__version__}"
_DOTS = 2  # in a JSON Web Token
_FIRST_WAIT, _LONGEST_WAIT, _JITTER = 0.1, 5.0, 0.5  # seconds between attempts, where the coordinator names none
_REPEATED = frozenset({ProblemType.UNAVAILABLE, ProblemType.RATE_LIMITED, ProblemType.UPDATE_TRUNCATED})
# Before 25.2 (the last for Python 3.9 is 25.1) stamina can't be told how long to wait; a `Retry-After` then is the caller's.
_WAITS_AS_TOLD = tuple(int(part) for part in version("stamina").split(".")[:2]) >= (25, 2)

# Each retry is a line in stamina's log, which Python would print to stderr in an application that set up no logging.
logging.getLogger("stamina").addHandler(logging.NullHandler())

M = TypeVar("M", bound=Message)
T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """What another service than the coordinator answered."""

    status: int
    reason: str
    headers: Mapping[str, str]


class _Bearer(AuthBase):
    """The header as `auth`, since requests replaces a plain header by what a .netrc says."""

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
      session: The session to send with: proxies, certificates, authentication of the deployment. One of `new_session`
        if None.
      token: Sent to the coordinator as `Authorization: Bearer` with each request that has no other token.
      connect_seconds: Longest time for a connection, and for sending each piece of a body.
      read_seconds: Longest silence of the coordinator.
      attempts: Most attempts of a request.
      patience: Longest `Retry-After`, in seconds, to wait for here; a longer one is raised.

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
        patience: float = 10.0,
    ) -> None:
        if not _is_address(url):
            detail = f"{url!r} is no coordinator's address; it looks like http://127.0.0.1:8080"
            raise ProblemError(ProblemType.INVALID_REQUEST, detail)
        self.url = url.rstrip("/")
        self._session = new_session() if session is None else session
        self._token = token
        self._timeouts = (connect_seconds, read_seconds)
        self._attempts = attempts
        self._patience = patience

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
        """Sends a message and reads the answer.

        Args:
          method: The HTTP method.
          path: The path at the coordinator.
          answer: The answer's type.
          message: The body.
          token: Overrides the transport's token.
          params: The query.
          attempts: Overrides the transport's attempts.
          seconds: Longest time for a connection, and longest silence; overrides those of the transport.
          on_date: Called with the `Date` of the answer; None if it has none.

        Raises:
          ProblemError: the coordinator refused.
          UnreachableError: no attempt got an answer of a coordinator; `ForeignAnswerError`, if another server answered.
        """
        body = None if message is None else message.encode()

        def read(response: requests.Response) -> M:
            found = self._message(response, answer)
            on_date(date_of(response.headers))
            return found

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

    def upload(self, path: str, body: Union[Body, bytes], *, answer: type[M], token: Optional[str] = None) -> M:
        """PUTs bytes with their Content-Length, and their encoding if they have one, and reads the answer. Raises as `call`."""
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
        """PUTs bytes whose answer says nothing. Raises as `call`."""
        self._send("PUT", path, lambda _: None, body=body, content_type=content_type)

    def download(self, url: str, *, limit: Optional[int] = None) -> bytes:
        """Fetches bytes: encoded, if the coordinator offers that and a `limit` is set; in parts, if there may be many.

        Resumes a broken download, as long as each round of attempts makes progress.

        Args:
          url: A path at the coordinator, or an absolute address.
          limit: The most bytes to accept, after decoding.

        Raises:
          ProblemError: as `call`; `too_large`, if there are more than `limit` bytes; `internal`, if they do not have
            the declared encoding.
          UnreachableError: as `call`; `ForeignAnswerError` also for a page or a message in place of the file.
        """
        receiving = Receiving(url, limit=limit)
        while True:
            before = receiving.size
            try:
                whole = self._send("GET", url, receiving.read, headers=receiving.headers)
                if whole is not None:
                    return whole
            except UnreachableError as error:
                if not error.again or receiving.size < before + PROGRESS:
                    raise

    def exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: Union[Sized, Iterable[memoryview], None] = None,
        seconds: Optional[float] = None,
    ) -> Answer:
        """Sends one request to another service, without the session's credentials, in one attempt. Returns any answer.

        Args:
          method: The HTTP method.
          url: An absolute address. It may be a secret, so no error quotes it.
          headers: All relevant headers.
          body: Iterable of pieces, with a length.
          seconds: As in `call`.

        Raises:
          UnreachableError: there was no answer.
        """
        with (
            reaching(host_of(url), what="store", quote=False, proxy_of=lambda: proxy_of(self._session, url)),
            self._session.request(
                method,
                url,
                data=cast("Any", body),
                # None takes out what the session would add.
                headers={"User-Agent": _AGENT, "Authorization": None, "Content-Type": None, **headers},
                auth=_Bearer(None),
                timeout=self._timeouts if seconds is None else seconds,
                proxies=proxies_for(url),
                stream=True,
                allow_redirects=False,
            ) as response,
        ):
            return Answer(response.status_code, response.reason, response.headers)

    def repeat(self, once: Callable[[], T], *, attempts: Optional[int] = None) -> T:
        """Calls `once`, again while it raises what a repeat may mend."""
        retrying = stamina.RetryingCaller(
            attempts=attempts or self._attempts,
            timeout=None,
            wait_initial=_FIRST_WAIT,
            wait_max=_LONGEST_WAIT,
            wait_jitter=_JITTER,
        )
        return retrying(self._again, once)

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
    ) -> T:
        elsewhere = urlsplit(path).scheme in ("http", "https")
        url = path if elsewhere else self.url + path
        bearer = token if token is not None or elsewhere else self._token
        common = {"User-Agent": _AGENT}
        if content_type is not None:
            common["Content-Type"] = content_type
        if token is None and bearer is not None and bearer.count(".") == _DOTS:
            # Cloud Run takes the signature off what it finds in Authorization, unless it finds this one.
            common["X-Serverless-Authorization"] = f"Bearer {bearer}"

        def through() -> Optional[str]:
            return proxy_of(self._session, url)

        def once() -> T:
            with (
                reaching(without_credentials(self.url), proxy_of=through),
                self._session.request(
                    method,
                    url,
                    data=cast("Any", body),  # the stubs know of no iterable of memory views
                    params=params,
                    headers={**common, **headers()},
                    auth=_Bearer(bearer),
                    timeout=self._timeouts if seconds is None else seconds,
                    proxies=proxies_for(url),
                    stream=True,
                    allow_redirects=False,
                ) as response,
            ):
                if response.status_code >= 300:  # noqa: PLR2004
                    raise refusal(response, proxy=through(), sent=0 if body is None else len(body))
                return read(response)

        return self.repeat(once, attempts=attempts)

    def _again(self, error: Exception) -> Union[bool, float]:
        """Returns whether to retry a request after `error`, or the seconds to wait before that."""
        if isinstance(error, UnreachableError):
            wanted = error.again
        elif isinstance(error, ProblemError):
            wanted = error.type in _REPEATED or error.retry_after is not None
        else:
            return False
        if not wanted or error.retry_after is None:
            return wanted
        if not _WAITS_AS_TOLD or error.retry_after > self._patience:
            return False
        # Up to a quarter more, so that clients which were sent away together do not come back together.
        return max(error.retry_after, _FIRST_WAIT) * (1 + random.random() / 4)  # noqa: S311

    def _message(self, response: requests.Response, kind: type[M]) -> M:
        content_type = response.headers.get("Content-Type", "")
        if not content_type.startswith(_JSON):
            raise not_ours(response, f"a message is {_JSON}", proxy=proxy_of(self._session, response.url))
        try:
            return kind.decode(response.content)
        except ProblemError as error:
            raise not_ours(response, "its fields are others", proxy=proxy_of(self._session, response.url)) from error


def _is_address(url: str) -> bool:
    """Returns whether requests can be sent to `url`."""
    try:
        place = urlsplit(url)
        if place.scheme not in ("http", "https") or not place.hostname:
            return False
        place.hostname.encode("idna")
        requests.Request("GET", url).prepare()
    except (ValueError, UnicodeError):  # requests' InvalidURL is a ValueError; a port may be none
        return False
    return True
