from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import stamina
from support.double import Double, plain, problem

from muster.client import TensorBody, Transport, transport
from muster.wire.messages import CheckinRequest, CheckinResponse
from muster.wire.problems import FieldError, ProblemError, ProblemType
from muster.wire.tensors import encode

PATH = "/v1/populations/devices:checkin"


def ask(double: Double, **more: Any) -> CheckinResponse:
    with Transport(double.url, **more) as transport:
        return transport.call("POST", PATH, message=CheckinRequest(), answer=CheckinResponse)


@pytest.mark.skipif(not transport._WAITS_AS_TOLD, reason="stamina for Python 3.9 can't be told how long to wait")
def test_obeys_retry_after(double: Double) -> None:
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


def test_a_retry_after_beyond_its_patience_is_raised(double: Double) -> None:
    double.faults[f"POST {PATH}"] = [plain(503, **{"Retry-After": "600"})]
    with pytest.raises(ProblemError) as raised:
        ask(double)
    assert (raised.value.type, raised.value.retry_after) == (ProblemType.UNAVAILABLE, 600)
    assert double.requests[f"POST {PATH}"] == 1


def test_a_problem_comes_through_with_its_fields(double: Double) -> None:
    fields = (FieldError(path="a.b", reason="is wrong"),)
    double.faults[f"POST {PATH}"] = [problem(ProblemType.INVALID_REQUEST, fields=fields)]
    with pytest.raises(ProblemError) as raised:
        ask(double)
    assert raised.value.fields == fields
    assert double.requests[f"POST {PATH}"] == 1


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        (plain(200, "<html>"), ProblemType.INTERNAL, "check the address"),
        (plain(404), ProblemType.NOT_FOUND, "404"),
        (plain(301, Location="https://else.where/"), ProblemType.NOT_SUPPORTED, "https://else.where/"),
        (plain(418), ProblemType.INVALID_REQUEST, "418"),
    ],
)
def test_an_answer_that_is_no_coordinators_says_so(double: Double, fault: Any, kind: ProblemType, text: str) -> None:
    double.faults[f"POST {PATH}"] = [fault]
    with pytest.raises(ProblemError, match=text) as raised:
        ask(double)
    assert raised.value.type is kind


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://x", "http://"])
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(ProblemError, match="address"):
        Transport(url)


def test_a_body_is_the_file_in_pieces_and_can_be_sent_again() -> None:
    tensors = {"big": np.arange(100_000.0), "none": np.zeros((0, 3), np.float32), "text": np.array(["a", "bc"])}
    body = TensorBody(tensors)
    for _ in range(2):
        pieces = list(body)
        assert b"".join(pieces) == encode(tensors)
        assert max(map(len, pieces)) <= 1 << 17
    assert len(body) == len(encode(tensors))
