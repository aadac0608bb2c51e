"""Revocations of enrolment tokens: operators write one document, and the client API caches it.

Where the audit log has a separate store, the document there counts, since the client API can't
change it. A copy in the store of all other documents counts too: it has the revocations from before
the separation, and serves instances that do not know of the separate store yet, or no longer.
"""

from __future__ import annotations

import logging
from dataclasses import KW_ONLY, dataclass
from functools import cached_property

from pydantic import TypeAdapter

from muster.wire.messages import Revocation, RevocationList, RevocationView
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.times import from_posix
from muster_coordinator.concurrency.cache import Cache
from muster_coordinator.domain import names
from muster_coordinator.domain.enrolments import Revocations, TooManyRevocationsError
from muster_coordinator.ports import AlreadyExistsError, ConflictError, Documents
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.records import RecordRepository

LOG = logging.getLogger(__name__)
_ATTEMPTS = 20  # of a compare-and-set among a handful of operators
_REVOCATIONS: TypeAdapter[Revocations] = TypeAdapter(Revocations)


@dataclass
class EnrolmentRevocations:
    """Revocations of a deployment, cached for `seconds` at most; 0 disables the cache."""

    platform: Platform
    _: KW_ONLY
    seconds: float = 0.0

    @cached_property
    def _cached(self) -> Cache[str, Revocations]:
        return Cache(max_entries=1, ttl=self.seconds, clock=self.platform.clock.now)

    def revoke(self, revocation: Revocation) -> RevocationList:
        """Revokes an enrolment token. Idempotent.

        Raises:
          ProblemError: `conflict` if too many tokens are revoked already; `unavailable` if every
            attempt lost against a concurrent revocation.
        """
        revocations = self._add(self.platform.audit, revocation)
        if self.platform.separate_audit is None:
            return _view(revocations)
        try:
            self._add(self.platform.documents, revocation)
        except ProblemError as problem:
            if problem.type is not ProblemType.CONFLICT:
                raise
            LOG.warning("A revocation is not copied from the separate store: %s", problem.detail)
        return self.list()

    def _add(self, documents: Documents, revocation: Revocation) -> Revocations:
        """Adds a revocation to the document of one store. Raises `ProblemError` like `revoke`."""
        expires_at = None if revocation.expires_at is None else revocation.expires_at.timestamp()
        records = RecordRepository(documents, _REVOCATIONS)
        for _ in range(_ATTEMPTS):
            stored = records.get(names.REVOCATIONS)
            before = Revocations() if stored is None else stored.value
            try:
                after = before.plus(revocation.id, now=self.platform.clock.now(), expires_at=expires_at)
            except TooManyRevocationsError as error:
                raise ProblemError(ProblemType.CONFLICT, str(error)) from error
            try:
                if stored is None:
                    records.create(names.REVOCATIONS, after)
                elif after is not before:
                    records.replace(stored, after)
            except (AlreadyExistsError, ConflictError):
                continue
            return after
        raise ProblemError(ProblemType.UNAVAILABLE, "Other operators are revoking tokens; try again", retry_after=1.0)

    def list(self) -> RevocationList:
        """Returns the revoked tokens by time of revocation. Expired ones are eventually removed."""
        return _view(self._read())

    def is_revoked(self, token: str) -> bool:
        """Returns whether the token with this id is revoked.

        Raises:
          UnavailableError: a document can't be read. Then no client may be admitted.
        """
        revocations = self._cached.get_or_load(names.REVOCATIONS, self._read)
        return token in revocations.tokens

    def _read(self) -> Revocations:
        tokens = dict(_stored(self.platform.documents).tokens)
        if self.platform.separate_audit is not None:
            tokens |= _stored(self.platform.separate_audit).tokens
        return Revocations(tokens)


def _stored(documents: Documents) -> Revocations:
    stored = RecordRepository(documents, _REVOCATIONS).get(names.REVOCATIONS)
    return Revocations() if stored is None else stored.value


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
