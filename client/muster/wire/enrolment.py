"""Enrolment tokens, which admit one named client to one population until they expire.

They are JSON Web Tokens (RFC 7519) signed with Ed25519 (RFC 8037). The private key stays with the
operator. A coordinator has only public keys, so it can verify tokens and issue none. Issuing and
verifying need PyJWT and cryptography (`muster-fl[signing]`).
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_ALGORITHM = "EdDSA"
_AUDIENCE = "muster:enrolment"
_KEY_BYTES = 32
_MAX_TOKEN_CHARACTERS = 4096
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}\Z")
POPULATION = re.compile(r"[a-z][a-z0-9_-]{0,62}\Z")
ID = re.compile(r"[0-9a-f]{32}\Z")


class EnrolmentError(ValueError):
    """Error raised when an enrolment token, key or name is not valid; quotes neither."""


@dataclass(frozen=True)
class Enrolment:
    """Claims of an enrolment token.

    Attributes:
      population: The only population that the token admits to.
      name: Identity of the client. A round accepts one contribution per name, over all its tokens.
      issued_at: Time of issue in POSIX seconds.
      expires_at: Time of expiry in POSIX seconds.
      id: Id of the token, 32 hexadecimal digits, by which it is revoked.

    Raises:
      EnrolmentError: a claim is not valid.
    """

    population: str
    name: str
    issued_at: float
    expires_at: float
    id: str = field(default_factory=lambda: secrets.token_hex(16))

    def __post_init__(self) -> None:
        if not POPULATION.match(self.population):
            raise EnrolmentError(
                f"{self.population!r} is not a valid population: use lower case, digits, - and _, at most 63"
            )
        if not NAME.match(self.name):
            raise EnrolmentError(
                f"{self.name!r} is not a valid client name: use letters, digits and . _ @ -, at most 128"
            )
        if not ID.match(self.id):
            raise EnrolmentError("the id of an enrolment must have 32 hexadecimal digits")
        if not self.issued_at < self.expires_at:
            raise EnrolmentError("an enrolment must expire after it is issued")


class PrivateKey:
    """Private key that signs enrolment tokens. Its owner can enroll any client."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> Self:
        """Returns a new random key."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, pem: bytes) -> Self:
        """Reads a key from PEM (PKCS #8, not encrypted).

        Raises:
          EnrolmentError: the bytes are not such a key.
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise EnrolmentError(
                "the file is not a private key in PEM format; `muster enrol key` creates one"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise EnrolmentError("the private key is not an Ed25519 key; `muster enrol key` creates one")
        return cls(key)

    def pem(self) -> bytes:
        """Returns the key as PEM (PKCS #8, not encrypted)."""
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def public(self) -> str:
        """Public key as in MUSTER_CLIENTS: 43 characters of base64url."""
        return base64.urlsafe_b64encode(self._key.public_key().public_bytes_raw()).rstrip(b"=").decode()

    def issue(self, enrolment: Enrolment) -> str:
        """Returns the signed token of an enrolment."""
        import jwt

        claims = {
            "aud": _AUDIENCE,
            "jti": enrolment.id,
            "sub": enrolment.name,
            "population": enrolment.population,
            "iat": int(enrolment.issued_at),
            "exp": int(enrolment.expires_at),
        }
        return jwt.encode(claims, self._key, algorithm=_ALGORITHM, headers={"kid": _id_of(self.public)})


class PublicKeys:
    """Verifier of enrolment tokens.

    Args:
      keys: Public keys, as `PrivateKey.public` returns them: one, or several during a rotation.

    Raises:
      EnrolmentError: one of them is not a valid key.
    """

    def __init__(self, *keys: str) -> None:
        self._keys: Mapping[str, Ed25519PublicKey] = {_id_of(key): _public_key(key) for key in keys}

    def read(self, token: str) -> Enrolment:
        """Verifies a token's signature and returns its claims. The caller checks the expiry.

        Raises:
          EnrolmentError: none of the keys has signed the token, or a claim is not valid.
        """
        import jwt

        if len(token) > _MAX_TOKEN_CHARACTERS:
            raise EnrolmentError("the enrolment token is too long")
        try:
            key = self._keys.get(str(jwt.get_unverified_header(token).get("kid")))
            if key is None:
                raise EnrolmentError("the enrolment token is signed with an unknown key")  # noqa: TRY301
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[_ALGORITHM],
                audience=_AUDIENCE,
                # The caller compares with its own clock.
                options={
                    "verify_exp": False,
                    "verify_iat": False,
                    "require": ["aud", "jti", "sub", "population", "iat", "exp"],
                },
            )
            return Enrolment(
                population=str(claims["population"]),
                name=str(claims["sub"]),
                issued_at=float(claims["iat"]),
                expires_at=float(claims["exp"]),
                id=str(claims["jti"]),
            )
        except EnrolmentError:
            raise
        except (jwt.InvalidTokenError, ValueError, TypeError, RecursionError) as error:
            raise EnrolmentError("the enrolment token is malformed or was changed in transit") from error


def _public_key(text: str) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        raw = base64.b64decode(text + "=", altchars=b"-_", validate=True)
    except ValueError:
        raw = b""
    if len(raw) != _KEY_BYTES:
        raise EnrolmentError(
            f"{text!r} is not a public key: it must be 43 characters of base64url, as `muster enrol key` prints it"
        )
    return Ed25519PublicKey.from_public_bytes(raw)


def _id_of(public: str) -> str:
    return hashlib.sha256(public.encode()).hexdigest()[:16]
