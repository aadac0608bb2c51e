"""Who made a plan: Ed25519 signatures (RFC 8032) over the plan's address, which vouches for every byte of the plan.

They travel in the plan's file beside the manifest and are no part of the address, so that a plan can be signed after it is
built, by several signers, and in a device's smaller copy too. Verifying needs `cryptography` (`muster-fl[signing]`), which
is imported only by who does it.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Union

from pydantic import AfterValidator, Field, model_validator

from muster.wire.base import Message
from muster.wire.problems import ProblemError, ProblemType

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


MOST_SIGNATURES = 16
SIGNATURES_LIMIT = 16 << 10  # bytes of the entry in a plan's file
_KEY_BYTES, _SIGNATURE_BYTES = 32, 64  # RFC 8032 §5.1.5, §5.1.6
_PREFIX = "ed25519:"
# Sets these signatures apart from any other that the same key may ever make.
_DOMAIN = b"muster plan v1\n"


def _base64url(text: str, length: int) -> bytes:
    """The `length` bytes that `text` spells (RFC 4648 §5, without padding) in the one way there is."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{text[:60]!r} is no base64url") from error
    if len(data) != length or _text(data) != text:
        raise ValueError(f"{text[:60]!r} is not the base64url of {length} bytes")
    return data


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _check_signer(text: str) -> str:
    if not text.startswith(_PREFIX):
        raise ValueError(f"{text[:60]!r} is no signer; one looks like ed25519:… with 43 characters behind the colon")
    _base64url(text[len(_PREFIX) :], _KEY_BYTES)
    return text


def _check_signature(text: str) -> str:
    _base64url(text, _SIGNATURE_BYTES)
    return text


def parse_signers(text: Union[str, Iterable[str]]) -> tuple[str, ...]:
    """Public keys, `ed25519:<base64url of 32 bytes>`, from a list of them or a text with commas between.

    Raises:
      ValueError: with the key that is none.
    """
    listed = [text] if isinstance(text, str) else list(text)
    keys = [key.strip() for item in listed for key in item.split(",")]
    return tuple(dict.fromkeys(_check_signer(key) for key in keys if key))


class Signature(Message):
    """One signer's. `signer`: `ed25519:` and the public key; `signature`: 64 bytes; both in base64url without padding."""

    signer: Annotated[str, AfterValidator(_check_signer)]
    signature: Annotated[str, AfterValidator(_check_signature)]


class Signatures(Message):
    """A plan's signatures, in order of their signers, one of each."""

    signatures: Annotated[tuple[Signature, ...], Field(min_length=1, max_length=MOST_SIGNATURES)]

    @model_validator(mode="after")
    def _ordered(self) -> Signatures:
        signers = [item.signer for item in self.signatures]
        if signers != sorted(set(signers)):
            raise ValueError("signatures are in order of their signers, one of each")
        return self


def message_of(sha256: str) -> bytes:
    """What is signed: the plan's address in hex, behind a line that says what it is."""
    return _DOMAIN + sha256.encode("ascii")


@dataclass(frozen=True)
class SigningKey:
    """A private key."""

    _key: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> SigningKey:
        """A fresh key, from the system's randomness.

        Raises:
          ImportError: `cryptography` is not installed.
        """
        need_cryptography()
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Union[str, Path]) -> SigningKey:
        """Reads a key's file: PEM of an unencrypted PKCS #8 (RFC 8410 §7).

        Raises:
          ProblemError: `invalid_request`, if the file holds no such key.
          OSError: the file can't be read.
          ImportError: `cryptography` is not installed.
        """
        need_cryptography()
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        data = Path(path).read_bytes()
        try:
            key = load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ProblemError(
                ProblemType.INVALID_REQUEST, f"{path} is no private key in PEM: make one with `muster plan keygen`"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ProblemError(
                ProblemType.INVALID_REQUEST, f"{path} holds a key of another kind: plans are signed with Ed25519"
            )
        return cls(key)

    def save(self, path: Union[str, Path]) -> None:
        """Writes the key's file, which must not be there yet, for its owner alone (mode 0600).

        Raises:
          OSError: the file is there, or can't be written.
        """
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        data = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)

    @property
    def signer(self) -> str:
        """The public key, `ed25519:<base64url of 32 bytes>`."""
        return _PREFIX + _text(self._key.public_key().public_bytes_raw())

    def sign(self, sha256: str) -> Signature:
        """Signs a plan's address."""
        return Signature(signer=self.signer, signature=_text(self._key.sign(message_of(sha256))))


def verifies(signature: Signature, sha256: str) -> bool:
    """Whether `signature` is its signer's, of the plan with this address (RFC 8032 §5.1.7).

    Raises:
      ImportError: `cryptography` is not installed.
    """
    need_cryptography()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = Ed25519PublicKey.from_public_bytes(_base64url(signature.signer[len(_PREFIX) :], _KEY_BYTES))
    try:
        key.verify(_base64url(signature.signature, _SIGNATURE_BYTES), message_of(sha256))
    except InvalidSignature:
        return False
    return True


def need_cryptography() -> None:
    """Raises `ImportError`, with what to install, if there is no `cryptography` here."""
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Signing plans and checking signatures needs cryptography: pip install 'muster-fl[signing]'",
            name="cryptography",
        ) from error
