"""Signed tokens: the assignment, which lets one client upload one update, and the cookie, which a client hands back unread.

JSON Web Tokens (RFC 7519), HS256, each kind with its own audience, so that one can't pass for the other. Expiry is judged by
the coordinator's clock, which tests can set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jwt

from coordinator.domain.names import RoundKey
from coordinator.domain.slots import Ticket
from muster.wire.problems import ProblemError, ProblemType

_ALGORITHM = "HS256"
_ASSIGNMENT = "muster:assignment"
_COOKIE = "muster:cookie"


@dataclass(frozen=True, slots=True)
class AssignmentClaims:
    """What an assignment says: whose it is (a pseudonym), for which round, shard and plan, from which slot."""

    key: RoundKey
    shard: int
    pseudonym: str
    ticket: Ticket
    plan: str
    expires_at: float  # POSIX seconds


@dataclass(frozen=True, slots=True)
class CookieClaims:
    """What a cookie says: when its holder last contributed to which round."""

    key: RoundKey
    contributed_at: float  # POSIX seconds


class Tokens:
    """Makes and reads tokens under one secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

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
        )
        if now >= claims.expires_at:
            raise ProblemError(ProblemType.ASSIGNMENT_EXPIRED, "The assignment has expired; check in for a new one")
        return claims

    def cookie(self, claims: CookieClaims) -> str:
        """The token of a cookie."""
        key = claims.key
        return self._sign(
            _COOKIE, {"task": key.task, "round": key.number, "epoch": key.epoch, "at": claims.contributed_at}
        )

    def read_cookie(self, token: str | None) -> CookieClaims | None:
        """What a cookie says; None for one that is missing or was not made here."""
        found = self._read(_COOKIE, token) if token else None
        if found is None:
            return None
        return CookieClaims(RoundKey(found["task"], found["round"], found["epoch"]), found["at"])

    def _sign(self, audience: str, claims: dict[str, Any]) -> str:
        return jwt.encode({"aud": audience, **claims}, self._secret, algorithm=_ALGORITHM)

    def _read(self, audience: str, token: str) -> dict[str, Any] | None:
        options: Any = {"verify_exp": False, "require": ["aud"]}
        try:
            return jwt.decode(token, self._secret, algorithms=[_ALGORITHM], audience=audience, options=options)
        except jwt.InvalidTokenError:
            return None
