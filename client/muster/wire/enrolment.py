"""Enrolment tokens: an operator's word that somebody is a client of one population, until a day, under a name.

JSON Web Tokens (RFC 7519) signed with Ed25519 (RFC 8037). The private key stays with the operator; a coordinator knows public keys
alone, so it can check a token and make none. Needs PyJWT and cryptography (`muster-fl[signing]`), when it is used.
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
LONGEST = 4096  # characters of a token that is looked at
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}\Z")
POPULATION = re.compile(r"[a-z][a-z0-9_-]{0,62}\Z")
ID = re.compile(r"[0-9a-f]{32}\Z")


class EnrolmentError(ValueError):
    """A token, a key or a name is not valid; the text says why, and holds nothing of a key or a token."""


@dataclass(frozen=True)
class Enrolment:
    """What a token says.

    Attributes:
      population: The only population that it is good for.
      name: Who the client is. Of all tokens under one name together a round takes one contribution.
      issued_at: POSIX seconds.
      expires_at: POSIX seconds.
      id: Names this token, to revoke it by: 32 hex digits.
    """

    population: str
    name: str
    issued_at: float
    expires_at: float
    id: str = field(default_factory=lambda: secrets.token_hex(16))

    def __post_init__(self) -> None:
        if not POPULATION.match(self.population):
            raise EnrolmentError(
                f"{self.population!r} is no population's name: lower case, digits, - and _, at most 63"
            )
        if not NAME.match(self.name):
            raise EnrolmentError(f"{self.name!r} is no client's name: letters, digits and . _ @ -, at most 128")
        if not ID.match(self.id):
            raise EnrolmentError("an enrolment's id has 32 hex digits")
        if not self.issued_at < self.expires_at:
            raise EnrolmentError("an enrolment ends after it begins")


class PrivateKey:
    """What signs tokens. Whoever has it can enrol anybody."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> Self:
        """A new key."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, pem: bytes) -> Self:
        """The key in a PEM file (PKCS #8, not encrypted). Raises `EnrolmentError`."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise EnrolmentError("this is no private key in PEM form; `muster enrol key` makes one") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise EnrolmentError("this private key is not of the kind Ed25519; `muster enrol key` makes one")
        return cls(key)

    def pem(self) -> bytes:
        """The key as a PEM file."""
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def public(self) -> str:
        """The public key as a setting has it: 43 characters of base64url."""
        return base64.urlsafe_b64encode(self._key.public_key().public_bytes_raw()).rstrip(b"=").decode()

    def issue(self, enrolment: Enrolment) -> str:
        """The token of an enrolment."""
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
    """What checks tokens.

    Args:
      keys: Public keys as `PrivateKey.public` gives them: one, or several while a new one takes over.

    Raises:
      EnrolmentError: one of them is none.
    """

    def __init__(self, *keys: str) -> None:
        self._keys: Mapping[str, Ed25519PublicKey] = {_id_of(key): _public_key(key) for key in keys}

    def read(self, token: str) -> Enrolment:
        """What a token says, if one of the keys has signed it. Whether it has expired is for the caller to judge.

        Raises:
          EnrolmentError: it is no token of these keys.
        """
        import jwt

        if len(token) > LONGEST:
            raise EnrolmentError("it is too long for an enrolment token")
        try:
            key = self._keys.get(str(jwt.get_unverified_header(token).get("kid")))
            if key is None:
                raise EnrolmentError("it is not signed with a key that is known here")  # noqa: TRY301  it passes through
            found: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[_ALGORITHM],
                audience=_AUDIENCE,
                # The caller's clock judges, not this machine's.
                options={
                    "verify_exp": False,
                    "verify_iat": False,
                    "require": ["aud", "jti", "sub", "population", "iat", "exp"],
                },
            )
            return Enrolment(
                population=str(found["population"]),
                name=str(found["sub"]),
                issued_at=float(found["iat"]),
                expires_at=float(found["exp"]),
                id=str(found["jti"]),
            )
        except EnrolmentError:
            raise
        except (jwt.InvalidTokenError, ValueError, TypeError, RecursionError) as error:
            raise EnrolmentError("it is no enrolment token, or was changed on its way") from error


def _public_key(text: str) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        raw = base64.b64decode(text + "=", altchars=b"-_", validate=True)
    except ValueError:
        raw = b""
    if len(raw) != _KEY_BYTES:
        raise EnrolmentError(
            f"{text!r} is no public key: 43 characters of base64url, as `muster enrol key` prints them"
        )
    return Ed25519PublicKey.from_public_bytes(raw)


def _id_of(public: str) -> str:
    return hashlib.sha256(public.encode()).hexdigest()[:16]
