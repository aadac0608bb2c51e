"""Translation of Google's errors, and retries of idempotent or unexecuted calls only."""

from __future__ import annotations

import pytest
import requests
from google.api_core import exceptions
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError

from muster_coordinator.adapters.google_calls import Attempts, if_idempotent, if_not_done, translated
from muster_coordinator.ports import StoreError, UnavailableError

REFUSED = [
    exceptions.Aborted("x"),
    exceptions.ResourceExhausted("x"),
    exceptions.TooManyRequests("x"),
    TransportError("x"),
]
LOST = [
    exceptions.DeadlineExceeded("x"),
    exceptions.ServiceUnavailable("x"),
    exceptions.InternalServerError("x"),
    exceptions.BadGateway("x"),
    exceptions.Cancelled("x"),
    exceptions.Unknown("x"),
    requests.ConnectionError("x"),
    requests.ReadTimeout("x"),
]
FINAL = [
    exceptions.InvalidArgument("x"),
    exceptions.PermissionDenied("x"),
    exceptions.NotFound("x"),
    exceptions.MethodNotImplemented("x"),
    exceptions.Unauthenticated("x"),
    requests.exceptions.InvalidURL("x"),
]


def name_of(error):
    return type(error).__name__


@pytest.mark.parametrize(
    "error",
    [
        *REFUSED,
        *LOST,
        exceptions.RetryError("x", cause=None),
        RefreshError("x", retryable=True),
    ],
    ids=name_of,
)
def test_transient_errors_become_unavailable(error):
    with pytest.raises(UnavailableError, match=r"tasks/t1: .*x") as caught, translated("tasks/t1"):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [*FINAL, RefreshError("x")], ids=name_of)
def test_permanent_errors_become_store_errors(error):
    with pytest.raises(StoreError, match=r"tasks/t1: .*x") as caught, translated("tasks/t1"):
        raise error
    assert not isinstance(caught.value, UnavailableError)


def test_missing_credentials_are_reported_with_advice():
    with pytest.raises(StoreError, match="gcloud auth application-default login"), translated("gs://b"):
        raise DefaultCredentialsError("x")


@pytest.mark.parametrize("error", [ValueError("x"), StoreError("x"), OSError("x")], ids=name_of)
def test_other_errors_pass_through(error):
    with pytest.raises(type(error)) as caught, translated("tasks/t1"):
        raise error
    assert caught.value is error


def tries(retry, error):
    """Returns the number of attempts of a call that fails once with `error`."""
    made = []

    def call():
        made.append(1)
        if len(made) == 1:
            raise error

    try:
        retry(call)()
    except type(error):
        assert len(made) == 1
    return len(made)


@pytest.mark.parametrize("error", [*REFUSED, *LOST], ids=name_of)
def test_transient_errors_are_retried_and_lost_responses_recorded(error):
    attempts = Attempts(5)
    assert tries(attempts.retry, error) == 2
    assert attempts.lost == (error in LOST)
    assert tries(if_idempotent(5), error) == 2
    assert tries(if_not_done(5), error) == 1 + (error in REFUSED)


@pytest.mark.parametrize("error", FINAL, ids=name_of)
def test_permanent_errors_are_not_retried(error):
    assert tries(Attempts(5).retry, error) == 1
