"""Signs and reads assignments and cookies.

An assignment authorizes one client to upload one update. A cookie is opaque to its client.

An assignment is a JSON Web Token (RFC 7519), HS256, with a specific audience. `kid` names the key
of the ring that signed it; a token without `kid` is of an earlier version and is checked against
all keys of the ring. Times are checked against the coordinator's clock, which tests can set.

A cookie is `muster2.<kid>.<sealed>`: its content is encrypted and authenticated (AES-SIV, RFC
5297), because only the coordinator reads it, and because it would link a client's identity and its
rounds for any observer of a check-in. Cookies of earlier versions, which are JSON Web Tokens, are
still accepted. An earlier version ignores a sealed cookie.

A client has one cookie and may work for several tasks. So the content of its cookie at a check-in
is carried in the assignment, sealed too, and from there in the cookie of its receipt.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import b64decode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import jwt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.domain.keys import Key, KeyRing
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.slots import Ticket

SKEW = 300.0  # seconds that another instance's clock may be ahead of this one's
_ALGORITHM = "HS256"
_ASSIGNMENT = "muster:assignment"
_COOKIE = "muster:cookie"
_EARLIER = "earlier"  # claim with the sealed contributions of the previous version, which has fewer fields
_PAST = "past"  # claim with this version's sealed contributions
_SEALED_COOKIE = "muster2"
MAX_CONTRIBUTIONS = 8  # in a cookie, one for each task: 2 KB with the longest names
# Labels of key derivation. Tokens that are in use depend on their exact bytes.
_CLAIM_LABEL = b"what a token says to the coordinator alone"
_COOKIE_LABEL = b"what a cookie says to the coordinator alone"


@dataclass(frozen=True, slots=True)
class AssignmentClaims:
    """Claims of an assignment.

    A token of an earlier version lacks the last four.

    Attributes:
      key: The round.
      shard: The client's shard.
      pseudonym: The client's name in the round.
      ticket: The slot.
      plan: SHA-256 of the plan.
      expires_at: The expiry.
      issued_at: The time of the assignment.
      max_update_bytes: Size limit of the update.
      separation: Seconds after the contribution for which the client's cookie matters; above 0 if
        and only if the task separates contributions.
      earlier: The contributions to other tasks that the client's cookie held at the check-in.
    """

    key: RoundKey
    shard: int
    pseudonym: str
    ticket: Ticket
    plan: str
    expires_at: float  # POSIX seconds
    issued_at: float = 0.0  # POSIX seconds
    max_update_bytes: int | None = None  # bytes
    separation: float = 0.0  # seconds
    earlier: tuple[CookieClaims, ...] = ()


@dataclass(frozen=True, slots=True)
class CookieClaims:
    """Claims of a cookie about one task: the last contribution of its client.

    Attributes:
      key: The round of the contribution.
      contributed_at: The time of the contribution.
      expires_at: The expiry of the claims, or None in a cookie of an earlier version.
      separates: Whether the task separates contributions, so that this one counts for all such
        tasks of the population. None in a cookie of an earlier version.
    """

    key: RoundKey
    contributed_at: float  # POSIX seconds
    expires_at: float | None = None  # POSIX seconds
    separates: bool | None = None

    def holds(self, now: float) -> bool:
        """Returns whether the claims are valid: neither expired nor from the future."""
        return (self.expires_at is None or now < self.expires_at) and self.contributed_at <= now + SKEW


def last_separating_contribution(task: str, contributions: Iterable[CookieClaims]) -> CookieClaims | None:
    """Returns a client's last contribution to `task` or to any task that separates, or None."""
    counted = (claims for claims in contributions if claims.key.task == task or claims.separates)
    return max(counted, key=lambda claims: claims.contributed_at, default=None)


def last_contribution_to(task: str, contributions: Iterable[CookieClaims]) -> CookieClaims | None:
    """Returns a client's last contribution to a task, or None."""
    return next((claims for claims in contributions if claims.key.task == task), None)


@dataclass(frozen=True, slots=True)
class _SignedContent:
    """Content of a signed token: its claims, and the contributions that were sealed in it."""

    body: dict[str, Any]
    contributions: tuple[CookieClaims, ...]


class Tokens:
    """Signer and reader of tokens, under a ring of keys."""

    def __init__(self, secret: KeyRing | bytes | None) -> None:
        """Creates it with a ring of keys, the only key, or None to sign nothing."""
        self._ring = KeyRing.of(secret)

    def assignment(self, claims: AssignmentClaims) -> str:
        """Returns the token of an assignment, with the `earlier` contributions that expire last."""
        return self._sign(
            {
                "sub": claims.pseudonym,
                "task": claims.key.task,
                "round": claims.key.number,
                "epoch": claims.key.epoch,
                "shard": claims.shard,
                "counter": claims.ticket.counter,
                "interval": claims.ticket.interval,
                "plan": claims.plan,
                "size": claims.max_update_bytes,
                "separation": claims.separation,
                "iat": claims.issued_at,
                "exp": claims.expires_at,
            },
            claims.earlier,
        )

    def read_assignment(self, token: str, *, now: float) -> AssignmentClaims:
        """Returns the claims of an assignment.

        Args:
          token: The token.
          now: The time, in POSIX seconds.

        Raises:
          ProblemError: `assignment_invalid` or `assignment_expired`.
        """
        content = self._read(_ASSIGNMENT, token)
        if content is None:
            raise ProblemError(
                ProblemType.ASSIGNMENT_INVALID, "The assignment token was not made here; check in for a new one"
            )
        body = content.body
        claims = AssignmentClaims(
            key=RoundKey(body["task"], body["round"], body["epoch"]),
            shard=body["shard"],
            pseudonym=body["sub"],
            ticket=Ticket(body["counter"], body["interval"]),
            plan=body["plan"],
            expires_at=body["exp"],
            issued_at=body.get("iat", 0.0),
            max_update_bytes=body.get("size"),
            separation=body.get("separation", 0.0),
            earlier=tuple(earlier for earlier in content.contributions if earlier.holds(now)),
        )
        if now >= claims.expires_at:
            raise ProblemError(ProblemType.ASSIGNMENT_EXPIRED, "The assignment has expired; check in for a new one")
        if claims.issued_at > now + SKEW:
            raise ProblemError(
                ProblemType.ASSIGNMENT_INVALID,
                "The assignment was issued in the future, by the coordinator's clock; check in for a new one",
            )
        return claims

    def cookie(self, newest: CookieClaims, *earlier: CookieClaims) -> str:
        """Returns a sealed cookie of a contribution and of the earlier ones that expire last."""
        key = self._ring.newest
        sealed = _seal((newest, *_most_relevant(earlier)), key, label=_COOKIE_LABEL, context=key.fingerprint.encode())
        return f"{_SEALED_COOKIE}.{key.fingerprint}.{sealed}"

    def read_cookie(self, token: str | None, *, now: float) -> tuple[CookieClaims, ...]:
        """Returns the valid claims of a cookie, newest first; () if the cookie is not valid.

        Args:
          token: The cookie, or None.
          now: The time, in POSIX seconds.
        """
        if not token:
            return ()
        sealed = token.startswith(f"{_SEALED_COOKIE}.")
        contributions = self._open_cookie(token) if sealed else self._read_signed_cookie(token)
        return tuple(claims for claims in contributions if claims.holds(now))

    def _open_cookie(self, token: str) -> tuple[CookieClaims, ...]:
        _, _, rest = token.partition(".")
        kid, _, sealed = rest.partition(".")
        key = self._ring.find(kid)
        try:
            return () if key is None else _open(sealed, key, label=_COOKIE_LABEL, context=kid.encode())
        except (InvalidTag, ValueError):
            return ()

    def _read_signed_cookie(self, token: str) -> tuple[CookieClaims, ...]:
        """Reads a cookie of an earlier version."""
        content = self._read(_COOKIE, token)
        if content is None:
            return ()
        body = content.body
        newest = RoundKey(body["task"], body["round"], body["epoch"])
        return (CookieClaims(newest, body["at"], expires_at=body.get("exp")), *content.contributions)

    def _sign(self, claims: dict[str, Any], earlier: Iterable[CookieClaims]) -> str:
        key = self._ring.newest
        body = {"aud": _ASSIGNMENT, **claims}
        contributions = _most_relevant(earlier)
        if contributions:
            # The rest of the token is the context, so that equal claims are sealed differently in
            # each token.
            body[_PAST] = _seal(contributions, key, label=_CLAIM_LABEL, context=_json(body))
        return jwt.encode(body, key.secret, algorithm=_ALGORITHM, headers={"kid": key.fingerprint})

    def _read(self, audience: str, token: str) -> _SignedContent | None:
        """Returns the content of a signed token, or None if no key of the ring signed it."""
        # The callers check the times, by their clock.
        options: Any = {"verify_exp": False, "verify_iat": False, "verify_nbf": False, "require": ["aud"]}
        for key in self._possible_keys(token):
            try:
                body = jwt.decode(token, key.secret, algorithms=[_ALGORITHM], audience=audience, options=options)
            except jwt.InvalidTokenError:
                continue
            sealed = [body.pop(claim) for claim in (_EARLIER, _PAST) if claim in body]
            context = _json(body)
            opened = (_open(text, key, label=_CLAIM_LABEL, context=context) for text in sealed)
            return _SignedContent(body, tuple(chain.from_iterable(opened)))
        return None

    def _possible_keys(self, token: str) -> Iterable[Key]:
        """Returns the keys of the ring that may have signed a token."""
        kid = _kid(token)
        if kid is None:
            return self._ring
        key = self._ring.find(kid)
        return () if key is None else (key,)


def _most_relevant(contributions: Iterable[CookieClaims]) -> list[CookieClaims]:
    """Returns the contributions for a token: the last to expire, and the last that separates."""
    ranked = sorted(contributions, key=lambda claims: claims.expires_at or 0.0, reverse=True)
    chosen = ranked[: MAX_CONTRIBUTIONS - 1]
    separating = (claims for claims in ranked if claims.separates)
    last = max(separating, key=lambda claims: claims.contributed_at, default=None)
    return chosen if last is None or last in chosen else [*chosen[:-1], last]


def _seal(contributions: Iterable[CookieClaims], key: Key, *, label: bytes, context: bytes) -> str:
    """Encrypts contributions. Only the same key, label and context decrypt them."""
    rows = list(map(_row, contributions))
    return urlsafe_b64encode(_cipher(key, label).encrypt(_json(rows), [context])).decode()


def _row(claims: CookieClaims) -> tuple[object, ...]:
    key = claims.key
    return key.task, key.number, key.epoch, claims.contributed_at, claims.expires_at, claims.separates


def _open(sealed: str, key: Key, *, label: bytes, context: bytes) -> tuple[CookieClaims, ...]:
    rows = json.loads(_cipher(key, label).decrypt(_bytes_of(sealed), [context]))
    return tuple(CookieClaims(RoundKey(*row[:3]), *row[3:]) for row in rows)


def _bytes_of(text: str) -> bytes:
    """Decodes base64url. Raises `ValueError` for any other character."""
    return b64decode(text.encode("ascii"), altchars=b"-_", validate=True)


def _cipher(key: Key, label: bytes) -> AESSIV:
    return AESSIV(hmac.new(key.secret, label, hashlib.sha512).digest())


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _kid(token: str) -> str | None:
    """Returns the key id in a token's header, unverified; None if it has none, or is not a token.

    PyJWT's `get_unverified_header` parses the whole token, which the decoding would do once more.
    """
    head = token.partition(".")[0]
    try:
        header = json.loads(urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (ValueError, RecursionError):
        return None
    kid = header.get("kid") if isinstance(header, dict) else None
    return kid if isinstance(kid, str) else None
