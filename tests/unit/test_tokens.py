"""Tests of the contributions in cookies and assignments: number, order, size and secrecy."""

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
    last_contribution_to,
    last_separating_contribution,
)

NOW = 1_800_000_000.123456  # POSIX seconds
TOKENS = Tokens(b"k" * 32)


def contribution(task, *, age=10.0, life=86400.0, separates=False):
    return CookieClaims(RoundKey(task, 3, 1), NOW - age, expires_at=NOW - age + life, separates=separates)


def assignment(*earlier):
    return AssignmentClaims(
        RoundKey("task", 3, 1), 2, "0" * 32, Ticket(1, 2), "f" * 64, NOW + 60, NOW, 1000, 5.0, earlier
    )


def test_contributions_are_read_as_written_newest_first():
    for others in ([], [contribution("b")], [contribution("b", life=20), contribution("c", life=19.5)]):
        cookie = TOKENS.cookie(contribution("a", age=0), *others)
        assert TOKENS.read_cookie(cookie, now=NOW) == (contribution("a", age=0), *others)
        token = TOKENS.assignment(assignment(*others))
        assert TOKENS.read_assignment(token, now=NOW) == assignment(*others)


def test_each_contribution_expires_by_itself():
    cookie = TOKENS.cookie(
        contribution("a", life=20), contribution("b", life=1000), contribution("c", age=-SKEW, life=1000)
    )
    by_time = {seconds: TOKENS.read_cookie(cookie, now=NOW + seconds) for seconds in (-1, 9, 10, 990)}
    assert {seconds: [claims.key.task for claims in contributions] for seconds, contributions in by_time.items()} == {
        -1: ["a", "b"],  # the third is still in the future
        9: ["a", "c", "b"],
        10: ["c", "b"],
        990: ["c"],
    }
    token = TOKENS.assignment(assignment(contribution("b", life=30)))
    assert len(TOKENS.read_assignment(token, now=NOW).earlier) == 1
    assert TOKENS.read_assignment(token, now=NOW + 20).earlier == ()


def test_contribution_without_expiry_is_carried_over():
    endless = replace(contribution("old"), expires_at=None)
    token = TOKENS.assignment(assignment(endless, contribution("b")))
    assert set(TOKENS.read_assignment(token, now=NOW).earlier) == {endless, contribution("b")}


def test_token_holds_the_contributions_that_expire_last():
    others = [contribution(f"t{number}", life=1000.0 * number) for number in range(1, 30)]
    read = TOKENS.read_cookie(TOKENS.cookie(contribution("a"), *others), now=NOW)
    assert [claims.key.task for claims in read] == ["a", "t29", "t28", "t27", "t26", "t25", "t24", "t23"]
    assert last_contribution_to("t25", read) == contribution("t25", life=25_000.0)
    assert last_contribution_to("t1", read) is None


@pytest.mark.parametrize("others", [30, 7])
def test_tokens_stay_small_with_the_longest_names(others):
    name = "x" * 61
    many = [
        CookieClaims(RoundKey(f"{name}{number:02d}", 999_999, 9_999), NOW - 1e6 / 3, expires_at=NOW + 1e6 / 3)
        for number in range(others)
    ]
    cookie = TOKENS.cookie(many[0], *many[1:])
    token = TOKENS.assignment(replace(assignment(*many), key=many[0].key))
    assert max(len(cookie), len(token)) < 2560
    assert CheckinRequest.decode(CheckinRequest(cookie=cookie).encode()).cookie == cookie


def test_assignment_without_contributions_has_no_claim_for_them():
    assert "past" not in jwt.decode(TOKENS.assignment(assignment()), options={"verify_signature": False})


def test_last_separating_contribution_is_always_held():
    others = [contribution(f"t{number}", age=500.0 + number, life=9e6) for number in range(20)]
    others += [
        contribution("first", age=90, life=9e6, separates=True),
        contribution("last", age=50, life=200, separates=True),
    ]
    for read in (
        TOKENS.read_cookie(TOKENS.cookie(contribution("a"), *others), now=NOW),
        TOKENS.read_assignment(TOKENS.assignment(assignment(*others)), now=NOW).earlier,
    ):
        assert contribution("last", age=50, life=200, separates=True) in read
        assert last_separating_contribution("other", read).key.task == "last"
        assert len(read) <= MAX_CONTRIBUTIONS


def test_unknown_separation_counts_for_its_own_task_only():
    unknown = replace(contribution("a"), separates=None)
    assert last_separating_contribution("a", [unknown]) == unknown
    assert last_separating_contribution("b", [unknown, contribution("c")]) is None
    assert (
        last_separating_contribution(
            "b", [contribution("c", age=3, separates=True), contribution("d", age=2, separates=True)]
        ).key.task
        == "d"
    )


def test_altered_or_foreign_cookie_is_ignored():
    cookie = TOKENS.cookie(contribution("a"), contribution("b"))
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
        f"{kind}.{kid}.{other.cookie(contribution('a')).split('.')[2]}",
        f"{kind}.{kid}.é",
        f"{kind}.{kid}.{'A' * 3000}",
        other.cookie(contribution("a")),
    ):
        assert TOKENS.read_cookie(text, now=NOW) == ()


def test_sealed_claim_of_an_assignment_is_not_a_cookie():
    """Both are sealed under one key, and differ by their label."""
    sealed = jwt.decode(TOKENS.assignment(assignment(contribution("b"))), options={"verify_signature": False})["past"]
    kid = KeyRing.of(b"k" * 32).newest.fingerprint
    assert TOKENS.read_cookie(f"muster2.{kid}.{sealed}", now=NOW) == ()


def test_sealed_history_is_unlinkable_across_tokens():
    first, second = (TOKENS.assignment(replace(assignment(contribution("b")), pseudonym=digit * 32)) for digit in "12")
    claims = [jwt.decode(token, options={"verify_signature": False}) for token in (first, second)]
    assert claims[0]["past"] != claims[1]["past"]
