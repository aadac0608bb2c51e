"""Signed tokens: the assignment, which lets one client upload one update, and the cookie, which a client hands back unread.

JSON Web Tokens (RFC 7519), HS256, each kind with its own audience, so that one can't pass for the other. `kid` tells which key
of the ring signed; a token without one is of an earlier version, and any key of the ring may have. Times are judged by the
coordinator's clock, which tests can set.

A client has one cookie and may work for several tasks. So what its cookie said at a check-in travels in the assignment, and
from there into the cookie of its receipt, encrypted on both ways (AES-SIV, RFC 5297): it would link a client's rounds, which
pseudonyms keep apart, for whoever sees a token on its way.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from coordinator.domain.keys import Key, KeyRing
from coordinator.domain.names import RoundKey
from coordinator.domain.slots import Ticket
from muster.wire.problems import ProblemError, ProblemType

SKEW = 300.0  # seconds that another instance's clock may be ahead of ours
_ALGORITHM = "HS256"
_ASSIGNMENT = "muster:assignment"
_COOKIE = "muster:cookie"
_EARLIER = "earlier"  # the claim
_KEPT = 8  # contributions that a cookie remembers, of a task each: 2 KB with the longest of names
_SEALING_TEXT = b"what a token says to the coordinator alone"


@dataclass(frozen=True, slots=True)
class AssignmentClaims:
    """What an assignment says: whose it is (a pseudonym), for which round, shard, plan and size, from which slot.

    `separation` is for how many seconds after the contribution the client's cookie matters. `earlier` are the contributions to
    other tasks that the cookie told of at the check-in. A token of an earlier version says nothing of the last four.
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
    """What a cookie says of one task: when its holder last contributed to which round, and until when that matters."""

    key: RoundKey
    contributed_at: float  # POSIX seconds
    expires_at: float | None = None  # POSIX seconds; None: a cookie of an earlier version

    def holds(self, now: float) -> bool:
        """Whether it says anything: it is neither over nor of the future."""
        return (self.expires_at is None or now < self.expires_at) and self.contributed_at <= now + SKEW


def last_of(task: str, contributions: Iterable[CookieClaims]) -> CookieClaims | None:
    """A client's last contribution to a task, if it is told of."""
    return next((each for each in contributions if each.key.task == task), None)


class Tokens:
    """Makes and reads tokens under a ring of keys."""

    def __init__(self, secret: KeyRing | bytes | None) -> None:
        """With `secret`, the keys, or the only one."""
        self._ring = KeyRing.of(secret)

    def assignment(self, claims: AssignmentClaims) -> str:
        """The token of an assignment. Of many `earlier` ones it keeps a few, those that matter longest."""
        return self._sign(
            _ASSIGNMENT,
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
        found = self._read(_ASSIGNMENT, token)
        if found is None:
            raise ProblemError(
                ProblemType.ASSIGNMENT_INVALID, "The assignment token was not made here; check in for a new one"
            )
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
            earlier=tuple(each for each in found[_EARLIER] if each.holds(now)),
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
        """The token of a cookie: of a contribution, and of earlier ones to other tasks; of many, those that matter longest."""
        key = newest.key
        more = {} if newest.expires_at is None else {"iat": newest.contributed_at, "exp": newest.expires_at}
        # The newest alone is what an earlier version reads, which may serve beside this one during an upgrade.
        claims = {"task": key.task, "round": key.number, "epoch": key.epoch, "at": newest.contributed_at, **more}
        return self._sign(_COOKIE, claims, earlier)

    def read_cookie(self, token: str | None, *, now: float) -> tuple[CookieClaims, ...]:
        """What a cookie says, the newest first; nothing of what has expired or is of the future, or if it was not made here."""
        found = self._read(_COOKIE, token) if token else None
        if found is None:
            return ()
        newest = CookieClaims(
            RoundKey(found["task"], found["round"], found["epoch"]), found["at"], expires_at=found.get("exp")
        )
        return tuple(each for each in (newest, *found[_EARLIER]) if each.holds(now))

    def _sign(self, audience: str, claims: dict[str, Any], earlier: Iterable[CookieClaims]) -> str:
        key = self._ring.newest
        body = {"aud": audience, **claims}
        kept = sorted(earlier, key=lambda each: each.expires_at or 0.0, reverse=True)[: _KEPT - 1]
        if kept:
            body[_EARLIER] = _sealed(kept, key, body)
        return jwt.encode(body, key.secret, algorithm=_ALGORITHM, headers={"kid": key.fingerprint})

    def _read(self, audience: str, token: str) -> dict[str, Any] | None:
        # Times are judged by the callers, with their clock.
        options: Any = {"verify_exp": False, "verify_iat": False, "verify_nbf": False, "require": ["aud"]}
        kid = _kid(token)
        for key in self._ring if kid is None else filter(None, [self._ring.find(kid)]):
            try:
                found = jwt.decode(token, key.secret, algorithms=[_ALGORITHM], audience=audience, options=options)
            except jwt.InvalidTokenError:
                continue
            sealed = found.pop(_EARLIER, None)
            return {**found, _EARLIER: () if sealed is None else _opened(sealed, key, found)}
        return None


def _sealed(contributions: Iterable[CookieClaims], key: Key, body: dict[str, Any]) -> str:
    """Contributions in a form that only the key opens. It differs from token to token, since the rest of the token goes into it."""
    rows = [
        (each.key.task, each.key.number, each.key.epoch, each.contributed_at, each.expires_at) for each in contributions
    ]
    return urlsafe_b64encode(_cipher(key).encrypt(_json(rows), [_json(body)])).decode()


def _opened(sealed: str, key: Key, body: dict[str, Any]) -> tuple[CookieClaims, ...]:
    rows = json.loads(_cipher(key).decrypt(urlsafe_b64decode(sealed), [_json(body)]))
    return tuple(CookieClaims(RoundKey(task, number, epoch), at, end) for task, number, epoch, at, end in rows)


def _cipher(key: Key) -> AESSIV:
    return AESSIV(hmac.new(key.secret, _SEALING_TEXT, hashlib.sha512).digest())


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
