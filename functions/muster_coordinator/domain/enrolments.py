"""List of revoked enrolment tokens. It stays short: expired tokens are dropped from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_REVOKED = 5000  # tokens in one document, which holds at most 1 MiB
_CLOCK_SKEW = 86400.0  # seconds for which a token stays listed after it has expired


class TooManyRevocationsError(ValueError):
    """Error raised when the list is full. The text names the fix."""


@dataclass(frozen=True, slots=True)
class RevokedToken:
    """A revoked token. It stays listed for ever if its expiry is unknown (None)."""

    revoked_at: float  # POSIX seconds
    expires_at: float | None = None  # POSIX seconds


@dataclass(frozen=True, slots=True)
class Revocations:
    """The revoked tokens, by id."""

    tokens: Mapping[str, RevokedToken] = field(default_factory=dict)

    def plus(self, token: str, *, now: float, expires_at: float | None) -> Revocations:
        """Returns the list with one more token. A token that is listed already stays unchanged.

        Args:
          token: The token's id.
          now: The time, in POSIX seconds.
          expires_at: The token's expiry, in POSIX seconds, or None if it is unknown.

        Raises:
          TooManyError: the list is full of tokens that have not expired yet.
        """
        if token in self.tokens:
            return self
        listed = {
            id_: revoked
            for id_, revoked in self.tokens.items()
            if revoked.expires_at is None or now < revoked.expires_at + _CLOCK_SKEW
        }
        if len(listed) >= MAX_REVOKED:
            raise TooManyRevocationsError(
                f"{MAX_REVOKED} tokens are revoked already: make a new key (`muster enrol key`), enrol the clients "
                "that stay with it, and take the old one out of MUSTER_CLIENTS"
            )
        return Revocations({**listed, token: RevokedToken(now, expires_at)})
