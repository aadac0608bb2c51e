"""Enrolment tokens: verified claims, or a refusal."""

from __future__ import annotations

import base64
import json

import jwt
import pytest

from muster.wire.enrolment import Enrolment, EnrolmentError, PrivateKey, PublicKeys

KEY = PrivateKey.generate()
ENROLMENT = Enrolment("phones", "ward-7", issued_at=1000, expires_at=2000)
TOKEN = KEY.issue(ENROLMENT)


def encoded(document):
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


def test_token_of_any_key_is_read():
    other = PrivateKey.generate()
    keys = PublicKeys(other.public, KEY.public)
    assert keys.read(TOKEN) == ENROLMENT
    assert keys.read(other.issue(ENROLMENT)) == ENROLMENT
    again = PrivateKey.read(KEY.pem())
    assert again.public == KEY.public
    assert keys.read(again.issue(ENROLMENT)) == ENROLMENT


def test_token_ids_are_unique():
    assert Enrolment("phones", "ward-7", issued_at=1, expires_at=2).id != ENROLMENT.id


def _forged():
    header, claims, signature = TOKEN.split(".")
    kid = jwt.get_unverified_header(TOKEN)["kid"]
    more = {**jwt.decode(TOKEN, options={"verify_signature": False}), "exp": 9**9}
    yield "another key", PrivateKey.generate().issue(ENROLMENT)
    yield (
        "another key under this one's id",
        jwt.encode(more, PrivateKey.generate()._key, algorithm="EdDSA", headers={"kid": kid}),
    )
    yield "no algorithm", f"{encoded({'alg': 'none', 'kid': kid})}.{encoded(more)}."
    yield "the public key as a secret", jwt.encode(more, KEY.public, algorithm="HS256", headers={"kid": kid})
    yield "other claims", f"{header}.{encoded(more)}.{signature}"
    yield "no signature", f"{header}.{claims}."
    yield "a bit", f"{header}.{claims}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"
    yield (
        "another audience",
        jwt.encode({**more, "aud": "muster:assignment"}, KEY._key, algorithm="EdDSA", headers={"kid": kid}),
    )
    yield (
        "a claim missing",
        jwt.encode({"aud": "muster:enrolment", "sub": "x"}, KEY._key, algorithm="EdDSA", headers={"kid": kid}),
    )
    yield "an invalid name", jwt.encode({**more, "sub": "a\nb"}, KEY._key, algorithm="EdDSA", headers={"kid": kid})
    yield "a deep header", base64.urlsafe_b64encode(b"[" * 2500).decode().rstrip("=") + ".e30."
    yield "much", "x" * 100_000
    yield "nothing", ""
    yield "text", "not a token"


FORGED = dict(_forged())


@pytest.mark.parametrize("forgery", FORGED)
def test_forged_or_malformed_token_is_refused(forgery):
    token = FORGED[forgery]
    with pytest.raises(EnrolmentError) as caught:
        PublicKeys(KEY.public).read(token)
    assert not token or token not in str(caught.value)


@pytest.mark.parametrize("text", ["", "short", "A" * 42, "A" * 44, "*" * 43, "ü" * 43])
def test_invalid_public_key_is_refused(text):
    with pytest.raises(EnrolmentError, match="not a public key"):
        PublicKeys(text)


@pytest.mark.parametrize("pem", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_invalid_private_key_is_refused(pem):
    with pytest.raises(EnrolmentError, match="not a private key"):
        PrivateKey.read(pem)


@pytest.mark.parametrize(
    "change",
    [{"population": "../x"}, {"name": ""}, {"name": "a b"}, {"name": "x" * 129}, {"expires_at": 1000}, {"id": "1"}],
)
def test_invalid_claims_are_refused(change):
    with pytest.raises(EnrolmentError):
        Enrolment(**{"population": "phones", "name": "a", "issued_at": 1000, "expires_at": 2000, **change})
