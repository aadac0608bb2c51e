"""What the adapters of Google's services share: which failures pass, how long a call is tried, and our errors for theirs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import requests
from google.api_core import exceptions, retry
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError

from muster_coordinator.ports import StoreError, UnavailableError

PATIENCE = 20.0  # seconds that a call may take, its repeats included

# The service did nothing: whatever it was asked may be asked again.
_REFUSED = (exceptions.Aborted, exceptions.TooManyRequests, TransportError)  # the last: there was no token to send
# The service may have done it, and its answer was lost.
_LOST = (
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
    """The function's service account may not do that."""


class Attempts:
    """How one guarded write is repeated, and whether one of its answers may have been lost.

    After such a loss, a repeat that finds the write's place taken may have met its own work.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self.lost = False
        self.retry = retry.Retry(
            predicate=retry.if_exception_type(*_REFUSED, *_LOST),
            initial=0.05,
            maximum=2.0,
            multiplier=2.0,
            timeout=patience,
            on_error=self._note,
        )

    def _note(self, error: Exception) -> None:
        self.lost = self.lost or isinstance(error, _LOST)


def harmless(patience: float = PATIENCE) -> retry.Retry:
    """Repeats for reads, and for writes that do no harm when they are done twice."""
    return Attempts(patience).retry


def if_refused(patience: float = PATIENCE) -> retry.Retry:
    """Repeats for writes that must not be done twice: only after an answer that says that nothing was done."""
    return retry.Retry(
        predicate=retry.if_exception_type(*_REFUSED), initial=0.05, maximum=2.0, multiplier=2.0, timeout=patience
    )


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turns Google's errors, and those of its HTTP transport, into the ports'. `what` names the thing that was asked for."""
    try:
        yield
    except (*_REFUSED, *_LOST, exceptions.RetryError) as error:
        raise UnavailableError(f"{what}: {error}") from error
    except DefaultCredentialsError as error:
        raise StoreError(
            f"{what}: there are no Google Cloud credentials here: run `gcloud auth application-default login`, or run on "
            "Google Cloud under a service account"
        ) from error
    except GoogleAuthError as error:
        raise (UnavailableError if error.retryable else StoreError)(f"{what}: {error}") from error
    except exceptions.Forbidden as error:
        raise ForbiddenError(
            f"{what}: {error}: grant the function's service account the role that this takes"
        ) from error
    except (exceptions.GoogleAPIError, requests.RequestException) as error:
        raise StoreError(f"{what}: {error}") from error
