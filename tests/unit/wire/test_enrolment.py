"""An enrolment token says what it said when it was issued, or nothing."""

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


def test_reads_what_was_issued_under_any_of_its_keys():
    other = PrivateKey.generate()
    keys = PublicKeys(other.public, KEY.public)
    assert keys.read(TOKEN) == ENROLMENT
    assert keys.read(other.issue(ENROLMENT)) == ENROLMENT
    again = PrivateKey.read(KEY.pem())
    assert again.public == KEY.public
    assert keys.read(again.issue(ENROLMENT)) == ENROLMENT


def test_ids_of_tokens_differ():
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
    yield "a name that is none", jwt.encode({**more, "sub": "a\nb"}, KEY._key, algorithm="EdDSA", headers={"kid": kid})
    yield "a deep header", base64.urlsafe_b64encode(b"[" * 2500).decode().rstrip("=") + ".e30."
    yield "much", "x" * 100_000
    yield "nothing", ""
    yield "text", "no token at all"


FORGED = dict(_forged())


@pytest.mark.parametrize("what", FORGED)
def test_refuses_what_was_not_issued(what):
    token = FORGED[what]
    with pytest.raises(EnrolmentError) as caught:
        PublicKeys(KEY.public).read(token)
    assert not token or token not in str(caught.value)


@pytest.mark.parametrize("text", ["", "short", "A" * 42, "A" * 44, "*" * 43, "ü" * 43])
def test_what_is_no_public_key_is_told_so(text):
    with pytest.raises(EnrolmentError, match="no public key"):
        PublicKeys(text)


@pytest.mark.parametrize("pem", [b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_private_key_is_told_so(pem):
    with pytest.raises(EnrolmentError, match="no private key"):
        PrivateKey.read(pem)


@pytest.mark.parametrize(
    "change",
    [{"population": "../x"}, {"name": ""}, {"name": "a b"}, {"name": "x" * 129}, {"expires_at": 1000}, {"id": "1"}],
)
def test_an_enrolment_that_makes_no_sense_is_refused(change):
    with pytest.raises(EnrolmentError):
        Enrolment(**{"population": "phones", "name": "a", "issued_at": 1000, "expires_at": 2000, **change})
