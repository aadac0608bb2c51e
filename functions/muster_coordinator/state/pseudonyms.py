"""Names the clients of a round by an HMAC, with a salt that is deleted with the round.

The HMAC is under one key of the ring. Under two keys, or two salts, one client would have two names
and be counted twice. So the first check-in that is about to assign work fixes both in a create-only
document, and every other check-in reads it: see docs/decisions/0015 and 0027. Once the sweep has
deleted that document, a name can't be computed again, not even with the keys.

The document's `key` reads `salted-…` if there is a salt. An instance of a version without salts
does not find that key in its ring and answers its clients with a wait, rather than compute a second
name for a client.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property

from muster_coordinator.concurrency.cache import Cache
from muster_coordinator.domain import names, slots
from muster_coordinator.domain.keys import Key, KeyRing
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.ports import AlreadyExistsError, StoreError
from muster_coordinator.state.platform import Platform

LOG = logging.getLogger(__name__)
KEY = "key"  # the document's field: the key's fingerprint
SALT = "salt"  # the document's field, in hex
_SALTED = "salted-"
_SALT_SIZE = 32  # bytes
MAX_CACHED_TASKS = 1000
CACHE_SECONDS = 60.0  # the longest time for which an instance caches a salt


@dataclass(frozen=True, slots=True)
class Pseudonym:
    """Name of a client in a round.

    `salted` is false in a round whose key was fixed by a version without salts.
    """

    name: str
    salted: bool


@dataclass(frozen=True, slots=True)
class _Naming:
    """Key and salt of a round's names. `key` is None if the ring no longer has it."""

    round: RoundKey
    key: Key | None
    salt: bytes


def fingerprint_of(key: object) -> str:
    """Returns the fingerprint in the field `key` of a round's document, salted or not."""
    return str(key).removeprefix(_SALTED)


@dataclass(frozen=True)
class Pseudonymizer:
    """Namer of clients in rounds.

    Attributes:
      platform: The ports.
      ring: The deployment's keys.
    """

    platform: Platform
    _: KW_ONLY
    ring: KeyRing

    @cached_property
    def _cached(self) -> Cache[str, _Naming]:
        """By task, which has one open round: a new round replaces the salt of the one before."""
        return Cache(max_entries=MAX_CACHED_TASKS, ttl=CACHE_SECONDS, clock=self.platform.clock.now)

    def of(self, key: RoundKey, identity: str, *, tickets: Sequence[Mapping[str, int]]) -> Pseudonym | None:
        """Returns the client's name in the round, or None if the round's key left the ring.

        Args:
          key: The round.
          identity: The client.
          tickets: Snapshot of the round's ticket counters.
        """
        naming = self._naming(key, tickets)
        if naming.key is None:
            return None
        name = names.pseudonym(naming.key.secret, key, identity, salt=naming.salt)
        return Pseudonym(name, salted=bool(naming.salt))

    def _naming(self, key: RoundKey, tickets: Sequence[Mapping[str, int]]) -> _Naming:
        naming = self._cached.get(key.task)
        if naming is not None and naming.round == key:
            return naming
        naming = self._read(key, self._fix(key, tickets))
        if naming.key is None:
            LOG.error(
                "Round %s names its clients by a key that is not in MUSTER_SECRET any more: no client gets work of it "
                "until its deadline. Put the key back, at the end of MUSTER_SECRET, or let the round end: the next one "
                "has the new key",
                key,
            )
        self._cached.put(key.task, naming)
        return naming

    def _read(self, key: RoundKey, data: Mapping[str, object]) -> _Naming:
        written, salt = data.get(KEY), data.get(SALT, "")
        if not isinstance(written, str) or not isinstance(salt, str) or written.startswith(_SALTED) is not bool(salt):
            raise StoreError("The document with a round's key can't be read")
        try:
            return _Naming(key, self.ring.find(fingerprint_of(written)), bytes.fromhex(salt))
        except ValueError:
            raise StoreError("The salt in the document with a round's key can't be read") from None

    def _fix(self, key: RoundKey, tickets: Sequence[Mapping[str, int]]) -> Mapping[str, object]:
        """Returns the immutable document with the round's key, and creates it if it is missing."""
        documents, path = self.platform.documents, names.pseudonym_key_path(key)
        document = documents.get(path)
        if document is None:
            if any(map(slots.assigned, tickets)):
                # Slots are assigned but no key is fixed: an earlier version did that, with a single
                # key and no salt.
                fields = {KEY: self.ring.oldest.fingerprint}
            else:
                salt = self.platform.randomness.random_bytes(_SALT_SIZE)
                fields = {KEY: _SALTED + self.ring.newest.fingerprint, SALT: salt.hex()}
            try:
                document = documents.create(path, fields)
            except AlreadyExistsError:
                document = documents.get(path)
        if document is None:
            raise StoreError(f"{path} existed and was deleted")
        return document.data
