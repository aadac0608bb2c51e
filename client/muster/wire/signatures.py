"""Ed25519 signatures (RFC 8032) over a plan's address, which covers every byte of the plan.

Signatures are stored in the plan's file beside the manifest and are not covered by the address. So
a plan can be signed after it is built, by several signers, and a device's smaller copy carries the
same signatures. Signing and verifying need `cryptography` (`muster-fl[signing]`).
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


MAX_SIGNATURES = 16  # of one plan
SIGNATURES_LIMIT = 16 << 10  # bytes of the entry in a plan's file
_KEY_BYTES, _SIGNATURE_BYTES = 32, 64  # RFC 8032 §5.1.5, §5.1.6
_PREFIX = "ed25519:"
# Domain separation from other signatures of the same key.
_DOMAIN = b"muster plan v1\n"


def _base64url(text: str, length: int) -> bytes:
    """Decodes `length` bytes of base64url (RFC 4648 §5) without padding, in their only spelling."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{text[:60]!r} is not base64url") from error
    if len(data) != length or _text(data) != text:
        raise ValueError(f"{text[:60]!r} is not the base64url of {length} bytes")
    return data


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _check_signer(text: str) -> str:
    if not text.startswith(_PREFIX):
        raise ValueError(f"{text[:60]!r} is not a signer: it must be ed25519: and 43 characters")
    _base64url(text[len(_PREFIX) :], _KEY_BYTES)
    return text


def _check_signature(text: str) -> str:
    _base64url(text, _SIGNATURE_BYTES)
    return text


def parse_signers(text: Union[str, Iterable[str]]) -> tuple[str, ...]:
    """Parses public keys, `ed25519:<base64url of 32 bytes>`, from a list or a comma-separated text.

    Returns:
      The keys without duplicates, in their order.

    Raises:
      ValueError: one of them is not a valid key; the text quotes it.
    """
    listed = [text] if isinstance(text, str) else list(text)
    keys = [key.strip() for item in listed for key in item.split(",")]
    return tuple(dict.fromkeys(_check_signer(key) for key in keys if key))


class Signature(Message):
    """Signature of a plan by one signer."""

    signer: Annotated[str, AfterValidator(_check_signer)] = Field(
        description="Public key: `ed25519:` and its 32 bytes in base64url, without padding."
    )
    signature: Annotated[str, AfterValidator(_check_signature)] = Field(
        description="Signature: 64 bytes in base64url, without padding."
    )


class Signatures(Message):
    """Signatures of a plan."""

    signatures: Annotated[tuple[Signature, ...], Field(min_length=1, max_length=MAX_SIGNATURES)] = Field(
        description="Signatures, sorted by signer, one per signer."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Signatures:
        signers = [item.signer for item in self.signatures]
        if signers != sorted(set(signers)):
            raise ValueError("signatures must be sorted by signer, one per signer")
        return self


def message_of(sha256: str) -> bytes:
    """Returns the signed bytes: a line for domain separation and the plan's address in hex."""
    return _DOMAIN + sha256.encode("ascii")


@dataclass(frozen=True)
class SigningKey:
    """Private key that signs plans."""

    _key: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> SigningKey:
        """Returns a new random key.

        Raises:
          ImportError: `cryptography` is not installed.
        """
        need_cryptography()
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Union[str, Path]) -> SigningKey:
        """Reads a key's file: unencrypted PKCS #8 as PEM (RFC 8410 §7).

        Raises:
          ProblemError: `invalid_request`, if the file is not such a key.
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
                ProblemType.INVALID_REQUEST,
                f"{path} is not a private key in PEM format: `muster plan keygen` creates one",
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ProblemError(
                ProblemType.INVALID_REQUEST, f"{path} contains a key of another kind: plans are signed with Ed25519"
            )
        return cls(key)

    def save(self, path: Union[str, Path]) -> None:
        """Writes the key's file with mode 0600.

        Raises:
          FileExistsError: the file exists already.
          OSError: the file can't be written.
        """
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        data = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)

    @property
    def signer(self) -> str:
        """Public key, `ed25519:<base64url of 32 bytes>`."""
        return _PREFIX + _text(self._key.public_key().public_bytes_raw())

    def sign(self, sha256: str) -> Signature:
        """Signs a plan's address."""
        return Signature(signer=self.signer, signature=_text(self._key.sign(message_of(sha256))))


def verifies(signature: Signature, sha256: str) -> bool:
    """Returns whether a signature is valid for the plan with this address (RFC 8032 §5.1.7).

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
    """Raises `ImportError` with the package to install if `cryptography` is missing."""
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Signing plans and verifying signatures need cryptography: pip install 'muster-fl[signing]'",
            name="cryptography",
        ) from error
