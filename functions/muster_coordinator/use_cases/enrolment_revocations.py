"""Enrolment tokens that operators have revoked: one document, which the client API looks at now and then."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from pydantic import TypeAdapter

from muster.wire.messages import Revocation, RevocationList, RevocationView
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.times import from_posix
from muster_coordinator.concurrency.cache import Cache
from muster_coordinator.domain import names
from muster_coordinator.domain.enrolments import Revocations, TooManyError
from muster_coordinator.ports import AlreadyExistsError, ConflictError
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.records import Records

_ATTEMPTS = 20  # of a compare-and-set among a handful of operators
_REVOCATIONS: TypeAdapter[Revocations] = TypeAdapter(Revocations)


@dataclass
class EnrolmentRevocations:
    """Revokes tokens, and tells which ones are. A reading is trusted for `seconds`; with 0 each look is a read."""

    platform: Platform
    seconds: float = 0.0

    @cached_property
    def _cached(self) -> Cache[str, Revocations]:
        return Cache(max_entries=1, ttl=self.seconds, clock=self.platform.clock.now)

    def revoke(self, revocation: Revocation) -> RevocationList:
        """Has a token be good no more. A repeat changes nothing.

        Raises:
          ProblemError: `conflict`, if too many are revoked already; `unavailable`, if others were faster every time.
        """
        ends = None if revocation.expires_at is None else revocation.expires_at.timestamp()
        records = self._records()
        for _ in range(_ATTEMPTS):
            found = records.get(names.REVOCATIONS)
            before = Revocations() if found is None else found.value
            try:
                after = before.plus(revocation.id, now=self.platform.clock.now(), expires_at=ends)
            except TooManyError as error:
                raise ProblemError(ProblemType.CONFLICT, str(error)) from error
            try:
                if found is None:
                    records.create(names.REVOCATIONS, after)
                elif after is not before:
                    records.replace(found, after)
            except (AlreadyExistsError, ConflictError):
                continue
            return _view(after)
        raise ProblemError(ProblemType.UNAVAILABLE, "Others revoke tokens just now; try again", retry_after=1.0)

    def list(self) -> RevocationList:
        """All revoked tokens, those that have expired left out sooner or later; by time."""
        return _view(self._read())

    def is_revoked(self, token: str) -> bool:
        """Whether the token of this id is good no more. Raises `UnavailableError`: where that can't be told, nobody is let in."""
        revocations = self._cached.get_or_load(names.REVOCATIONS, self._read)
        return token in revocations.tokens

    def _read(self) -> Revocations:
        found = self._records().get(names.REVOCATIONS)
        return Revocations() if found is None else found.value

    def _records(self) -> Records[Revocations]:
        return Records(self.platform.documents, _REVOCATIONS)


def _view(revocations: Revocations) -> RevocationList:
    listed = sorted(revocations.tokens.items(), key=lambda item: (item[1].revoked_at, item[0]))
    return RevocationList(
        revocations=tuple(
            RevocationView(
                id=token,
                revoked_at=from_posix(revoked.revoked_at),
                expires_at=None if revoked.expires_at is None else from_posix(revoked.expires_at),
            )
            for token, revoked in listed
        )
    )
