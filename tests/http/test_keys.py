"""Key rotation while rounds are open, and tokens of unknown, future or removed keys."""

from __future__ import annotations

from dataclasses import replace

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from support.faults import Crash, Fault, FaultyDocuments, Schedule, When
from support.harness import Harness
from support.plans import sum_update

from muster.wire.messages import Assignment, Wait, WaitReason
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import encode
from muster_coordinator.domain import names
from muster_coordinator.domain.keys import KeyRing
from muster_coordinator.tokens import SKEW, CookieClaims, Tokens

OLD, NEW, OTHER = ("2026-03:" + "0a" * 32, "2026-09:" + "1b" * 32, "2c" * 32)
OLD_ALONE, BOTH, NEW_ALONE = KeyRing.parse(OLD), KeyRing.parse(f"{NEW},{OLD}"), KeyRing.parse(NEW)


def restart_with_keys(h, ring):
    """Restarts the coordinator with other keys."""
    h.secret = ring
    h.restart()


def refusal(h, token):
    with pytest.raises(ProblemError) as refused:
        h.upload(token, sum_update(0))
    return refused.value.type


@pytest.fixture
def h(tmp_path):
    h = Harness(tmp_path, secret=OLD_ALONE)
    h.begin(rounds=3, goal=3, minimum=2, over_selection=2.0, round_seconds=100)
    return h


def test_client_is_counted_once_across_a_key_rotation(h):
    before = h.assigned(0).token
    restart_with_keys(h, BOTH)
    again, another = h.assigned(0).token, h.assigned(1).token
    assert jwt.get_unverified_header(before)["kid"] != jwt.get_unverified_header(again)["kid"]
    for token in (before, again):
        assert h.upload(token, sum_update(0)).status == "accepted"
    assert len(h.blobs("updates/")) == 1
    h.upload(another, sum_update(1))
    h.upload(h.assigned(2).token, sum_update(2))
    h.deliver_all()
    assert int(h.result(1)["ids"]) == 0b111
    assert int(h.result(1)["count"]) == 3
    # The next round's pseudonyms use the new key, which suffices from then on.
    h.assigned(0)
    key = h.inner.documents.get(names.pseudonym_key_path(h.key()))
    assert key.data["key"] == f"salted-{BOTH.newest.fingerprint}"
    restart_with_keys(h, NEW_ALONE)
    for client in range(3):
        h.upload(h.assigned(client).token, sum_update(client))
    h.settle()
    assert int(h.result(2)["ids"]) == 0b111
    assert h.leftovers() == []


def test_round_with_removed_key_assigns_nothing_and_commits(h):
    for client in (0, 1):
        h.upload(h.assigned(client).token, sum_update(client))
    out = h.assigned(2).token
    restart_with_keys(h, NEW_ALONE)
    assert refusal(h, out) is ProblemType.ASSIGNMENT_INVALID
    for client in (0, 3):
        answer = h.checkin(client)
        assert isinstance(answer, Wait)
        assert answer.reason is WaitReason.BETWEEN_ROUNDS
    h.clock.advance(101)
    h.settle(minutes=1)
    assert int(h.result(1)["ids"]) == 0b11
    assert isinstance(h.checkin(0), Assignment)


def test_unassigned_round_with_removed_key_restarts_at_deadline(tmp_path):
    schedule = Schedule()
    h = Harness(
        tmp_path,
        secret=OLD_ALONE,
        wrap=lambda inner: replace(inner, documents=FaultyDocuments(inner.documents, schedule)),
    )
    h.begin(rounds=3, goal=1, round_seconds=100)
    # The round's key is fixed, and the process dies before it takes a slot.
    fault = Fault(len(schedule.writes) + 1, When.AFTER)
    schedule._faults[fault.of, fault.number, fault.when] = fault.error
    with pytest.raises(Crash):
        h.checkin(0)
    restart_with_keys(h, NEW_ALONE)
    assert isinstance(h.checkin(0), Wait)
    h.clock.advance(101)
    h.settle(minutes=1)
    h.upload(h.assigned(0).token, sum_update(0))
    h.settle()
    assert int(h.result(1)["ids"]) == 1
    assert h.leftovers() == []


def test_instances_with_old_and_new_keys_agree_on_pseudonyms(h):
    restart_with_keys(h, BOTH)
    first = h.assigned(0).token
    restart_with_keys(h, OLD_ALONE)
    # It does not know the round's key, so it assigns nothing rather than a second pseudonym.
    assert isinstance(h.checkin(0), Wait)
    restart_with_keys(h, BOTH)
    assert h.upload(first, sum_update(0)).status == "accepted"


def test_open_round_of_an_earlier_version_stays_valid(h):
    # As the earlier version fixed the key: without a salt.
    h.inner.documents.create(names.pseudonym_key_path(h.key()), {"key": OLD_ALONE.newest.fingerprint})
    token = h.assigned(0).token
    claims = h.app.tokens.read_assignment(token, now=h.clock.now())
    old = {
        key: value
        for key, value in jwt.decode(token, options={"verify_signature": False}).items()
        if key not in ("iat", "size", "separation", "earlier")
    }
    bare = jwt.encode(old, OLD_ALONE.newest.secret, algorithm="HS256")
    h.inner.documents.delete(names.pseudonym_key_path(h.key()))
    restart_with_keys(h, BOTH)
    again = h.app.tokens.read_assignment(h.assigned(0).token, now=h.clock.now())
    assert again.pseudonym == claims.pseudonym
    assert h.upload(bare, sum_update(0)).status == "accepted"
    cookie = Tokens(OLD_ALONE).cookie(CookieClaims(h.key(), h.clock.now()))
    assert h.app.tokens.read_cookie(cookie, now=h.clock.now() + 1e6) != ()


def test_tokens_of_an_unknown_key_are_refused(h):
    claims = h.app.tokens.read_assignment(h.assigned(0).token, now=h.clock.now())
    assert refusal(h, Tokens(NEW_ALONE).assignment(claims)) is ProblemType.ASSIGNMENT_INVALID
    # Naming an existing key does not help either.
    body = jwt.decode(Tokens(NEW_ALONE).assignment(claims), options={"verify_signature": False})
    lie = {"kid": OLD_ALONE.newest.fingerprint}
    forged = jwt.encode(body, NEW_ALONE.newest.secret, algorithm="HS256", headers=lie)
    assert refusal(h, forged) is ProblemType.ASSIGNMENT_INVALID


def test_other_algorithms_are_refused(h):
    token = h.assigned(0).token
    body, headers = jwt.decode(token, options={"verify_signature": False}), jwt.get_unverified_header(token)
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    secret = OLD_ALONE.newest.secret
    for forged in (
        jwt.encode(body, None, algorithm="none", headers={"kid": headers["kid"]}),
        jwt.encode(body, pem, algorithm="RS256", headers={"kid": headers["kid"]}),
        jwt.encode(body, secret * 2, algorithm="HS512", headers={"kid": headers["kid"]}),
        jwt.encode(body, secret * 2, algorithm="HS384", headers={"kid": headers["kid"]}),
        jwt.encode(body, secret, algorithm="HS256", headers={"kid": ""}),
    ):
        assert refusal(h, forged) is ProblemType.ASSIGNMENT_INVALID


def test_cookie_and_assignment_are_not_interchangeable(h):
    token = h.assigned(0).token
    cookie = h.upload(token, sum_update(0)).cookie
    assert refusal(h, cookie) is ProblemType.ASSIGNMENT_INVALID
    assert h.app.tokens.read_cookie(token, now=h.clock.now()) == ()


def test_tokens_issued_in_the_future_are_refused(h):
    token = h.assigned(0).token
    cookie = h.upload(h.assigned(1).token, sum_update(1)).cookie
    h.clock.advance(-SKEW)
    assert h.app.tokens.read_assignment(token, now=h.clock.now()).issued_at > h.clock.now()
    assert h.app.tokens.read_cookie(cookie, now=h.clock.now()) != ()
    h.clock.advance(-1)
    assert refusal(h, token) is ProblemType.ASSIGNMENT_INVALID
    assert h.app.tokens.read_cookie(cookie, now=h.clock.now()) == ()


@pytest.mark.parametrize(("separation", "life"), [(0, 86400), (200_000, 200_000)])
def test_cookie_expires_with_its_content(tmp_path, separation, life):
    h = Harness(tmp_path)
    h.begin(goal=3, separation_seconds=separation)
    cookie = h.upload(h.assigned(0).token, sum_update(0)).cookie
    read = h.app.tokens.read_cookie
    assert read(cookie, now=h.clock.now() + life - 1) != ()
    assert read(cookie, now=h.clock.now() + life) == ()


def test_assignment_bounds_the_size_of_its_update(h):
    claims = h.app.tokens.read_assignment(h.assigned(0).token, now=h.clock.now())
    assert claims.max_update_bytes == h.assigned(0).max_update_bytes
    body = encode(sum_update(0))
    small = h.app.tokens.assignment(replace(claims, max_update_bytes=len(body) - 1))
    assert refusal(h, small) is ProblemType.TOO_LARGE
    assert h.upload(h.app.tokens.assignment(replace(claims, max_update_bytes=len(body))), body).status == "accepted"
