"""Authenticates operators by a key, of which a hash is stored, or by an OpenID Connect token.

See `parse_operators`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from muster_coordinator.adapters.oidc_tokens import SIGNATURE_REMOVED, OidcTokens
from muster_coordinator.domain.operators import ANY_CALLER, Principal, Role
from muster_coordinator.ports import OperatorAuthenticator, UntrustedTokenError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}\Z")
_HASH = re.compile(r"[0-9a-f]{64}\Z")
_OIDC_OPTIONS = {"audience", "operators", "viewers"}
_NO_CREDENTIALS = (
    "This route is for operators and needs the header `Authorization: Bearer <key or token>` "
    "(--token or MUSTER_OPERATOR_TOKEN)"
)


class OpenOperatorAuthenticator:
    """Authenticator that accepts every caller as an operator.

    For a coordinator that only its operator can reach.
    """

    def identify(self, token: str | None) -> Principal:
        """See `OperatorAuthenticator.identify`."""
        del token
        return ANY_CALLER


class ClosedOperatorAuthenticator:
    """Authenticator that refuses every caller, since no operators are configured."""

    def identify(self, token: str | None) -> Principal:
        """See `OperatorAuthenticator.identify`."""
        del token
        raise UntrustedTokenError("No operators are configured here: set MUSTER_OPERATORS to keys:… or oidc:…")


@dataclass(frozen=True, slots=True)
class HashedKey:
    """SHA-256 of an operator's key, in hex, and the operator."""

    principal: Principal
    sha256: str


class KeyOperatorAuthenticator:
    """Authenticator of operators by keys, of which only hashes are stored.

    A plain SHA-256 suffices here and would not for passwords: a key has 256 random bits, so it
    can't be guessed from its hash, and a salt or a slow hash would add nothing.
    """

    def __init__(self, keys: Iterable[HashedKey]) -> None:
        self._keys = tuple(keys)

    def identify(self, token: str | None) -> Principal:
        """See `OperatorAuthenticator.identify`. Compares every key, each in constant time."""
        if token is None:
            raise UntrustedTokenError(_NO_CREDENTIALS)
        sha256 = hashlib.sha256(token.encode()).hexdigest()
        principal: Principal | None = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, sha256):
                principal = key.principal
        if principal is None:
            raise UntrustedTokenError(
                "The key is unknown here: `muster key operator` makes one; add its hash to MUSTER_OPERATORS"
            )
        return principal


class OidcOperatorAuthenticator:
    """Authenticator of operators by OpenID Connect tokens with a verified e-mail address.

    Errors: see `OidcTokens`.
    """

    def __init__(self, *, issuer: str, audiences: Iterable[str], roles: Mapping[str, Role]) -> None:
        """Creates an authenticator; it connects with the first token.

        Args:
          issuer: URL of the issuer.
          audiences: Accepted audiences; a token must have one of them.
          roles: Role of each operator, by e-mail address in lower case.
        """
        self._tokens = OidcTokens(issuer)
        self._audiences = tuple(audiences)
        self._roles = dict(roles)

    def identify(self, token: str | None) -> Principal:
        """See `OperatorAuthenticator.identify`."""
        if token is None:
            raise UntrustedTokenError(_NO_CREDENTIALS)
        if token.endswith(SIGNATURE_REMOVED):
            raise UntrustedTokenError(
                "Cloud Run has verified this token and removed its signature: send it to Cloud Run in "
                "`X-Serverless-Authorization`, and to Muster in `Authorization`, as `muster` does with --token"
            )
        claims = self._tokens.claims(token, audience=self._audiences, require=["email"])
        if claims.get("email_verified") is not True:
            raise UntrustedTokenError("The token's e-mail address is not verified by its issuer")
        email = str(claims["email"]).lower()
        if email not in self._roles:
            raise UntrustedTokenError(f"{email} is no operator here: add it to MUSTER_OPERATORS")
        return Principal(email, self._roles[email])


def parse_operators(text: str) -> OperatorAuthenticator:
    """Returns the authenticator that the setting MUSTER_OPERATORS describes.

    Args:
      text: `open`, `keys:name:role:sha256,…`, or
        `oidc:https://issuer?audience=…&operators=a@x,b@x&viewers=…`.

    Raises:
      ValueError: `text` is not valid; the message has the reason and the fix.
    """
    if text == "open":
        return OpenOperatorAuthenticator()
    kind, _, rest = text.partition(":")
    if kind == "keys":
        return KeyOperatorAuthenticator(_keys(rest))
    if kind == "oidc":
        return _oidc(rest)
    raise ValueError("must be open, keys:name:role:sha256,… or oidc:https://issuer?audience=…&operators=…")


def _keys(text: str) -> list[HashedKey]:
    keys = []
    for number, entry in enumerate(filter(None, (part.strip() for part in text.split(","))), 1):
        name, _, rest = entry.partition(":")
        role, _, sha256 = rest.partition(":")
        roles = [known_role.value for known_role in Role]
        if not _NAME.match(name) or role not in roles or not _HASH.match(sha256):
            raise ValueError(
                f"key {number} must be name:role:sha256, with a name of letters, digits, '.', '_', '@' and '-', a role "
                f"of {' or '.join(roles)}, and 64 hex digits: `muster key operator` prints it"
            )
        keys.append(HashedKey(Principal(name, Role(role)), sha256))
    if not keys:
        raise ValueError("keys: needs at least one key: `muster key operator` makes one")
    if len({key.sha256 for key in keys}) < len(keys):
        raise ValueError("keys: has one key twice; each operator needs a separate key")
    return keys


def _oidc(text: str) -> OidcOperatorAuthenticator:
    parts = urlsplit(text)
    # A plus belongs to an e-mail address here and is never a space.
    options = parse_qs(parts.query.replace("+", "%2B"))
    if parts.scheme not in ("https", "http") or not parts.netloc:
        raise ValueError(
            "oidc: needs the issuer's URL, such as oidc:https://accounts.google.com?audience=…&operators=…"
        )
    if unknown := options.keys() - _OIDC_OPTIONS:
        raise ValueError(f"oidc: has unknown options {', '.join(sorted(unknown))}; use audience, operators and viewers")
    lists = {name: _listed(options.get(name, [])) for name in _OIDC_OPTIONS}
    if not lists["audience"] or not (lists["operators"] or lists["viewers"]):
        raise ValueError("oidc: needs audience=… and at least one address under operators=… or viewers=…")
    both = {address.lower() for address in lists["operators"]} & {address.lower() for address in lists["viewers"]}
    if both:
        raise ValueError(
            f"oidc: {', '.join(sorted(both))} can't be operator and viewer: an operator may do all a viewer may"
        )
    roles = {address.lower(): Role.VIEWER for address in lists["viewers"]}
    roles |= {address.lower(): Role.OPERATOR for address in lists["operators"]}
    issuer = parts._replace(query="", fragment="").geturl()
    return OidcOperatorAuthenticator(issuer=issuer, audiences=lists["audience"], roles=roles)


def _listed(values: Iterable[str]) -> list[str]:
    return [item.strip() for value in values for item in value.split(",") if item.strip()]
