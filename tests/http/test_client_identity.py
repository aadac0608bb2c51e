"""Client authentication by enrolment token, OpenID Connect token or proxy header."""

from __future__ import annotations

import contextlib
import json

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st
from support.harness import POPULATION, START, Harness, problem_of
from support.issuer import TokenIssuer
from support.plans import sum_update

from muster.wire.enrolment import Enrolment, PrivateKey
from muster.wire.messages import Assignment, CheckinResponse, RevocationList
from muster.wire.problems import ProblemType
from muster_coordinator.adapters.client_authenticators import parse_clients
from muster_coordinator.use_cases.enrolment_revocations import EnrolmentRevocations

CHECKIN = f"/v1/populations/{POPULATION}:checkin"
KEY = PrivateKey.generate()
DAY = 86400.0
SECRET = "s" * 32
PROXY = "proxy:X-Client-Fingerprint?secret-header=X-Proxy-Secret"


def harness_for(tmp_path, setting, *, seconds=0.0):
    def guards(platform):
        revoked = EnrolmentRevocations(platform, seconds=seconds).is_revoked
        return {"clients": parse_clients(setting, clock=platform.clock, revoked=revoked, proxy_secret=SECRET)}

    h = Harness(tmp_path, guards=guards)
    h.begin(goal=10, minimum=1, over_selection=2)
    return h


def check_in(harness, token=None, *, body=None, **more):
    return harness.call("POST", CHECKIN, token=token, json={} if body is None else body, **more)


def refused(harness, token=None, **more):
    """Returns the detail of a check-in's refusal, which must be `unauthenticated`."""
    response = check_in(harness, token, **more)
    problem = problem_of(response)
    assert problem.type is ProblemType.UNAUTHENTICATED, problem
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert token is None or token not in problem.detail
    return problem.detail


def pseudonym(response):
    """Returns the client's pseudonym in the round, which depends on its identity only."""
    assert response.status_code == 200, response.data
    answer = CheckinResponse.decode(response.data).answer
    assert isinstance(answer, Assignment), answer
    return jwt.decode(answer.token, options={"verify_signature": False})["sub"]


def enrolment(name="ward-7", *, population=POPULATION, issued_at=START, days=90.0):
    return Enrolment(population, name, issued_at=issued_at, expires_at=issued_at + days * DAY)


@pytest.fixture
def enrolled(tmp_path):
    return harness_for(tmp_path, f"enrolment:{KEY.public}")


def test_all_tokens_of_one_name_identify_one_client(enrolled):
    first, renewed, other = (KEY.issue(enrolment(name)) for name in ("ward-7", "ward-7", "ward-8"))
    assert pseudonym(check_in(enrolled, first)) == pseudonym(check_in(enrolled, renewed))
    assert pseudonym(check_in(enrolled, first)) != pseudonym(check_in(enrolled, other))


def test_enrolled_client_can_not_assert_another_identity(enrolled):
    token = KEY.issue(enrolment())
    assert pseudonym(check_in(enrolled, token, body={"client": "me"})) == pseudonym(check_in(enrolled, token))


def test_assignment_token_suffices_after_the_check_in(enrolled):
    answer = CheckinResponse.decode(check_in(enrolled, KEY.issue(enrolment())).data).answer
    assert enrolled.upload(answer.token, sum_update(0)).status == "accepted"


def test_enrolment_is_valid_from_issue_to_expiry(enrolled):
    token = KEY.issue(enrolment(days=0.005))  # seven minutes
    assert check_in(enrolled, token).status_code == 200
    enrolled.clock.advance(0.005 * DAY + 30)  # within the clock skew
    assert check_in(enrolled, token).status_code == 200
    enrolled.clock.advance(60)
    assert "expired" in refused(enrolled, token)
    assert "not valid yet" in refused(enrolled, KEY.issue(enrolment(issued_at=enrolled.clock.now() + 120)))


def test_enrolment_is_valid_for_one_population(enrolled):
    assert "not for population phones" in refused(enrolled, KEY.issue(enrolment(population="tablets")))


def test_check_in_without_valid_token_is_refused_unread(enrolled):
    assert "needs the header" in refused(enrolled)
    assert "needs the header" in refused(enrolled, headers={"Authorization": "Basic YTpi"})
    assert "not valid here" in refused(enrolled, PrivateKey.generate().issue(enrolment()))
    assert "not valid here" in refused(enrolled, "none", body={"nonsense": 1})
    enrolled_token = check_in(enrolled, KEY.issue(enrolment()))
    assignment = CheckinResponse.decode(enrolled_token.data).answer
    assert "not valid here" in refused(enrolled, assignment.token)  # an assignment is not an enrolment


def revoke(harness, **body):
    return RevocationList.decode(harness.ask("POST", "/v1/revocations", json=body)).revocations


def test_only_the_revoked_enrolment_is_refused(enrolled):
    bad, good = enrolment(), enrolment()
    assert check_in(enrolled, KEY.issue(bad)).status_code == 200
    for _ in range(2):
        (listed,) = revoke(enrolled, id=bad.id)
        assert listed.id == bad.id
    assert "revoked" in refused(enrolled, KEY.issue(bad))
    assert check_in(enrolled, KEY.issue(good)).status_code == 200
    assert RevocationList.decode(enrolled.ask("GET", "/v1/revocations")).revocations == (listed,)


def test_revocation_applies_once_the_cached_list_expires(tmp_path):
    harness = harness_for(tmp_path, f"enrolment:{KEY.public}", seconds=30.0)
    enrolled = enrolment()
    assert check_in(harness, KEY.issue(enrolled)).status_code == 200
    revoke(harness, id=enrolled.id)
    assert check_in(harness, KEY.issue(enrolled)).status_code == 200
    harness.clock.advance(30)
    assert "revoked" in refused(harness, KEY.issue(enrolled))


def test_revocation_list_drops_expired_entries_and_is_bounded(enrolled):
    revoke(enrolled, id="0" * 32, expires_at="2027-01-16T00:00:00Z")
    revoke(enrolled, id="1" * 32)
    enrolled.clock.advance(7 * DAY)
    assert [revocation.id for revocation in revoke(enrolled, id="2" * 32)] == ["1" * 32, "2" * 32]


def test_invalid_id_is_refused(enrolled):
    for body in ({"id": "../x"}, {"id": "A" * 32}, {}, {"id": "0" * 32, "more": 1}):
        assert problem_of(enrolled.call("POST", "/v1/revocations", json=body)).type is ProblemType.INVALID_REQUEST


# OpenID Connect.


@pytest.fixture
def open_id(tmp_path, issuer):
    return harness_for(tmp_path, f"oidc:{issuer.url}?audience=muster&audience=other")


def token_of(issuer, subject="device-1", **more):
    return issuer.token(**{"account": "a@b", "audience": "muster", "sub": subject, **more})


def test_issuers_token_identifies_the_client(open_id, issuer):
    first, again, other = (token_of(issuer, subject) for subject in ("device-1", "device-1", "device-2"))
    assert pseudonym(check_in(open_id, first)) == pseudonym(check_in(open_id, again))
    assert pseudonym(check_in(open_id, first)) != pseudonym(check_in(open_id, other))
    assert check_in(open_id, token_of(issuer, audience="other")).status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        {"audience": "somebody-else"},
        {"age": 4000},
        {"age": -600},
        {"nbf": 4e9},
        {"iss": "https://elsewhere.example"},
        {"exp": None},
        {"subject": ""},
        {"subject": "x" * 600},
    ],
    ids=str,
)
def test_unsuitable_tokens_of_the_issuer_are_refused(open_id, issuer, change):
    refused(open_id, token_of(issuer, **change))


def test_token_is_valid_despite_clock_skew(open_id, issuer):
    assert check_in(open_id, token_of(issuer, age=-20)).status_code == 200
    assert check_in(open_id, token_of(issuer, age=3620)).status_code == 200


def test_symmetric_and_missing_algorithms_are_refused(open_id, issuer):
    good = token_of(issuer)
    kid = jwt.get_unverified_header(good)["kid"]
    claims = jwt.decode(good, options={"verify_signature": False})
    public = next(iter(issuer._keys.values())).public_key()
    confused = jwt.encode(claims, json.dumps(jwt.algorithms.RSAAlgorithm.to_jwk(public)), "HS256", headers={"kid": kid})
    unsigned = jwt.encode(claims, "", "none", headers={"kid": kid})
    for token in (confused, unsigned, TokenIssuer().token(account="a@b", audience="muster", iss=issuer.url)):
        refused(open_id, token)


def test_foreign_key_under_published_key_id_is_refused(open_id, issuer):
    good = token_of(issuer)
    claims = jwt.decode(good, options={"verify_signature": False})
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    refused(open_id, jwt.encode(claims, key, "RS256", headers={"kid": jwt.get_unverified_header(good)["kid"]}))


def test_unknown_key_ids_do_not_refetch_keys_every_time(tmp_path):
    with TokenIssuer() as issuer:
        harness = harness_for(tmp_path, f"oidc:{issuer.url}?audience=muster")
        assert check_in(harness, token_of(issuer)).status_code == 200
        for _ in range(5):
            refused(harness, TokenIssuer().token(account="a@b", audience="muster", iss=issuer.url))
        assert issuer.fetches == 1


def test_claim_and_jwks_address_are_configurable(tmp_path, issuer):
    harness = harness_for(tmp_path, f"oidc:{issuer.url}?audience=muster&jwks={issuer.url}/certs&claim=device")
    assert check_in(harness, token_of(issuer, device=7)).status_code == 200
    assert "device" in refused(harness, token_of(issuer))
    assert "device" in refused(harness, token_of(issuer, device=True))


def test_unreachable_issuer_is_answered_unavailable(tmp_path, issuer):
    harness = harness_for(tmp_path, "oidc:http://127.0.0.1:9?audience=muster")
    assert problem_of(check_in(harness, token_of(issuer))).type is ProblemType.UNAVAILABLE


# Proxy header.


@pytest.fixture
def proxied(tmp_path):
    return harness_for(tmp_path, PROXY)


def by_proxy(who, secret=SECRET):
    return {"headers": {"X-Client-Fingerprint": who, "X-Proxy-Secret": secret}}


def test_proxys_header_identifies_the_client(proxied):
    first, again, other = (pseudonym(check_in(proxied, **by_proxy(who))) for who in ("ab:cd", "ab:cd", "ab:ce"))
    assert first == again
    assert first != other


def test_header_of_an_untrusted_peer_is_refused(proxied):
    assert "must pass a proxy" in refused(proxied, **by_proxy("ab", secret="t" * 32))
    assert "must pass a proxy" in refused(proxied, **by_proxy("ab", secret=""))
    assert "must pass a proxy" in refused(proxied, headers={"X-Client-Fingerprint": "ab"})
    assert "certificate" in refused(proxied, headers={"X-Proxy-Secret": SECRET})
    assert "one plain value" in refused(proxied, **by_proxy("forged,ab"))


def test_proxy_is_trusted_by_its_network(tmp_path):
    harness = harness_for(tmp_path, "proxy:X-Client-Fingerprint?from=10.1.0.0/16&from=fd00::/8")
    headers = {"X-Client-Fingerprint": "ab", "X-Forwarded-For": "10.1.2.3"}
    for peer, status in (("10.1.2.3", 200), ("::ffff:10.1.2.3", 200), ("fd00::1", 200), ("10.2.2.3", 401), ("", 401)):
        response = check_in(harness, headers=headers, environ_overrides={"REMOTE_ADDR": peer})
        assert response.status_code == status, peer


# Settings.


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("", "must be open, oidc"),
        ("closed", "must be open, oidc"),
        ("oidc:https://issuer.example", "audience"),
        ("oidc:http://issuer.example?audience=a", "https"),
        ("oidc:https://issuer.example?audience=a&jwks=http://keys.example", "https"),
        ("oidc:https://issuer.example?audience=", "audience is empty"),
        ("oidc:https://issuer.example?audience=a&secret=b", "secret is not a known option"),
        ("enrolment:", "needs a public key"),
        ("enrolment:abc", "not a public key"),
        ("proxy:X-Who", "secret-header"),
        ("proxy:X Who?from=10.0.0.0/8", "not a valid header name"),
        ("proxy:X-Who?from=10.0.0.1/8", "host bits"),
    ],
)
def test_setting_without_protection_is_refused(setting, reason):
    with pytest.raises(ValueError, match=reason):
        parse_clients(setting, clock=None, revoked=lambda _: False, proxy_secret=SECRET)
    with pytest.raises(ValueError, match="MUSTER_PROXY_SECRET"):
        parse_clients(PROXY, clock=None, revoked=lambda _: False, proxy_secret=SECRET[1:])


@given(st.text(max_size=60))
def test_arbitrary_setting_raises_only_value_error(setting):
    with contextlib.suppress(ValueError):
        parse_clients(setting, clock=None, revoked=lambda _: False, proxy_secret=SECRET)
