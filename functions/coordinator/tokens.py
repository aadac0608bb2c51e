"""Signed tokens: the assignment, which lets one client upload one update, and the cookie, which a client hands back unread.

JSON Web Tokens (RFC 7519), HS256, each kind with its own audience, so that one can't pass for the other. `kid` tells which key
of the ring signed; a token without one is of an earlier version, and any key of the ring may have. Times are judged by the
coordinator's clock, which tests can set.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from dataclasses import dataclass
from typing import Any

import jwt

from coordinator.domain.keys import KeyRing
from coordinator.domain.names import RoundKey
from coordinator.domain.slots import Ticket
from muster.wire.problems import ProblemError, ProblemType

SKEW = 300.0  # seconds that another instance's clock may be ahead of ours
_ALGORITHM = "HS256"
_ASSIGNMENT = "muster:assignment"
_COOKIE = "muster:cookie"


@dataclass(frozen=True, slots=True)
class AssignmentClaims:
    """What an assignment says: whose it is (a pseudonym), for which round, shard, plan and size, from which slot.

    `separation` is for how many seconds after the contribution the client's cookie matters. A token of an earlier version
    says nothing of the last three.
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


@dataclass(frozen=True, slots=True)
class CookieClaims:
    """What a cookie says: when its holder last contributed to which round, and until when that matters."""

    key: RoundKey
    contributed_at: float  # POSIX seconds
    expires_at: float | None = None  # POSIX seconds; None: a cookie of an earlier version


class Tokens:
    """Makes and reads tokens under a ring of keys."""

    def __init__(self, secret: KeyRing | bytes | None) -> None:
        """With `secret`, the keys, or the only one."""
        self._ring = KeyRing.of(secret)

    def assignment(self, claims: AssignmentClaims) -> str:
        """The token of an assignment."""
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
        )
        if now >= claims.expires_at:
            raise ProblemError(ProblemType.ASSIGNMENT_EXPIRED, "The assignment has expired; check in for a new one")
        if claims.issued_at > now + SKEW:
            raise ProblemError(
                ProblemType.ASSIGNMENT_INVALID,
                "The assignment was issued in the future, by the coordinator's clock; check in for a new one",
            )
        return claims

    def cookie(self, claims: CookieClaims) -> str:
        """The token of a cookie."""
        key = claims.key
        more = {} if claims.expires_at is None else {"iat": claims.contributed_at, "exp": claims.expires_at}
        return self._sign(
            _COOKIE, {"task": key.task, "round": key.number, "epoch": key.epoch, "at": claims.contributed_at, **more}
        )

    def read_cookie(self, token: str | None, *, now: float) -> CookieClaims | None:
        """What a cookie says; None for one that is missing, was not made here or in the future, or has expired."""
        found = self._read(_COOKIE, token) if token else None
        if found is None:
            return None
        claims = CookieClaims(
            RoundKey(found["task"], found["round"], found["epoch"]), found["at"], expires_at=found.get("exp")
        )
        late = claims.expires_at is not None and now >= claims.expires_at
        return None if late or claims.contributed_at > now + SKEW else claims

    def _sign(self, audience: str, claims: dict[str, Any]) -> str:
        key = self._ring.newest
        headers = {"kid": key.fingerprint}
        return jwt.encode({"aud": audience, **claims}, key.secret, algorithm=_ALGORITHM, headers=headers)

    def _read(self, audience: str, token: str) -> dict[str, Any] | None:
        # Times are judged by the callers, with their clock.
        options: Any = {"verify_exp": False, "verify_iat": False, "verify_nbf": False, "require": ["aud"]}
        kid = _kid(token)
        for key in self._ring if kid is None else filter(None, [self._ring.find(kid)]):
            try:
                return jwt.decode(token, key.secret, algorithms=[_ALGORITHM], audience=audience, options=options)
            except jwt.InvalidTokenError:
                continue
        return None


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
