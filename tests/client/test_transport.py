"""Retries, waits and error texts of `Transport`."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import stamina
from support.double import Double, plain, problem

from muster.client import ForeignAnswerError, TensorBody, Transport, UnreachableError
from muster.transport import http
from muster.transport.failures import MAX_FOREIGN_WAIT, bounded_wait, retry_after_of
from muster.wire.messages import CheckinRequest, CheckinResponse
from muster.wire.problems import CONTENT_TYPE, FieldError, ProblemError, ProblemType
from muster.wire.tensors import encode

PATH = "/v1/populations/devices:checkin"
FOREIGN = '{"type": "about:blank", "title": "Forbidden", "status": 403, "detail": "by a gateway"}'


def ask(double: Double, **more: Any) -> CheckinResponse:
    with Transport(double.url, **more) as http:
        return http.call("POST", PATH, message=CheckinRequest(), answer=CheckinResponse)


@pytest.mark.skipif(not http._CAN_SET_WAIT, reason="stamina for Python 3.9 can't set the wait")
def test_retry_after_is_obeyed(double: Double) -> None:
    double.faults[f"POST {PATH}"] = [problem(ProblemType.UNAVAILABLE, retry_after=0.7)]
    waits: list[float] = []
    before = stamina.instrumentation.get_on_retry_hooks()
    stamina.instrumentation.set_on_retry_hooks([lambda details: waits.append(details.wait_for)])
    started = time.monotonic()
    try:
        ask(double)
    finally:
        stamina.instrumentation.set_on_retry_hooks(before)
    (planned,) = waits  # with jitter
    assert 0.7 <= planned < 2
    assert time.monotonic() - started >= 0.7


def test_retry_after_beyond_the_maximum_is_raised(double: Double) -> None:
    double.faults[f"POST {PATH}"] = [plain(503, **{"Retry-After": "600"})]
    with pytest.raises(ForeignAnswerError) as raised:
        ask(double)
    assert (raised.value.status, raised.value.retry_after) == (503, 600)
    assert double.requests[f"POST {PATH}"] == 1


def test_problem_document_is_raised_with_its_fields(double: Double) -> None:
    fields = (FieldError(path="a.b", reason="is wrong"),)
    double.faults[f"POST {PATH}"] = [problem(ProblemType.INVALID_REQUEST, fields=fields)]
    with pytest.raises(ProblemError) as raised:
        ask(double)
    assert raised.value.fields == fields
    assert double.requests[f"POST {PATH}"] == 1


@pytest.mark.parametrize(
    ("fault", "status", "text"),
    [
        (plain(200, "<html>"), 200, "check the address"),
        (plain(200, '{"login": "please"}', **{"Content-Type": "application/json"}), 200, "check the address"),
        (plain(404), 404, "404"),
        (plain(301, Location="https://else.where/?token=1"), 301, "https://else.where/"),
        (plain(418), 418, "418"),
        (plain(403, FOREIGN, **{"Content-Type": CONTENT_TYPE}), 403, "403"),
        (plain(403, "{", **{"Content-Type": CONTENT_TYPE}), 403, "403"),
        (plain(413), 413, "refuses bodies of 2 bytes"),
    ],
)
def test_answer_of_another_server_is_a_foreign_answer(double: Double, fault: Any, status: int, text: str) -> None:
    double.faults[f"POST {PATH}"] = [fault]
    with pytest.raises(ForeignAnswerError, match=text) as raised:
        ask(double, attempts=1)
    assert raised.value.status == status
    assert "token" not in str(raised.value)


@pytest.mark.parametrize(
    ("header", "date", "seconds"),
    [
        ("7", None, 7),
        ("86400", None, 3600),  # another server may request at most an hour
        ("9" * 400, None, 3600),
        ("0", None, None),
        ("-5", None, None),
        ("1e3", None, None),
        ("٣", None, None),  # digits of another script
        ("soon", None, None),
        ("Sun, 01 Mar 2020 12:00:05 GMT", "Sun, 01 Mar 2020 12:00:00 GMT", 5),
        ("Sun, 01 Mar 2020 12:00:05 GMT", "Sun, 01 Mar 2020 12:00:09 GMT", None),
        ("Sun, 01 Mar 2020 12:00:05 GMT", None, None),  # this device's clock is not read
        ("Sun, 01 Mar 2020 12:00:05 -0000", "Sun, 01 Mar 2020 12:00:00 GMT", 5),
        ("Mon, 31 Dec 9999 23:59:59 GMT", "Sun, 01 Mar 2020 12:00:00 GMT", 3600),
        ("Mon, 99 Mar 2020 12:00:05 GMT", "Sun, 01 Mar 2020 12:00:00 GMT", None),
    ],
)
def test_retry_after_counts_from_the_date_header_and_is_bounded(
    header: str, date: str | None, seconds: float | None
) -> None:
    headers = {"Retry-After": header} if date is None else {"Retry-After": header, "Date": date}
    assert bounded_wait(retry_after_of(headers), at_most=MAX_FOREIGN_WAIT) == seconds


def test_coordinator_may_request_a_wait_of_at_most_a_day(double: Double) -> None:
    double.faults[f"POST {PATH}"] = [problem(ProblemType.UNAVAILABLE, retry_after=1e9)]
    with pytest.raises(ProblemError) as raised:
        ask(double)
    assert raised.value.retry_after == 86400


def test_credentials_of_a_url_are_not_quoted(unused_port: int) -> None:
    with Transport(f"http://user:secret@127.0.0.1:{unused_port}", attempts=1) as http:
        with pytest.raises(UnreachableError) as raised:
            http.call("POST", PATH, message=CheckinRequest(), answer=CheckinResponse)
        assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8080", "ftp://x", "http://", "http://x:port", "http://[::1", f"http://{'x' * 64}.example", "http://*"],
)
def test_invalid_address_is_refused_at_construction(url: str) -> None:
    with pytest.raises(ProblemError, match="address"):
        Transport(url)


def test_body_yields_the_file_in_chunks_repeatedly() -> None:
    tensors = {"big": np.arange(100_000.0), "none": np.zeros((0, 3), np.float32), "text": np.array(["a", "bc"])}
    body = TensorBody(tensors)
    for _ in range(2):
        pieces = list(body)
        assert b"".join(pieces) == encode(tensors)
        assert max(map(len, pieces)) <= 1 << 17
    assert len(body) == len(encode(tensors))
