"""Who a client is: by an enrolment, an issuer's token or a proxy's word; and nobody else gets a slot."""

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

    found = Harness(tmp_path, guards=guards)
    found.begin(goal=10, minimum=1, over_selection=2)
    return found


def check_in(harness, token=None, *, body=None, **more):
    return harness.call("POST", CHECKIN, token=token, json={} if body is None else body, **more)


def refused(harness, token=None, **more):
    """Why a check-in was refused; it must be for want of an identity."""
    response = check_in(harness, token, **more)
    problem = problem_of(response)
    assert problem.type is ProblemType.UNAUTHENTICATED, problem
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert token is None or token not in problem.detail
    return problem.detail


def pseudonym(response):
    """The client's name in the round, which is the same for two check-ins of one identity alone."""
    assert response.status_code == 200, response.data
    answer = CheckinResponse.decode(response.data).answer
    assert isinstance(answer, Assignment), answer
    return jwt.decode(answer.token, options={"verify_signature": False})["sub"]


def enrolment(name="ward-7", *, population=POPULATION, issued_at=START, days=90.0):
    return Enrolment(population, name, issued_at=issued_at, expires_at=issued_at + days * DAY)


@pytest.fixture
def enrolled(tmp_path):
    return harness_for(tmp_path, f"enrolment:{KEY.public}")


def test_an_enrolled_client_is_the_same_under_every_token_of_its_name(enrolled):
    first, renewed, other = (KEY.issue(enrolment(name)) for name in ("ward-7", "ward-7", "ward-8"))
    assert pseudonym(check_in(enrolled, first)) == pseudonym(check_in(enrolled, renewed))
    assert pseudonym(check_in(enrolled, first)) != pseudonym(check_in(enrolled, other))


def test_what_an_enrolled_client_says_of_itself_changes_nothing(enrolled):
    token = KEY.issue(enrolment())
    assert pseudonym(check_in(enrolled, token, body={"client": "me"})) == pseudonym(check_in(enrolled, token))


def test_the_assignment_then_stands_for_the_client(enrolled):
    answer = CheckinResponse.decode(check_in(enrolled, KEY.issue(enrolment())).data).answer
    assert enrolled.upload(answer.token, sum_update(0)).status == "accepted"


def test_an_enrolment_is_good_from_its_first_day_to_its_last(enrolled):
    token = KEY.issue(enrolment(days=0.005))  # seven minutes
    assert check_in(enrolled, token).status_code == 200
    enrolled.clock.advance(0.005 * DAY + 30)  # an operator's clock may be behind
    assert check_in(enrolled, token).status_code == 200
    enrolled.clock.advance(60)
    assert "expired" in refused(enrolled, token)
    assert "not valid yet" in refused(enrolled, KEY.issue(enrolment(issued_at=enrolled.clock.now() + 120)))


def test_an_enrolment_is_for_one_population(enrolled):
    assert "not for population phones" in refused(enrolled, KEY.issue(enrolment(population="tablets")))


def test_without_a_good_token_nobody_gets_in_nor_is_read(enrolled):
    assert "needs the header" in refused(enrolled)
    assert "needs the header" in refused(enrolled, headers={"Authorization": "Basic YTpi"})
    assert "not valid here" in refused(enrolled, PrivateKey.generate().issue(enrolment()))
    assert "not valid here" in refused(enrolled, "none", body={"nonsense": 1})
    enrolled_token = check_in(enrolled, KEY.issue(enrolment()))
    assignment = CheckinResponse.decode(enrolled_token.data).answer
    assert "not valid here" in refused(enrolled, assignment.token)  # one kind of token is not another


def revoke(harness, **body):
    return RevocationList.decode(harness.ask("POST", "/v1/revocations", json=body)).revocations


def test_a_revoked_enrolment_is_refused_and_the_others_are_not(enrolled):
    bad, good = enrolment(), enrolment()
    assert check_in(enrolled, KEY.issue(bad)).status_code == 200
    for _ in range(2):
        (listed,) = revoke(enrolled, id=bad.id)
        assert listed.id == bad.id
    assert "revoked" in refused(enrolled, KEY.issue(bad))
    assert check_in(enrolled, KEY.issue(good)).status_code == 200
    assert RevocationList.decode(enrolled.ask("GET", "/v1/revocations")).revocations == (listed,)


def test_a_revocation_is_noticed_when_the_reading_is_old(tmp_path):
    harness = harness_for(tmp_path, f"enrolment:{KEY.public}", seconds=30.0)
    enrolled = enrolment()
    assert check_in(harness, KEY.issue(enrolled)).status_code == 200
    revoke(harness, id=enrolled.id)
    assert check_in(harness, KEY.issue(enrolled)).status_code == 200
    harness.clock.advance(30)
    assert "revoked" in refused(harness, KEY.issue(enrolled))


def test_the_list_drops_what_has_expired_and_is_never_too_long(enrolled):
    revoke(enrolled, id="0" * 32, expires_at="2027-01-16T00:00:00Z")
    revoke(enrolled, id="1" * 32)
    enrolled.clock.advance(7 * DAY)
    assert [each.id for each in revoke(enrolled, id="2" * 32)] == ["1" * 32, "2" * 32]


def test_an_id_that_is_none_is_refused(enrolled):
    for body in ({"id": "../x"}, {"id": "A" * 32}, {}, {"id": "0" * 32, "more": 1}):
        assert problem_of(enrolled.call("POST", "/v1/revocations", json=body)).type is ProblemType.INVALID_REQUEST


# OpenID Connect.


@pytest.fixture
def open_id(tmp_path, issuer):
    return harness_for(tmp_path, f"oidc:{issuer.url}?audience=muster&audience=other")


def token_of(issuer, subject="device-1", **more):
    return issuer.token(**{"account": "a@b", "audience": "muster", "sub": subject, **more})


def test_a_token_of_the_issuer_says_who_the_client_is(open_id, issuer):
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
def test_other_tokens_of_the_issuer_are_refused(open_id, issuer, change):
    refused(open_id, token_of(issuer, **change))


def test_clocks_may_differ_by_some_seconds(open_id, issuer):
    assert check_in(open_id, token_of(issuer, age=-20)).status_code == 200
    assert check_in(open_id, token_of(issuer, age=3620)).status_code == 200


def test_algorithms_that_need_no_private_key_are_refused(open_id, issuer):
    good = token_of(issuer)
    kid = jwt.get_unverified_header(good)["kid"]
    claims = jwt.decode(good, options={"verify_signature": False})
    public = next(iter(issuer._keys.values())).public_key()
    confused = jwt.encode(claims, json.dumps(jwt.algorithms.RSAAlgorithm.to_jwk(public)), "HS256", headers={"kid": kid})
    unsigned = jwt.encode(claims, "", "none", headers={"kid": kid})
    for token in (confused, unsigned, TokenIssuer().token(account="a@b", audience="muster", iss=issuer.url)):
        refused(open_id, token)


def test_another_key_than_the_published_one_under_its_id_is_refused(open_id, issuer):
    good = token_of(issuer)
    claims = jwt.decode(good, options={"verify_signature": False})
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    refused(open_id, jwt.encode(claims, key, "RS256", headers={"kid": jwt.get_unverified_header(good)["kid"]}))


def test_keys_are_fetched_once_and_not_for_every_unknown_one(tmp_path):
    with TokenIssuer() as issuer:
        harness = harness_for(tmp_path, f"oidc:{issuer.url}?audience=muster")
        assert check_in(harness, token_of(issuer)).status_code == 200
        for _ in range(5):
            refused(harness, TokenIssuer().token(account="a@b", audience="muster", iss=issuer.url))
        assert issuer.fetches == 1


def test_another_claim_and_another_place_for_the_keys(tmp_path, issuer):
    harness = harness_for(tmp_path, f"oidc:{issuer.url}?audience=muster&jwks={issuer.url}/certs&claim=device")
    assert check_in(harness, token_of(issuer, device=7)).status_code == 200
    assert "device" in refused(harness, token_of(issuer))
    assert "device" in refused(harness, token_of(issuer, device=True))


def test_an_issuer_that_does_not_answer_is_not_the_clients_fault(tmp_path, issuer):
    harness = harness_for(tmp_path, "oidc:http://127.0.0.1:9?audience=muster")
    assert problem_of(check_in(harness, token_of(issuer))).type is ProblemType.UNAVAILABLE


# A proxy's word.


@pytest.fixture
def proxied(tmp_path):
    return harness_for(tmp_path, PROXY)


def by_proxy(who, secret=SECRET):
    return {"headers": {"X-Client-Fingerprint": who, "X-Proxy-Secret": secret}}


def test_a_proxys_word_says_who_the_client_is(proxied):
    first, again, other = (pseudonym(check_in(proxied, **by_proxy(who))) for who in ("ab:cd", "ab:cd", "ab:ce"))
    assert first == again
    assert first != other


def test_the_word_of_others_counts_for_nothing(proxied):
    assert "by way of a proxy" in refused(proxied, **by_proxy("ab", secret="t" * 32))
    assert "by way of a proxy" in refused(proxied, **by_proxy("ab", secret=""))
    assert "by way of a proxy" in refused(proxied, headers={"X-Client-Fingerprint": "ab"})
    assert "certificate" in refused(proxied, headers={"X-Proxy-Secret": SECRET})
    assert "one plain value" in refused(proxied, **by_proxy("forged,ab"))


def test_a_proxy_may_be_known_by_its_network(tmp_path):
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
        ("oidc:https://issuer.example?audience=a&secret=b", "secret is not known"),
        ("enrolment:", "needs a public key"),
        ("enrolment:abc", "not a public key"),
        ("proxy:X-Who", "secret-header"),
        ("proxy:X Who?from=10.0.0.0/8", "no header"),
        ("proxy:X-Who?from=10.0.0.1/8", "host bits"),
    ],
)
def test_a_setting_that_protects_nothing_is_refused(setting, reason):
    with pytest.raises(ValueError, match=reason):
        parse_clients(setting, clock=None, revoked=lambda _: False, proxy_secret=SECRET)
    with pytest.raises(ValueError, match="MUSTER_PROXY_SECRET"):
        parse_clients(PROXY, clock=None, revoked=lambda _: False, proxy_secret=SECRET[1:])


@given(st.text(max_size=60))
def test_no_setting_makes_it_fail_otherwise(setting):
    with contextlib.suppress(ValueError):
        parse_clients(setting, clock=None, revoked=lambda _: False, proxy_secret=SECRET)
