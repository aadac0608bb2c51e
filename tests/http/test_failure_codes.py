"""Failures are counted by their code, or by their reason if the client sends no code."""

from __future__ import annotations

import pytest
from support.harness import Harness
from support.plans import sum_update

from muster.wire.messages import FailureCode
from muster.wire.problems import ProblemError, ProblemType


@pytest.fixture
def harness(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=2, over_selection=10.0, rounds=1)
    return h


def test_failures_are_counted_by_code_or_reason(harness):
    for client, (reason, code) in enumerate(
        [("data", "data.missing"), ("data", "data.missing"), ("data", None), ("cancelled", "limits.time")]
    ):
        harness.report(harness.assigned(client).token, reason, code=code)
    expected = {"data.missing": 2, "data": 1, "limits.time": 1}
    assert harness.task().current.failed == expected
    for client in (10, 11):
        harness.upload(harness.assigned(client).token, sum_update(client))
    harness.deliver_all()
    assert harness.task().current.failed == expected  # after the round's end


def test_each_failure_frees_one_slot_whatever_its_code(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=2, over_selection=1.0)
    for number, code in enumerate(FailureCode):
        token = h.assigned(number).token
        h.report(token, code=code.value)
        h.report(token, code="other")  # a repeat counts once
    assert sum(h.task().current.failed.values()) == len(FailureCode)
    tokens = [h.assigned(client).token for client in (50, 51)]
    assert h.checkin(52).reason.value == "round_full"
    for number, token in enumerate(tokens):
        h.upload(token, sum_update(number))
    h.deliver_all()
    assert h.task().checkpoint == 1


def test_code_is_from_a_closed_list(harness):
    token = harness.assigned("a").token
    with pytest.raises(ProblemError) as refused:
        harness.ask(
            "POST", "/v1/updates:report", body=b'{"reason":"data","code":"data.patient_17"}', token=token
        )  # fmt: skip
    assert refused.value.type is ProblemType.INVALID_REQUEST
    assert harness.task().current.failed == {}
