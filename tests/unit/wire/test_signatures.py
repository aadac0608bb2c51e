"""Signatures of plans: only trusted signers, and only for the plan that they signed."""

from __future__ import annotations

import stat
import sys
from dataclasses import replace

import pytest
from support.plans import every_dtype_plan, sum_plan

from muster.wire.plan import Plan
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.signatures import Signature, Signatures, SigningKey, parse_signers, verifies

PLAN = sum_plan()
KEY, OTHER = SigningKey.generate(), SigningKey.generate()


def refused(plan, *trusted):
    with pytest.raises(ProblemError) as error:
        plan.check_signed(trusted)
    assert error.value.type is ProblemType.PLAN_INVALID
    return error.value.detail


def test_signature_is_in_both_copies_and_not_in_the_address():
    signed = PLAN.signed(KEY)
    assert signed.sha256 == PLAN.sha256
    for copy in (signed, signed.for_client()):
        decoded = Plan.decode(copy.encode(), expected=PLAN.sha256)
        assert decoded.signatures == signed.signatures
        assert decoded.check_signed([OTHER.signer, KEY.signer]) == KEY.signer


def test_any_plan_passes_without_trusted_signers():
    assert PLAN.check_signed([]) is None


def test_plan_without_a_trusted_signature_is_refused():
    assert "is not signed" in refused(PLAN, KEY.signer)
    assert f"signed by {OTHER.signer}" in refused(PLAN.signed(OTHER), KEY.signer)


def test_signature_of_another_plan_is_refused():
    borrowed = replace(PLAN, signatures=every_dtype_plan().signed(KEY).signatures)
    assert "not of this plan" in refused(Plan.decode(borrowed.encode()), KEY.signer)


def test_signature_under_another_signer_is_refused():
    forged = Signature(signer=KEY.signer, signature=OTHER.sign(PLAN.sha256).signature)
    assert "not of this plan" in refused(replace(PLAN, signatures=(forged,)), KEY.signer)


def test_signature_is_separated_from_other_uses_of_the_key():
    # A signature of the bare address, made for another purpose, is not a signature of the plan.
    raw = Signature(signer=KEY.signer, signature=_text(KEY._key.sign(PLAN.sha256.encode())))
    assert not verifies(raw, PLAN.sha256)
    assert verifies(KEY.sign(PLAN.sha256), PLAN.sha256)


def _text(data):
    from muster.wire.signatures import _text as spell

    return spell(data)


def test_known_answer_of_rfc_8032():
    # Section 7.1, TEST 1: the public key of that secret key.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    secret = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
    assert SigningKey(Ed25519PrivateKey.from_private_bytes(secret)).signer == f"ed25519:{_text(public)}"


def test_signing_is_idempotent_up_to_sixteen_signers():
    signed = PLAN.signed(KEY)
    assert signed.signed(KEY).encode() == signed.encode()
    for _ in range(15):
        signed = signed.signed(SigningKey.generate())
    assert len(Plan.decode(signed.encode()).signatures) == 16
    with pytest.raises(ProblemError, match="16 signatures already"):
        signed.signed(SigningKey.generate())


def test_key_file_round_trip_and_mode(tmp_path):
    path = tmp_path / "author.key"
    KEY.save(path)
    assert SigningKey.load(path).signer == KEY.signer
    assert path.read_text().startswith("-----BEGIN PRIVATE KEY-----")
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        OTHER.save(path)
    path.write_text("no key")
    with pytest.raises(ProblemError, match="not a private key"):
        SigningKey.load(path)


def test_key_of_another_kind_is_refused(tmp_path):
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    path = tmp_path / "x"
    data = X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(data)
    with pytest.raises(ProblemError, match="Ed25519"):
        SigningKey.load(path)


def test_signers_are_parsed_from_text_or_lists():
    both = (KEY.signer, OTHER.signer)
    assert parse_signers(f" {KEY.signer}, {OTHER.signer},{KEY.signer}") == both
    assert parse_signers(both) == both
    assert parse_signers("") == ()


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "ed25519:",
        f"{KEY.signer}A",
        KEY.signer[:-1],
        f"{KEY.signer[:-1]}!",
        f"rsa:{KEY.signer[8:]}",
        f"{KEY.signer}=",
    ],
    ids=["a word", "no key", "long", "short", "no base64", "another kind", "padded"],
)
def test_invalid_signer_is_quoted(text):
    with pytest.raises(ValueError, match=r"is not a signer|base64url"):
        parse_signers(text)


def test_signatures_have_one_spelling():
    one, two = sorted((KEY.sign(PLAN.sha256), OTHER.sign(PLAN.sha256)), key=lambda item: item.signer)
    Signatures(signatures=(one, two))
    for wrong in ((two, one), (one, one), ()):
        with pytest.raises(ValueError, match="signatures"):
            Signatures(signatures=wrong)
    # The last character of 64 bytes in base64 has four unused bits, which must be zero.
    last = one.signature[-1]
    other = next(c for c in "AQgw" if c != last)
    spare = chr(ord(last) + 1)
    for text in (one.signature[:-1] + spare, one.signature + "=="):
        with pytest.raises(ValueError, match="base64url"):
            Signature(signer=one.signer, signature=text)
    assert Signature(signer=one.signer, signature=one.signature[:-1] + other)
