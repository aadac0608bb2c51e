"""Which enrolment tokens are good no more: a short list, since what has expired by itself falls out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MOST = 5000  # of them all in one document, which has at most 1 MiB
_KEPT = 86400.0  # seconds beyond its end that a token stays listed: clocks differ


class TooManyError(ValueError):
    """The list is full; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """One token. Times are POSIX seconds; `expires_at` None: nobody said, so it is kept for good."""

    revoked_at: float
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Revocations:
    """All of them, by the id of the token."""

    tokens: Mapping[str, Revoked] = field(default_factory=dict)

    def plus(self, token: str, *, now: float, expires_at: float | None) -> Revocations:
        """With one more. A token that is listed stays as it is.

        Raises:
          TooManyError: there are too many that have not expired yet.
        """
        if token in self.tokens:
            return self
        kept = {
            each: revoked
            for each, revoked in self.tokens.items()
            if revoked.expires_at is None or now < revoked.expires_at + _KEPT
        }
        if len(kept) >= MOST:
            raise TooManyError(
                f"{MOST} tokens are revoked already: make a new key (`muster enrol key`), enrol the clients that stay with it, and "
                "take the old one out of MUSTER_CLIENTS"
            )
        return Revocations({**kept, token: Revoked(now, expires_at)})
