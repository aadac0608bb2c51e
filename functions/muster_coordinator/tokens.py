"""Tokens: the assignment, which authorizes one client to upload one update, and the cookie, opaque to a client.

An assignment is a JSON Web Token (RFC 7519), HS256, with a specific audience. `kid` names the key of the ring that
signed it; a token without `kid` is of an earlier version and is checked against all keys of the ring. Times are checked
against the coordinator's clock, which tests can set.

A cookie is `muster2.<kid>.<sealed>`: its content is encrypted and authenticated (AES-SIV, RFC 5297), because only the
coordinator reads it, and because it would link a client's identity and its rounds for any observer of a check-in.
Cookies of earlier versions, which are JSON Web Tokens, are still accepted. An earlier version ignores a sealed cookie.

A client has one cookie and may work for several tasks. So the content of its cookie at a check-in is carried in the
assignment, sealed too, and from there in the cookie of its receipt.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import b64decode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.domain.keys import Key, KeyRing
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.slots import Ticket

SKEW = 300.0  # seconds that another instance's clock may be ahead of ours
_ALGORITHM = "HS256"
_ASSIGNMENT = "muster:assignment"
_COOKIE = "muster:cookie"
_EARLIER = "earlier"  # the claim with the previous version's sealed contributions: it can't read a row of six fields
_PAST = "past"  # the claim with this version's sealed contributions
_SEALED_COOKIE = "muster2"
MAX_CONTRIBUTIONS = 8  # that a cookie holds, one for each task: 2 KB with the longest names
_CLAIM_LABEL = b"what a token says to the coordinator alone"
_COOKIE_LABEL = b"what a cookie says to the coordinator alone"


@dataclass(frozen=True, slots=True)
class AssignmentClaims:
    """Claims of an assignment: its client (a pseudonym), round, shard, plan, size and slot.

    `separation` is the number of seconds after the contribution for which the client's cookie matters; above 0 if and
    only if the task separates contributions. `earlier` are the contributions to other tasks that the cookie held at the
    check-in. A token of an earlier version lacks the last four.
    """

    key: RoundKey
    shard: int
    pseudonym: str
    ticket: Ticket
    plan: str
    expires_at: float  # POSIX seconds
    issued_at: float = 0.0  # POSIX seconds
    max_update_bytes: int | None = None
    separation: float = 0.0  # seconds
    earlier: tuple[CookieClaims, ...] = ()


@dataclass(frozen=True, slots=True)
class CookieClaims:
    """Claims of a cookie about one task: its holder's last contribution, with round and time, and its expiry.

    `separates`: whether the task had a separation, so that the contribution counts for every task of the population
    that has one.
    """

    key: RoundKey
    contributed_at: float  # POSIX seconds
    expires_at: float | None = None  # POSIX seconds; None: a cookie of an earlier version
    separates: bool | None = None  # None: a cookie of an earlier version, which lacks it

    def holds(self, now: float) -> bool:
        """Whether it says anything: it is neither over nor of the future."""
        return (self.expires_at is None or now < self.expires_at) and self.contributed_at <= now + SKEW


def last_that_separates(task: str, contributions: Iterable[CookieClaims]) -> CookieClaims | None:
    """Returns a client's last contribution to `task` or to any task that separates, or None."""
    counted = (each for each in contributions if each.key.task == task or each.separates)
    return max(counted, key=lambda each: each.contributed_at, default=None)


def last_of(task: str, contributions: Iterable[CookieClaims]) -> CookieClaims | None:
    """A client's last contribution to a task, if it is told of."""
    return next((each for each in contributions if each.key.task == task), None)


class Tokens:
    """Makes and reads tokens under a ring of keys."""

    def __init__(self, secret: KeyRing | bytes | None) -> None:
        """With `secret`, the keys, or the only one."""
        self._ring = KeyRing.of(secret)

    def assignment(self, claims: AssignmentClaims) -> str:
        """Returns the token of an assignment. Of the `earlier` contributions it holds those that expire last."""
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
        """What a token says.

        Raises:
          ProblemError: `assignment_invalid` or `assignment_expired`.
        """
        read = self._read(_ASSIGNMENT, token)
        if read is None:
            raise ProblemError(
                ProblemType.ASSIGNMENT_INVALID, "The assignment token was not made here; check in for a new one"
            )
        found, earlier = read
        claims = AssignmentClaims(
            key=RoundKey(found["task"], found["round"], found["epoch"]),
            shard=found["shard"],
            pseudonym=found["sub"],
            ticket=Ticket(found["counter"], found["interval"]),
            plan=found["plan"],
            expires_at=found["exp"],
            issued_at=found.get("iat", 0.0),
            max_update_bytes=found.get("size"),
            separation=found.get("separation", 0.0),
            earlier=tuple(each for each in earlier if each.holds(now)),
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
        """Returns a sealed cookie of a contribution, and of the earlier ones to other tasks that expire last."""
        key = self._ring.newest
        sealed = _seal((newest, *_most_relevant(earlier)), key, label=_COOKIE_LABEL, context=key.fingerprint.encode())
        return f"{_SEALED_COOKIE}.{key.fingerprint}.{sealed}"

    def read_cookie(self, token: str | None, *, now: float) -> tuple[CookieClaims, ...]:
        """Returns a cookie's claims, newest first, without expired and future ones; () if the cookie is not valid."""
        if not token:
            return ()
        read = self._open_cookie(token) if token.startswith(f"{_SEALED_COOKIE}.") else self._read_signed_cookie(token)
        return tuple(each for each in read if each.holds(now))

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
        read = self._read(_COOKIE, token)
        if read is None:
            return ()
        found, earlier = read
        newest = RoundKey(found["task"], found["round"], found["epoch"])
        return (CookieClaims(newest, found["at"], expires_at=found.get("exp")), *earlier)

    def _sign(self, claims: dict[str, Any], earlier: Iterable[CookieClaims]) -> str:
        key = self._ring.newest
        body = {"aud": _ASSIGNMENT, **claims}
        held = _most_relevant(earlier)
        if held:
            # The rest of the token is the context, so that equal claims are sealed differently in each token.
            body[_PAST] = _seal(held, key, label=_CLAIM_LABEL, context=_json(body))
        return jwt.encode(body, key.secret, algorithm=_ALGORITHM, headers={"kid": key.fingerprint})

    def _read(self, audience: str, token: str) -> tuple[dict[str, Any], tuple[CookieClaims, ...]] | None:
        """Returns the claims of a signed token and its sealed contributions; None if no key of the ring signed it."""
        # Times are judged by the callers, with their clock.
        options: Any = {"verify_exp": False, "verify_iat": False, "verify_nbf": False, "require": ["aud"]}
        kid = _kid(token)
        for key in self._ring if kid is None else filter(None, [self._ring.find(kid)]):
            try:
                found = jwt.decode(token, key.secret, algorithms=[_ALGORITHM], audience=audience, options=options)
            except jwt.InvalidTokenError:
                continue
            sealed = [found.pop(claim) for claim in (_EARLIER, _PAST) if claim in found]
            context = _json(found)
            return found, tuple(
                each for text in sealed for each in _open(text, key, label=_CLAIM_LABEL, context=context)
            )
        return None


def _most_relevant(contributions: Iterable[CookieClaims]) -> list[CookieClaims]:
    """Returns the contributions that a token holds: those that expire last, and always the last one that separates."""
    ranked = sorted(contributions, key=lambda each: each.expires_at or 0.0, reverse=True)
    held = ranked[: MAX_CONTRIBUTIONS - 1]
    last = max((each for each in ranked if each.separates), key=lambda each: each.contributed_at, default=None)
    return held if last is None or last in held else [*held[:-1], last]


def _seal(contributions: Iterable[CookieClaims], key: Key, *, label: bytes, context: bytes) -> str:
    """Encrypts contributions, so that only the key opens them, for the same label and context."""
    rows = [
        (each.key.task, each.key.number, each.key.epoch, each.contributed_at, each.expires_at, each.separates)
        for each in contributions
    ]
    return urlsafe_b64encode(_cipher(key, label).encrypt(_json(rows), [context])).decode()


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
    """The key that a token says it was signed with; None if it says none, or is no token, which its decoding will show.

    PyJWT has no way to that but to take the whole token apart, which a decoding does once more.
    """
    head = token.partition(".")[0]
    try:
        header = json.loads(urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (ValueError, RecursionError):
        return None
    kid = header.get("kid") if isinstance(header, dict) else None
    return kid if isinstance(kid, str) else None
