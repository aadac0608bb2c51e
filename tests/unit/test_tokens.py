"""What a cookie and an assignment remember of several tasks: how much, in what order, in how few bytes."""

from __future__ import annotations

from dataclasses import replace

import jwt
import pytest

from muster.wire.messages import CheckinRequest
from muster_coordinator.domain.keys import KeyRing
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.slots import Ticket
from muster_coordinator.tokens import (
    MAX_CONTRIBUTIONS,
    SKEW,
    AssignmentClaims,
    CookieClaims,
    Tokens,
    last_of,
    last_that_separates,
)

NOW = 1_800_000_000.123456  # POSIX seconds
TOKENS = Tokens(b"k" * 32)


def told(task, *, age=10.0, life=86400.0, separates=False):
    return CookieClaims(RoundKey(task, 3, 1), NOW - age, expires_at=NOW - age + life, separates=separates)


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


def test_an_assignment_without_a_past_has_no_claim_for_it():
    assert "past" not in jwt.decode(TOKENS.assignment(assignment()), options={"verify_signature": False})


def test_of_many_contributions_the_last_that_separates_stays_whatever_expires_later():
    others = [told(f"t{number}", age=500.0 + number, life=9e6) for number in range(20)]
    others += [told("first", age=90, life=9e6, separates=True), told("last", age=50, life=200, separates=True)]
    for kept in (
        TOKENS.read_cookie(TOKENS.cookie(told("a"), *others), now=NOW),
        TOKENS.read_assignment(TOKENS.assignment(assignment(*others)), now=NOW).earlier,
    ):
        assert told("last", age=50, life=200, separates=True) in kept
        assert last_that_separates("other", kept).key.task == "last"
        assert len(kept) <= MAX_CONTRIBUTIONS


def test_what_an_earlier_version_did_not_record_separates_its_own_task_alone():
    unknown = replace(told("a"), separates=None)
    assert last_that_separates("a", [unknown]) == unknown
    assert last_that_separates("b", [unknown, told("c")]) is None
    assert (
        last_that_separates("b", [told("c", age=3, separates=True), told("d", age=2, separates=True)]).key.task == "d"
    )


def test_a_cookie_that_was_changed_cut_or_sealed_under_another_key_says_nothing():
    cookie = TOKENS.cookie(told("a"), told("b"))
    kind, kid, sealed = cookie.split(".")
    assert (kind, kid) == ("muster2", KeyRing.of(b"k" * 32).newest.fingerprint)
    other = Tokens(b"o" * 32)
    changed = sealed[:-5] + ("A" if sealed[-5] != "A" else "B") + sealed[-4:]
    for text in (
        f"{kind}.{kid}.{changed}",
        f"{kind}.{kid}.{sealed[:-4]}",
        f"{kind}.{kid}.",
        f"{kind}.{kid}",
        f"{kind}.",
        f"{kind}.{kid}.{sealed}.x",
        f"{kind}.{'0' * 16}.{sealed}",
        f"{kind}.{kid}.{other.cookie(told('a')).split('.')[2]}",
        f"{kind}.{kid}.é",
        f"{kind}.{kid}.{'A' * 3000}",
        other.cookie(told("a")),
    ):
        assert TOKENS.read_cookie(text, now=NOW) == ()


def test_a_claim_of_an_assignment_is_no_cookie():
    """Both are sealed under one key: the label keeps them apart."""
    sealed = jwt.decode(TOKENS.assignment(assignment(told("b"))), options={"verify_signature": False})["past"]
    kid = KeyRing.of(b"k" * 32).newest.fingerprint
    assert TOKENS.read_cookie(f"muster2.{kid}.{sealed}", now=NOW) == ()


def test_one_past_looks_otherwise_in_each_token():
    first, second = (TOKENS.assignment(replace(assignment(told("b")), pseudonym=each * 32)) for each in "12")
    claims = [jwt.decode(token, options={"verify_signature": False}) for token in (first, second)]
    assert claims[0]["past"] != claims[1]["past"]
