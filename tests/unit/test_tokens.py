"""What a cookie and an assignment remember of several tasks: how much, in what order, in how few bytes."""

from __future__ import annotations

from dataclasses import replace

import jwt
import pytest

from coordinator.domain.names import RoundKey
from coordinator.domain.slots import Ticket
from coordinator.tokens import SKEW, AssignmentClaims, CookieClaims, Tokens, last_of
from muster.wire.messages import CheckinRequest

NOW = 1_800_000_000.123456  # POSIX seconds
TOKENS = Tokens(b"k" * 32)


def told(task, *, age=10.0, life=86400.0):
    return CookieClaims(RoundKey(task, 3, 1), NOW - age, expires_at=NOW - age + life)


def assignment(*earlier):
    return AssignmentClaims(
        RoundKey("task", 3, 1), 2, "0" * 32, Ticket(1, 2), "f" * 64, NOW + 60, NOW, 1000, 5.0, earlier
    )


def test_what_a_cookie_tells_is_read_as_it_was_written_the_newest_first():
    for others in ([], [told("b")], [told("b", life=20), told("c", life=19.5)]):
        cookie = TOKENS.cookie(told("a", age=0), *others)
        assert TOKENS.read_cookie(cookie, now=NOW) == (told("a", age=0), *others)
        token = TOKENS.assignment(assignment(*others))
        assert TOKENS.read_assignment(token, now=NOW) == assignment(*others)


def test_each_of_a_cookies_contributions_is_over_by_itself():
    cookie = TOKENS.cookie(told("a", life=20), told("b", life=1000), told("c", age=-SKEW, life=1000))
    read = {seconds: TOKENS.read_cookie(cookie, now=NOW + seconds) for seconds in (-1, 9, 10, 990)}
    assert {seconds: [each.key.task for each in found] for seconds, found in read.items()} == {
        -1: ["a", "b"],  # the third is of the future still
        9: ["a", "c", "b"],
        10: ["c", "b"],
        990: ["c"],
    }
    token = TOKENS.assignment(assignment(told("b", life=30)))
    assert len(TOKENS.read_assignment(token, now=NOW).earlier) == 1
    assert TOKENS.read_assignment(token, now=NOW + 20).earlier == ()


def test_a_cookie_of_the_version_before_can_be_carried_on():
    endless = replace(told("old"), expires_at=None)
    token = TOKENS.assignment(assignment(endless, told("b")))
    assert set(TOKENS.read_assignment(token, now=NOW).earlier) == {endless, told("b")}


def test_of_many_tasks_a_token_keeps_what_matters_longest():
    others = [told(f"t{number}", life=1000.0 * number) for number in range(1, 30)]
    kept = TOKENS.read_cookie(TOKENS.cookie(told("a"), *others), now=NOW)
    assert [each.key.task for each in kept] == ["a", "t29", "t28", "t27", "t26", "t25", "t24", "t23"]
    assert last_of("t25", kept) == told("t25", life=25_000.0)
    assert last_of("t1", kept) is None


@pytest.mark.parametrize("others", [30, 7])
def test_tokens_stay_small_with_the_longest_of_names(others):
    name = "x" * 61
    many = [
        CookieClaims(RoundKey(f"{name}{number:02d}", 999_999, 9_999), NOW - 1e6 / 3, expires_at=NOW + 1e6 / 3)
        for number in range(others)
    ]
    cookie = TOKENS.cookie(many[0], *many[1:])
    token = TOKENS.assignment(replace(assignment(*many), key=many[0].key))
    assert max(len(cookie), len(token)) < 2560
    assert CheckinRequest.decode(CheckinRequest(cookie=cookie).encode()).cookie == cookie


def test_what_is_told_of_one_task_alone_is_in_no_more_bytes_than_before():
    assert "earlier" not in jwt.decode(TOKENS.cookie(told("a")), options={"verify_signature": False})
    assert "earlier" not in jwt.decode(TOKENS.assignment(assignment()), options={"verify_signature": False})


def test_one_past_looks_otherwise_in_each_token():
    first, second = (TOKENS.assignment(replace(assignment(told("b")), pseudonym=each * 32)) for each in "12")
    claims = [jwt.decode(token, options={"verify_signature": False}) for token in (first, second)]
    assert claims[0]["earlier"] != claims[1]["earlier"]
