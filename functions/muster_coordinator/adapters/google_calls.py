"""Retries calls to Google's services, and translates their errors into the ports' errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import requests
from google.api_core import exceptions, retry
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError

from muster_coordinator.ports import StoreError, UnavailableError

PATIENCE = 20.0  # seconds that a call may take, retries included

# The service did nothing, so every call may be retried. `TransportError`: no token was fetched.
_NOT_DONE = (exceptions.Aborted, exceptions.TooManyRequests, TransportError)
# The service may have done it; the response was lost.
_UNKNOWN_OUTCOME = (
    exceptions.InternalServerError,
    exceptions.BadGateway,
    exceptions.ServiceUnavailable,
    exceptions.GatewayTimeout,  # DeadlineExceeded too
    exceptions.Cancelled,
    exceptions.Unknown,
    requests.ConnectionError,
    requests.Timeout,
)


class ForbiddenError(StoreError):
    """Error raised when the function's service account lacks a permission."""


class Attempts:
    """Retry policy of one guarded write that records whether a response may have been lost.

    After a lost response, a retry that meets a conflict may have met its own earlier attempt.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self.lost = False
        self.retry = retry.Retry(
            predicate=retry.if_exception_type(*_NOT_DONE, *_UNKNOWN_OUTCOME),
            initial=0.05,
            maximum=2.0,
            multiplier=2.0,
            timeout=patience,
            on_error=self._note,
        )

    def _note(self, error: Exception) -> None:
        self.lost = self.lost or isinstance(error, _UNKNOWN_OUTCOME)


def if_idempotent(patience: float = PATIENCE) -> retry.Retry:
    """Returns the retry policy of reads and of idempotent writes."""
    return Attempts(patience).retry


def if_not_done(patience: float = PATIENCE) -> retry.Retry:
    """Returns the retry policy of writes that must not be done twice.

    It retries only after a response that says that nothing was done.
    """
    return retry.Retry(
        predicate=retry.if_exception_type(*_NOT_DONE), initial=0.05, maximum=2.0, multiplier=2.0, timeout=patience
    )


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Translates errors of Google's clients, and of their HTTP transport, into the ports' errors.

    Args:
      what: Name of the object or operation, for the message.

    Raises:
      UnavailableError: The failure is transient; retries have been used up.
      ForbiddenError: A permission is missing.
      StoreError: Any other failure. `NotFound` is one: a database or bucket that is not found does
        not exist. Only a queue may be inactive instead; see `cloud_tasks`.
    """
    try:
        yield
    except (*_NOT_DONE, *_UNKNOWN_OUTCOME, exceptions.RetryError) as error:
        raise UnavailableError(f"{what}: {error}") from error
    except DefaultCredentialsError as error:
        raise StoreError(
            f"{what}: there are no Google Cloud credentials here: run `gcloud auth application-default login`, "
            "or run on Google Cloud under a service account"
        ) from error
    except GoogleAuthError as error:
        raise (UnavailableError if error.retryable else StoreError)(f"{what}: {error}") from error
    except exceptions.Forbidden as error:
        raise ForbiddenError(
            f"{what}: {error}: grant the function's service account the role that this needs"
        ) from error
    except (exceptions.GoogleAPIError, requests.RequestException) as error:
        raise StoreError(f"{what}: {error}") from error
