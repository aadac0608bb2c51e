"""Typed errors of requests between a client and a service, by the origin of the answer.

    ConnectionError
    └── UnreachableError           no answer of a coordinator: no answer at all, or another server's
        ├── ForeignAnswerError     an answer of another server: a proxy, an ingress, a guest network's login page
        └── ConfigurationError     this machine's settings prevent requests; waiting does not help
    ProblemError (muster.wire)     a problem document that a coordinator wrote

Only a `ProblemError` is final (decision 0035).
"""

from __future__ import annotations

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
_MAX_PROBLEM = 1 << 16  # bytes of a problem document
_PREFIX = "https://muster.dev/problems/"
_QUICKLY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})  # and all from 520 on, which content networks use
_FIRST_CUSTOM = 520
_TOO_LARGE = 413
_BETWEEN = (
    "Something between here and the coordinator answered (a proxy, an ingress, a guest network's login page), or the address "
    "is another service's: check --url or MUSTER_URL, and the network."
)
_FIX_TRUST = (
    "If the certificate is of a company's own authority, add that authority to the system's CA store, or name its file in "
    "SSL_CERT_FILE or REQUESTS_CA_BUNDLE. On a guest network, log in first."
)


class UnreachableError(ConnectionError):
    """Error raised when the coordinator or its store can't be reached, or the connection breaks.

    Attributes:
      url: The address.
      what: The service, `coordinator` or `store`.
      reason: The cause.
      again: Whether a retry within seconds may help.
      fix: Suggested fix; empty if unknown.
      retry_after: Seconds after which to retry, if the answer has them.
    """

    def __init__(
        self,
        url: str,
        reason: str,
        *,
        again: bool = True,
        what: str = "coordinator",
        proxy: Optional[str] = None,
        fix: str = "",
    ) -> None:
        through = "" if proxy is None else f" through the proxy {proxy}"
        super().__init__(f"Can't reach the {what} at {url}{through}: {reason}")
        self.url = url
        self.what = what
        self.reason = reason
        self.again = again
        self.fix = fix
        self.retry_after: Optional[float] = None


class ConfigurationError(UnreachableError):
    """Error raised when this machine's proxy or certificate settings prevent requests. Waiting does not help."""


class ForeignAnswerError(UnreachableError):
    """Error raised when another server than a coordinator answered. `status`: the HTTP status of the answer."""

    def __init__(
        self, url: str, reason: str, *, status: int, again: bool, proxy: Optional[str] = None, what: str = "coordinator"
    ) -> None:
        super().__init__(url, reason, again=again, what=what, proxy=proxy, fix=_BETWEEN)
        self.status = status


@contextmanager
def reaching(
    url: str, *, what: str = "coordinator", quote: bool = True, proxy_of: Callable[[], Optional[str]] = lambda: None
) -> Iterator[None]:
    """Translates the exceptions of requests.

    Args:
      url: The address to name.
      what: The service at the address.
      quote: Whether the error may quote requests, which names the whole address.
      proxy_of: Returns the proxy that the request takes, as text.
    """

    def error_of(reason: str, *, again: bool = True, fix: str = "") -> UnreachableError:
        return UnreachableError(url, reason, again=again, what=what, proxy=proxy_of(), fix=fix)

    try:
        yield
    except UnreachableError:
        raise
    except requests.exceptions.SSLError as error:
        reason, fix = _tls_reason(error)
        raise error_of(reason, again=False, fix=fix) from error
    except requests.exceptions.ProxyError as error:
        raise error_of(_proxy_reason(error), fix=_proxy_fix(error)) from error
    except (
        requests.exceptions.ConnectionError,
        requests.exceptions.Timeout,
        requests.exceptions.ChunkedEncodingError,
        requests.exceptions.ContentDecodingError,
        urllib3.exceptions.HTTPError,  # from a body that is read past requests
    ) as error:
        raise error_of(_reason(error, quote=quote)) from error
    except (requests.exceptions.InvalidProxyURL, requests.exceptions.InvalidSchema) as error:
        proxy = proxy_of()
        if proxy is None:
            raise error_of(str(error) if quote else type(error).__name__, again=False) from error
        fix = "A SOCKS proxy needs `pip install 'requests[socks]'`." if "SOCKS" in str(error) else ""
        reason = "requests can't use this proxy"
        raise ConfigurationError(url, reason, again=False, what=what, proxy=proxy, fix=fix) from error
    except requests.exceptions.RequestException as error:
        raise error_of(str(error) if quote else type(error).__name__, again=False) from error
    except OSError as error:  # requests opens the certificate files before it connects
        reason = f"the certificates that are configured can't be read ({error})"
        fix = "Check REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE and SSL_CERT_FILE."
        raise ConfigurationError(url, reason, again=False, what=what, fix=fix) from error


def refusal(response: requests.Response, *, proxy: Optional[str] = None, sent: int = 0) -> Exception:
    """Returns the error that an unsuccessful answer represents.

    Args:
      response: The answer.
      proxy: The proxy that it passed, as text.
      sent: Bytes of the request's body.

    Returns:
      `ProblemError` if a coordinator wrote it, else `ForeignAnswerError`.
    """
    header = retry_after_of(response.headers)
    problem = _problem_of(response)
    if problem is not None:
        problem.retry_after = bounded_wait(problem.retry_after, at_most=MAX_WAIT) or bounded_wait(
            header, at_most=MAX_WAIT
        )
        return problem
    status = response.status_code
    said = f"it answered {status} {response.reason or ''}".rstrip() + _type_of(response.headers)
    if status < 400:  # noqa: PLR2004
        reason = f"{said}, which sends requests on to {_bare(response.headers.get('Location'))}; if it is there now, use that address"
    elif status == _TOO_LARGE:
        reason = f"{said}: something between this client and the coordinator refuses bodies of {sent} bytes"
    else:
        reason = f"{said}, and not as a coordinator does"
    again = status in _QUICKLY_AGAIN or status >= _FIRST_CUSTOM
    error = ForeignAnswerError(without_credentials(response.url), reason, status=status, again=again, proxy=proxy)
    error.retry_after = bounded_wait(header, at_most=MAX_FOREIGN_WAIT)
    return error


def not_ours(response: requests.Response, why: str, *, proxy: Optional[str] = None) -> ForeignAnswerError:
    """Returns the error for a successful answer that is not a coordinator's."""
    said = f"it answered {response.status_code}{_type_of(response.headers)}"
    reason = f"{said}, which no coordinator does ({why}): check the address"
    url = without_credentials(response.url)
    return ForeignAnswerError(url, reason, status=response.status_code, again=True, proxy=proxy)


def is_page(headers: Mapping[str, str]) -> bool:
    """Returns whether an answer is a web page, so not from a coordinator or a store."""
    return media_type(headers) in ("text/html", "application/xhtml+xml")


def media_type(headers: Mapping[str, str]) -> str:
    """Returns the media type of an answer without its parameters; empty if unset."""
    return headers.get("Content-Type", "").partition(";")[0].strip().lower()


def date_of(headers: Mapping[str, str]) -> Optional[datetime]:
    """Returns the `Date` of an answer (RFC 9110 §6.6.1), or None."""
    return _http_date(headers.get("Date"))


def retry_after_of(headers: Mapping[str, str]) -> Optional[float]:
    """Returns the seconds of `Retry-After` (RFC 9110 §10.2.3): a number, or a date less the answer's `Date`.

    This device's clock is never read: it may be wrong. Returns None if the header is missing or not valid.
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
        found = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)


def _problem_of(response: requests.Response) -> Optional[ProblemError]:
    """Returns the problem document of a coordinator that an answer carries, or None."""
    if media_type(response.headers) != problems.CONTENT_TYPE:
        return None
    body = b"".join(response.iter_content(_MAX_PROBLEM))[:_MAX_PROBLEM]
    try:
        problem = Problem.model_validate_json(body)
    except ValidationError:
        return None
    return ProblemError.from_problem(problem) if problem.type.startswith(_PREFIX) else None


def _type_of(headers: Mapping[str, str]) -> str:
    return f" with {media_type(headers)[:60]}" if media_type(headers) else " without a content type"


def _bare(location: Optional[str]) -> str:
    """Returns an address without its query, which may hold secrets."""
    return "elsewhere" if not location else location.partition("?")[0].partition("#")[0][:200]


def _reason(error: BaseException, *, quote: bool) -> str:
    """The innermost reason in a few words; requests and urllib3 wrap it several times over."""
    if isinstance(error, requests.exceptions.Timeout):
        return "it did not answer in time"
    text = ""
    for inner in _chain(error):
        if isinstance(inner, OSError) and inner.strerror:
            text = inner.strerror
    return text or (str(error) if quote else type(error).__name__)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yields an error and all that it wraps, from the outside in."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        found = waiting.pop(0)
        if isinstance(found, BaseException) and id(found) not in seen:
            seen.add(id(found))
            yield found
            waiting += [found.__cause__, found.__context__, getattr(found, "reason", None), *found.args]


def _proxy_reason(error: BaseException) -> str:
    tunnel = [str(inner) for inner in _chain(error) if str(inner).startswith("Tunnel connection failed")]
    if tunnel:
        return f"the proxy refuses the connection ({tunnel[-1].partition(': ')[2]}); the coordinator was not tried"
    return f"the proxy can't be used ({_reason(error, quote=False)}); the coordinator was not tried"


def _proxy_fix(error: BaseException) -> str:
    if any("407" in str(inner) for inner in _chain(error)):
        return "The proxy requires credentials: http://USER:PASSWORD@HOST:PORT as its address."
    return "Check the proxy, or name the coordinator's host in NO_PROXY if it needs none."


# Codes of OpenSSL (x509_vfy.h), as in `ssl.SSLCertVerificationError.verify_code`.
_NOT_YET_VALID, _EXPIRED, _WRONG_HOST = 9, 10, (62, 64)
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "UNKNOWN_PROTOCOL")


def _tls_reason(error: BaseException) -> tuple[str, str]:
    """Returns the reason for which TLS failed, and the fix."""
    for inner in _chain(error):
        if isinstance(inner, ssl.SSLCertVerificationError):
            return _certificate_reason(inner)
        if type(inner).__name__ == "CertificateError":  # urllib3's own check of the name
            return _wrong_host(str(inner))
        if isinstance(inner, ssl.SSLError) and inner.reason in _NO_TLS:
            return (
                "what answers at this port does not speak TLS (https)",
                "Use http:// if that is what it speaks, or the port that speaks https.",
            )
    found = next((str(inner) for inner in _chain(error) if isinstance(inner, ssl.SSLError)), str(error))
    return f"TLS failed ({found})", "Check the path to the server: a proxy that opens TLS, or an old server."


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
        "Use the name that the certificate is for, or give the server one for this name. On a guest network, log in first.",
    )


def host_of(url: str) -> str:
    """Returns scheme and host of an address, which are not secret."""
    place = urlsplit(url)
    return f"{place.scheme}://{place.netloc.rpartition('@')[2]}"


def without_credentials(url: str) -> str:
    """Returns an address without the user name and password that it may hold."""
    place = urlsplit(url)
    return place._replace(netloc=place.netloc.rpartition("@")[2]).geturl()
