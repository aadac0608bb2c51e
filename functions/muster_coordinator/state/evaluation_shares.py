"""Decides which clients evaluate, by a keyed hash of their identity.

The key is one of the ring. Under another key a client could evaluate and train at once, so the
first check-in fixes the key in a create-only document, and the share survives a rotation. Once that
key has left the ring, no client evaluates and none is reserved.
"""

from __future__ import annotations

import logging
from dataclasses import KW_ONLY, dataclass
from functools import cached_property

from muster_coordinator.concurrency.cache import Cache
from muster_coordinator.domain import names
from muster_coordinator.domain.evaluations import share_value
from muster_coordinator.domain.keys import Key, KeyRing
from muster_coordinator.domain.tasks import Task
from muster_coordinator.ports import AlreadyExistsError, StoreError
from muster_coordinator.state.platform import Platform

LOG = logging.getLogger(__name__)
_KEY = "key"  # the document's field: the key's fingerprint
_MAX_CACHED_TASKS = 1000
_CACHE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _ShareKey:
    """Key of an evaluation's share, or None if the ring no longer has it."""

    key: Key | None


@dataclass(frozen=True)
class EvaluationShares:
    """Shares of the evaluations.

    Attributes:
      platform: The ports.
      ring: The deployment's keys.
    """

    platform: Platform
    _: KW_ONLY
    ring: KeyRing

    def holds(self, evaluation: Task, identity: str) -> bool | None:
        """Returns whether a client evaluates, or None if the share's key left the ring."""
        spec = evaluation.spec.evaluates
        if spec is None:
            return None
        key = self._cached.get_or_load(evaluation.name, lambda: self._key(evaluation.name)).key
        return None if key is None else share_value(key.secret, evaluation.name, identity) < spec.share

    @cached_property
    def _cached(self) -> Cache[str, _ShareKey]:
        return Cache(max_entries=_MAX_CACHED_TASKS, ttl=_CACHE_SECONDS, clock=self.platform.clock.now)

    def _key(self, task: str) -> _ShareKey:
        """Returns the key of an evaluation's share, and fixes it if that is not done yet."""
        documents, path = self.platform.documents, names.share_key_path(task)
        document = documents.get(path)
        if document is None:
            try:
                document = documents.create(path, {_KEY: self.ring.newest.fingerprint})
            except AlreadyExistsError:
                document = documents.get(path)
        if document is None:
            raise StoreError(f"{path} existed and was deleted")
        key = self.ring.find(document.data.get(_KEY))
        if key is None:
            LOG.error(
                "Evaluation %s chooses its clients by a key that is not in MUSTER_SECRET any more: it gets no clients. "
                "Put the key back, at the end of MUSTER_SECRET, or create another evaluation",
                task,
            )
        return _ShareKey(key)
