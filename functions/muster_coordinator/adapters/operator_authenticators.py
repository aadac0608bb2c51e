"""How operators show who they are: by a key that is kept as a hash, or by an OpenID Connect token. See `parse_operators`."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from muster_coordinator.adapters.oidc_tokens import SIGNATURE_REMOVED, OidcTokens
from muster_coordinator.domain.operators import ANYBODY, Principal, Role
from muster_coordinator.ports import OperatorAuthenticator, UntrustedTokenError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}\Z")
_HASH = re.compile(r"[0-9a-f]{64}\Z")
_OIDC_OPTIONS = {"audience", "operators", "viewers"}
_NEEDED = "This route is for operators and needs the header `Authorization: Bearer <key or token>` (--token or MUSTER_OPERATOR_TOKEN)"


class OpenOperatorAuthenticator:
    """Everybody may do everything. For a coordinator that nobody else can reach."""

    def identify(self, token: str | None) -> Principal:
        """See `Operators.identify`."""
        del token
        return ANYBODY


class ClosedOperatorAuthenticator:
    """Nobody may do anything, since nothing says who may."""

    def identify(self, token: str | None) -> Principal:
        """See `Operators.identify`."""
        del token
        raise UntrustedTokenError("No operator is known here: set MUSTER_OPERATORS to keys:… or oidc:…")


@dataclass(frozen=True, slots=True)
class HashedKey:
    """An operator's key: `sha256` of it, in hex, and whose it is."""

    principal: Principal
    sha256: str


class KeyOperatorAuthenticator:
    """Operators with keys, of which only hashes are kept.

    A plain SHA-256 is right here and would be wrong for passwords: a key is 256 random bits, so there is nothing to guess from
    a hash, and nothing for a salt or a slow hash to slow down.
    """

    def __init__(self, keys: Iterable[HashedKey]) -> None:
        self._keys = tuple(keys)

    def identify(self, token: str | None) -> Principal:
        """See `Operators.identify`. Compares with every key, each in constant time."""
        if token is None:
            raise UntrustedTokenError(_NEEDED)
        given = hashlib.sha256(token.encode()).hexdigest()
        found: Principal | None = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, given):
                found = key.principal
        if found is None:
            raise UntrustedTokenError(
                "The key is none that is known here: `muster key operator` makes one, and its hash goes into MUSTER_OPERATORS"
            )
        return found


class OidcOperatorAuthenticator:
    """Operators with an account at an issuer of OpenID Connect tokens, by their verified e-mail address."""

    def __init__(self, *, issuer: str, audiences: Iterable[str], roles: Mapping[str, Role]) -> None:
        """Makes a check.

        Args:
          issuer: The issuer's URL.
          audiences: Whom a token must be for: one of these.
          roles: By e-mail address, in lower case.
        """
        self._tokens = OidcTokens(issuer)
        self._audiences = tuple(audiences)
        self._roles = dict(roles)

    def identify(self, token: str | None) -> Principal:
        """See `Operators.identify`."""
        if token is None:
            raise UntrustedTokenError(_NEEDED)
        if token.endswith(SIGNATURE_REMOVED):
            raise UntrustedTokenError(
                "Cloud Run has checked this token and taken its signature off: send it to Cloud Run in "
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
    """What checks operators, by a setting's value.

    Args:
      text: `open`, `keys:name:role:sha256,…`, or `oidc:https://issuer?audience=…&operators=a@x,b@x&viewers=…`.

    Raises:
      ValueError: it is none of them; the text says where and what would do.
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
        known = [each.value for each in Role]
        if not _NAME.match(name) or role not in known or not _HASH.match(sha256):
            raise ValueError(
                f"key {number} must be name:role:sha256, with a name of letters, digits, '.', '_', '@' and '-', a role of "
                f"{' or '.join(known)}, and 64 hex digits: `muster key operator` prints it"
            )
        keys.append(HashedKey(Principal(name, Role(role)), sha256))
    if not keys:
        raise ValueError("keys: needs at least one key: `muster key operator` makes one")
    if len({key.sha256 for key in keys}) < len(keys):
        raise ValueError("keys: has one key twice; each needs a key of its own")
    return keys


def _oidc(text: str) -> OidcOperatorAuthenticator:
    place = urlsplit(text)
    # A plus is part of an e-mail address here, never a space.
    options = parse_qs(place.query.replace("+", "%2B"))
    if place.scheme not in ("https", "http") or not place.netloc:
        raise ValueError(
            "oidc: needs the issuer's URL, such as oidc:https://accounts.google.com?audience=…&operators=…"
        )
    if unknown := options.keys() - _OIDC_OPTIONS:
        raise ValueError(f"oidc: does not know {', '.join(sorted(unknown))}; it knows audience, operators and viewers")
    lists = {name: _listed(options.get(name, [])) for name in _OIDC_OPTIONS}
    if not lists["audience"] or not (lists["operators"] or lists["viewers"]):
        raise ValueError("oidc: needs audience=… and at least one address under operators=… or viewers=…")
    both = {address.lower() for address in lists["operators"]} & {address.lower() for address in lists["viewers"]}
    if both:
        raise ValueError(
            f"oidc: {', '.join(sorted(both))} can't be operator and viewer: an operator sees all a viewer does"
        )
    roles = {address.lower(): Role.VIEWER for address in lists["viewers"]}
    roles |= {address.lower(): Role.OPERATOR for address in lists["operators"]}
    issuer = place._replace(query="", fragment="").geturl()
    return OidcOperatorAuthenticator(issuer=issuer, audiences=lists["audience"], roles=roles)


def _listed(values: Iterable[str]) -> list[str]:
    return [item.strip() for value in values for item in value.split(",") if item.strip()]
