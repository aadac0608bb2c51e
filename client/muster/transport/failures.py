"""Typed errors of requests between a client and a service, by the origin of the answer.

    ConnectionError
    └── UnreachableError           the coordinator did not answer
        ├── ForeignAnswerError     another server answered, such as a proxy or a login page
        └── ConfigurationError     this machine's settings prevent requests; waiting does not help
    ProblemError (muster.wire)     the coordinator answered with a problem document

Only a `ProblemError` is final (decision 0035).
"""

from __future__ import annotations

import http.client
import math
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Callable, Optional
from urllib.parse import urlsplit

import requests
import urllib3
from pydantic import ValidationError

from muster.wire import problems
from muster.wire.problems import Problem, ProblemError

MAX_WAIT = 86400.0  # longest wait that a coordinator may ask for, in seconds
MAX_FOREIGN_WAIT = 3600.0  # longest wait that any other server may ask for, in seconds
_MAX_PROBLEM_BYTES = 1 << 16  # bytes of a problem document
_PREFIX = "https://muster.dev/problems/"
_RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_FIRST_CUSTOM_STATUS = 520  # content delivery networks use 520 and above for failures of the origin
_TOO_LARGE = 413
_FIX_ADDRESS = (
    "Something between here and the coordinator answered (a proxy, an ingress, a guest network's login page), "
    "or the address belongs to another service: check --url or MUSTER_URL, and the network."
)
_FIX_TRUST = (
    "If a company's own authority issued the certificate, add that authority to the system's CA store, or name "
    "its file in SSL_CERT_FILE or REQUESTS_CA_BUNDLE. On a guest network, log in first."
)


class UnreachableError(ConnectionError):
    """Error raised when the coordinator or its store can't be reached, or the connection breaks.

    Attributes:
      url: The address.
      service: `coordinator` or `store`.
      reason: The cause.
      retryable: Whether a retry within seconds may help.
      fix: Suggested fix; empty if unknown.
      retry_after: Seconds after which to retry, if the answer names them.
    """

    def __init__(
        self,
        url: str,
        reason: str,
        *,
        retryable: bool = True,
        service: str = "coordinator",
        proxy: Optional[str] = None,
        fix: str = "",
    ) -> None:
        through = "" if proxy is None else f" through the proxy {proxy}"
        super().__init__(f"Can't reach the {service} at {url}{through}: {reason}")
        self.url = url
        self.service = service
        self.reason = reason
        self.retryable = retryable
        self.fix = fix
        self.retry_after: Optional[float] = None


class ConfigurationError(UnreachableError):
    """Error raised when this machine's proxy or CA settings are unusable. Waiting does not help."""


class ForeignAnswerError(UnreachableError):
    """Error raised when a server other than the coordinator answered. `status`: its HTTP status."""

    def __init__(
        self,
        url: str,
        reason: str,
        *,
        status: int,
        retryable: bool,
        proxy: Optional[str] = None,
        service: str = "coordinator",
    ) -> None:
        super().__init__(url, reason, retryable=retryable, service=service, proxy=proxy, fix=_FIX_ADDRESS)
        self.status = status


@contextmanager
def translate_errors(
    url: str, *, service: str = "coordinator", quote: bool = True, proxy_of: Callable[[], Optional[str]] = lambda: None
) -> Iterator[None]:
    """Translates exceptions of the HTTP library inside the block into `UnreachableError`.

    Args:
      url: The address for the error text.
      service: The service at the address: `coordinator` or `store`.
      quote: Whether the error may quote the library's text, which holds the whole address.
      proxy_of: Returns the proxy of the request, for the error text, or None.
    """

    def error_of(reason: str, *, retryable: bool = True, fix: str = "") -> UnreachableError:
        return UnreachableError(url, reason, retryable=retryable, service=service, proxy=proxy_of(), fix=fix)

    try:
        yield
    except UnreachableError:
        raise
    except requests.exceptions.SSLError as error:
        reason, fix = _tls_reason(error)
        raise error_of(reason, retryable=False, fix=fix) from error
    except requests.exceptions.ProxyError as error:
        raise error_of(_proxy_reason(error), fix=_proxy_fix(error)) from error
    except (
        requests.exceptions.ConnectionError,
        requests.exceptions.Timeout,
        requests.exceptions.ChunkedEncodingError,
        requests.exceptions.ContentDecodingError,
        urllib3.exceptions.HTTPError,  # `downloads` reads bodies without `requests`
    ) as error:
        raise error_of(_reason(error, quote=quote)) from error
    except (requests.exceptions.InvalidProxyURL, requests.exceptions.InvalidSchema) as error:
        proxy = proxy_of()
        if proxy is None:
            raise error_of(str(error) if quote else type(error).__name__, retryable=False) from error
        fix = "A SOCKS proxy needs `pip install 'requests[socks]'`." if "SOCKS" in str(error) else ""
        reason = "this kind of proxy is not supported"
        raise ConfigurationError(url, reason, retryable=False, service=service, proxy=proxy, fix=fix) from error
    except requests.exceptions.RequestException as error:
        raise error_of(str(error) if quote else type(error).__name__, retryable=False) from error
    except OSError as error:  # requests opens the certificate files before it connects
        reason = f"the certificates that are configured can't be read ({error})"
        fix = "Check REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE and SSL_CERT_FILE."
        raise ConfigurationError(url, reason, retryable=False, service=service, fix=fix) from error


def error_from_answer(response: requests.Response, *, proxy: Optional[str] = None, sent: int = 0) -> Exception:
    """Returns the error for an answer with status 300 or above.

    Args:
      response: The answer.
      proxy: The proxy of the request, for the error text.
      sent: Bytes of the request's body.

    Returns:
      `ProblemError` if a coordinator wrote the answer, else `ForeignAnswerError`.
    """
    header = retry_after_of(response.headers)
    problem = _problem_of(response)
    if problem is not None:
        problem.retry_after = bounded_wait(problem.retry_after, at_most=MAX_WAIT) or bounded_wait(
            header, at_most=MAX_WAIT
        )
        return problem
    status = response.status_code
    answer = f"it answered {status} {response.reason or ''}".rstrip() + _type_of(response.headers)
    if status < 400:  # noqa: PLR2004
        location = _without_query(response.headers.get("Location"))
        reason = f"{answer}, a redirect to {location}; if the coordinator has moved there, use that address"
    elif status == _TOO_LARGE:
        reason = f"{answer}: something between this client and the coordinator refuses bodies of {sent} bytes"
    else:
        reason = f"{answer}, which is not a coordinator's answer"
    retryable = status in _RETRYABLE_STATUSES or status >= _FIRST_CUSTOM_STATUS
    error = ForeignAnswerError(
        without_credentials(response.url), reason, status=status, retryable=retryable, proxy=proxy
    )
    error.retry_after = bounded_wait(header, at_most=MAX_FOREIGN_WAIT)
    return error


def foreign_answer(response: requests.Response, expected: str, *, proxy: Optional[str] = None) -> ForeignAnswerError:
    """Returns the error for a successful answer that no coordinator would send.

    Args:
      response: The answer.
      expected: Description of the expected answer, in a few words.
      proxy: The proxy of the request, for the error text.
    """
    answer = f"it answered {response.status_code}{_type_of(response.headers)}"
    reason = f"{answer}, which is not a coordinator's answer ({expected}): check the address"
    url = without_credentials(response.url)
    return ForeignAnswerError(url, reason, status=response.status_code, retryable=True, proxy=proxy)


def is_page(headers: Mapping[str, str]) -> bool:
    """Returns whether an answer is a web page, which neither a coordinator nor a store sends."""
    return media_type(headers) in ("text/html", "application/xhtml+xml")


def media_type(headers: Mapping[str, str]) -> str:
    """Returns the media type of an answer without its parameters; empty if unset."""
    return headers.get("Content-Type", "").partition(";")[0].strip().lower()


def date_of(headers: Mapping[str, str]) -> Optional[datetime]:
    """Returns the `Date` of an answer (RFC 9110 §6.6.1), or None."""
    return _http_date(headers.get("Date"))


def retry_after_of(headers: Mapping[str, str]) -> Optional[float]:
    """Returns the seconds of `Retry-After` (RFC 9110 §10.2.3), or None if missing or not valid.

    A date counts from the answer's `Date`: this device's clock may be wrong and is not read.
    """
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])  # more digits exceed every bound
    until, since = _http_date(text), date_of(headers)
    return None if until is None or since is None else (until - since).total_seconds()


def bounded_wait(seconds: Optional[float], *, at_most: float) -> Optional[float]:
    """Returns `seconds`, bounded; None if they are None, not positive or not a number."""
    if seconds is None or math.isnan(seconds) or seconds <= 0:
        return None
    return min(seconds, at_most)


def _http_date(text: Optional[str]) -> Optional[datetime]:
    if not text:
        return None
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=timezone.utc)


def _problem_of(response: requests.Response) -> Optional[ProblemError]:
    """Returns the coordinator's problem document in an answer, or None."""
    if media_type(response.headers) != problems.CONTENT_TYPE:
        return None
    body = b"".join(response.iter_content(_MAX_PROBLEM_BYTES))[:_MAX_PROBLEM_BYTES]
    try:
        problem = Problem.model_validate_json(body)
    except ValidationError:
        return None
    return ProblemError.from_problem(problem) if problem.type.startswith(_PREFIX) else None


def _type_of(headers: Mapping[str, str]) -> str:
    return f" with {media_type(headers)[:60]}" if media_type(headers) else " without a content type"


def _without_query(location: Optional[str]) -> str:
    """Returns an address without its query, which may hold secrets."""
    return "elsewhere" if not location else location.partition("?")[0].partition("#")[0][:200]


_KNOWN_CAUSES: tuple[tuple[type[BaseException], str], ...] = (
    (http.client.RemoteDisconnected, "it closed the connection without an answer"),
    (http.client.IncompleteRead, "the connection broke in the middle of the answer"),
    (urllib3.exceptions.IncompleteRead, "the connection broke in the middle of the answer"),
    (http.client.BadStatusLine, "it does not speak HTTP"),
)


def _reason(error: BaseException, *, quote: bool) -> str:
    """Returns the innermost reason in a few words: the HTTP library wraps it several times."""
    if isinstance(error, requests.exceptions.Timeout):
        return "it did not answer in time"
    text = ""
    for inner in _causes(error):
        if isinstance(inner, OSError) and inner.strerror:
            text = inner.strerror
    if text:
        return text
    for inner in _causes(error):
        for kind, reason in _KNOWN_CAUSES:
            if isinstance(inner, kind):
                return reason
    return str(error) if quote else type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yields an error and all errors that it wraps, from the outside in."""
    seen: set[int] = set()
    queue: list[object] = [error]
    while queue:
        item = queue.pop(0)
        if isinstance(item, BaseException) and id(item) not in seen:
            seen.add(id(item))
            yield item
            queue += [item.__cause__, item.__context__, getattr(item, "reason", None), *item.args]


def _proxy_reason(error: BaseException) -> str:
    tunnel = [str(inner) for inner in _causes(error) if str(inner).startswith("Tunnel connection failed")]
    if tunnel:
        return f"the proxy refuses the connection ({tunnel[-1].partition(': ')[2]}); the coordinator was not tried"
    return f"the proxy can't be used ({_reason(error, quote=False)}); the coordinator was not tried"


def _proxy_fix(error: BaseException) -> str:
    if any("407" in str(inner) for inner in _causes(error)):
        return "The proxy requires credentials: http://USER:PASSWORD@HOST:PORT as its address."
    return "Check the proxy, or name the coordinator's host in NO_PROXY if it needs none."


# Codes of OpenSSL (x509_vfy.h), as in `ssl.SSLCertVerificationError.verify_code`.
_NOT_YET_VALID, _EXPIRED, _WRONG_HOST = 9, 10, (62, 64)
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "UNKNOWN_PROTOCOL")


def _tls_reason(error: BaseException) -> tuple[str, str]:
    """Returns the reason for which TLS failed, and the fix."""
    for inner in _causes(error):
        if isinstance(inner, ssl.SSLCertVerificationError):
            return _certificate_reason(inner)
        if type(inner).__name__ == "CertificateError":  # urllib3's own check of the name
            return _wrong_host(str(inner))
        if isinstance(inner, ssl.SSLError) and inner.reason in _NO_TLS:
            return (
                "the server at this port does not speak TLS (https)",
                "Use http:// if the server speaks plain HTTP, or the port that speaks https.",
            )
    code = next((inner.reason or str(inner) for inner in _causes(error) if isinstance(inner, ssl.SSLError)), str(error))
    return f"TLS failed ({code})", "Check for a proxy that intercepts TLS, or for an outdated server."


def _certificate_reason(error: ssl.SSLCertVerificationError) -> tuple[str, str]:
    code, message = error.verify_code, error.verify_message
    if code in _WRONG_HOST:
        return _wrong_host(message)
    if code == _EXPIRED:
        return (
            "its certificate has expired",
            "Renew the coordinator's certificate; or set this device's clock, if it is ahead.",
        )
    if code == _NOT_YET_VALID:
        return "its certificate is not valid yet", "Set this device's clock: it is behind."
    return f"its certificate is not of an authority that this system trusts ({message})", _FIX_TRUST


def _wrong_host(message: str) -> tuple[str, str]:
    return (
        f"its certificate is for another host ({message.rstrip('.')})",
        "Use the name in the certificate, or get a certificate for this name. On a guest network, log in first.",
    )


def host_of(url: str) -> str:
    """Returns scheme and host of an address, which are not secret."""
    place = urlsplit(url)
    return f"{place.scheme}://{place.netloc.rpartition('@')[2]}"


def without_credentials(url: str) -> str:
    """Returns an address without its user name and password."""
    place = urlsplit(url)
    return place._replace(netloc=place.netloc.rpartition("@")[2]).geturl()
