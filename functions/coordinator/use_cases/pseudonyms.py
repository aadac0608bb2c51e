"""Clients' names in a round, each an HMAC under one key of the ring, which stays the round's own while keys come and go.

Under two keys one client would have two names, and count twice. So the first check-in that is about to give work fixes the key,
create-only, and every other reads it: see docs/decisions/0015.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from coordinator.domain import names, slots
from coordinator.domain.keys import Key, KeyRing
from coordinator.domain.names import RoundKey
from coordinator.ports import AlreadyExistsError, StoreError
from coordinator.use_cases.records import Platform

LOG = logging.getLogger(__name__)
KEY = "key"  # the document's field: the key's fingerprint
_KEPT = 10_000  # rounds that an instance remembers


@dataclass(frozen=True)
class Pseudonyms:
    """Gives clients their names."""

    platform: Platform
    ring: KeyRing
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _fixed: dict[RoundKey, Key | None] = field(default_factory=dict)

    def of(self, key: RoundKey, identity: str, *, tickets: Sequence[Mapping[str, int]]) -> str | None:
        """The client's name in the round; None if the round's key is not in the ring any more.

        Args:
          key: The round.
          identity: Who the client is.
          tickets: The round's ticket counters, as they were a moment ago.
        """
        found = self._key(key, tickets)
        return None if found is None else names.pseudonym(found.secret, key, identity)

    def _key(self, key: RoundKey, tickets: Sequence[Mapping[str, int]]) -> Key | None:
        with self._lock:
            if key in self._fixed:
                return self._fixed[key]
        fingerprint = self._fix(key, tickets)
        found = self.ring.find(fingerprint)
        if found is None:
            LOG.error(
                "Round %s names its clients by the key %s, which is not in MUSTER_SECRET any more: nobody gets work of it until "
                "its deadline. Put the key back, at the end of MUSTER_SECRET, or let the round end: the next one has the new key",
                key,
                fingerprint,
            )
        with self._lock:
            if len(self._fixed) >= _KEPT:
                self._fixed.clear()
            self._fixed[key] = found
        return found

    def _fix(self, key: RoundKey, tickets: Sequence[Mapping[str, int]]) -> str:
        """The fingerprint of the round's key, which nothing changes once it is there."""
        documents, path = self.platform.documents, names.pseudonym_key_path(key)
        document = documents.get(path)
        if document is None:
            # Slots are given out and yet no key is fixed: by an earlier version, which had a single key.
            mine = self.ring.oldest if any(map(slots.assigned, tickets)) else self.ring.newest
            try:
                document = documents.create(path, {KEY: mine.fingerprint})
            except AlreadyExistsError:
                document = documents.get(path)
        if document is None:
            raise StoreError(f"{path} was there and is gone")
        fingerprint = document.data[KEY]
        if not isinstance(fingerprint, str):
            raise StoreError(f"{path} can't be read")
        return fingerprint
