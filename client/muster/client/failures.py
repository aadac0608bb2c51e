"""What goes wrong between a client and a service, as our errors: no answer, a refusal, or an answer that is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from time import time
from typing import Optional

import requests
import urllib3
from pydantic import ValidationError

from muster.wire import problems
from muster.wire.problems import Problem, ProblemError, ProblemType

_BY_STATUS = {
    400: ProblemType.INVALID_REQUEST,
    401: ProblemType.UNAUTHENTICATED,
    403: ProblemType.FORBIDDEN,
    404: ProblemType.NOT_FOUND,
    405: ProblemType.METHOD_NOT_ALLOWED,
    409: ProblemType.CONFLICT,
    413: ProblemType.TOO_LARGE,
    415: ProblemType.ENCODING_NOT_SUPPORTED,
    429: ProblemType.RATE_LIMITED,
    501: ProblemType.NOT_SUPPORTED,
    502: ProblemType.UNAVAILABLE,
    503: ProblemType.UNAVAILABLE,
    504: ProblemType.UNAVAILABLE,
}


class UnreachableError(ConnectionError):
    """The coordinator, or its store, could not be reached, or the connection broke.

    `again`: whether a repeat may help. `what`: which of them, `coordinator` or `store`.
    """

    def __init__(self, url: str, reason: str, *, again: bool = True, what: str = "coordinator") -> None:
        super().__init__(f"Can't reach the {what} at {url}: {reason}")
        self.url = url
        self.what = what
        self.reason = reason
        self.again = again


@contextmanager
def reaching(url: str, *, what: str = "coordinator", quote: bool = True) -> Iterator[None]:
    """Turns what requests raises into our error. `quote`: whether the error may quote requests, which names the whole address."""

    def told(error: BaseException) -> str:
        return _reason(error, quote=quote)

    try:
        yield
    except requests.exceptions.SSLError as error:
        reason = f"its certificate is not accepted ({told(error)})"
        raise UnreachableError(url, reason, again=False, what=what) from error
    except (
        requests.exceptions.ConnectionError,
        requests.exceptions.Timeout,
        requests.exceptions.ChunkedEncodingError,
        requests.exceptions.ContentDecodingError,
        urllib3.exceptions.HTTPError,  # from a body that is read past requests
    ) as error:
        raise UnreachableError(url, told(error), what=what) from error
    except requests.exceptions.RequestException as error:
        text = str(error) if quote else type(error).__name__
        raise UnreachableError(url, text, again=False, what=what) from error


def refusal(response: requests.Response) -> ProblemError:
    """The problem that an answer stands for: the document it carries, or what its status says."""
    header = _seconds(response.headers.get("Retry-After"))
    if response.headers.get("Content-Type", "").startswith(problems.CONTENT_TYPE):
        try:
            problem = ProblemError.from_problem(Problem.model_validate_json(response.content))
        except ValidationError:
            pass
        else:
            if problem.retry_after is None:
                problem.retry_after = header
            return problem
    status = response.status_code
    if status < 400:  # noqa: PLR2004
        detail = (
            f"{response.url} sends requests on to {response.headers.get('Location', 'elsewhere')}: use that address"
        )
        return ProblemError(ProblemType.NOT_SUPPORTED, detail)
    kind = _BY_STATUS.get(status, ProblemType.INTERNAL if status >= 500 else ProblemType.INVALID_REQUEST)  # noqa: PLR2004
    return ProblemError(kind, f"{response.url} answered {status} {response.reason} and no reason", retry_after=header)


def _seconds(header: Optional[str]) -> Optional[float]:
    """The seconds of a Retry-After header (RFC 9110 §10.2.3): a number, or a date."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time())
    except (TypeError, ValueError):
        return None


def _reason(error: BaseException, *, quote: bool) -> str:
    """The innermost reason in a few words; requests and urllib3 wrap it several times over."""
    if isinstance(error, requests.exceptions.Timeout):
        return "it did not answer in time"
    found: Optional[BaseException] = error
    text = ""
    while found is not None:
        if isinstance(found, OSError) and found.strerror:
            text = found.strerror
        found = found.__cause__ or found.__context__
    return text or (str(error) if quote else type(error).__name__)
