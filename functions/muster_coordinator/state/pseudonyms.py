"""Names the clients of a round: an HMAC under one key of the ring, with a salt that is deleted with the round.

Under two keys, or two salts, one client would have two names and be counted twice. So the first check-in that is about
to assign work fixes both in a create-only document, and every other check-in reads it: see docs/decisions/0015 and
0027. Once the sweep has deleted that document, a name can't be computed again, not even with the keys.

The document's `key` reads `salted-…` if there is a salt. An instance of a version without salts does not find that key
in its ring and answers its clients with a wait, rather than compute a second name for a client.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
MAX_CACHED_ROUNDS = 1000
CACHE_SECONDS = 60.0  # longest time that an instance caches a salt


@dataclass(frozen=True, slots=True)
class Pseudonym:
    """Name of a client in a round. `salted` is false in a round whose key was fixed by a version without salts."""

    name: str
    salted: bool


@dataclass(frozen=True, slots=True)
class _Naming:
    """Key and salt of a round's names. `key` is None if the ring no longer has it."""

    key: Key | None
    salt: bytes
    read_at: float  # POSIX seconds


def fingerprint_of(key: object) -> str:
    """Returns the fingerprint in the field `key` of a round's document, salted or not."""
    return str(key).removeprefix(_SALTED)


@dataclass(frozen=True)
class Pseudonymizer:
    """Namer of clients in rounds."""

    platform: Platform
    ring: KeyRing
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _cached: dict[RoundKey, _Naming] = field(default_factory=dict, repr=False)

    def of(self, key: RoundKey, identity: str, *, tickets: Sequence[Mapping[str, int]]) -> Pseudonym | None:
        """Returns the client's name in the round, or None if the ring no longer has the round's key.

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
        now = self.platform.clock.now()
        with self._lock:
            self._drop_expired(now)
            cached = self._cached.get(key)
        if cached is not None:
            return cached
        found = self._read(self._fix(key, tickets), now)
        if found.key is None:
            LOG.error(
                "Round %s names its clients by a key that is not in MUSTER_SECRET any more: no client gets work of it until its "
                "deadline. Put the key back, at the end of MUSTER_SECRET, or let the round end: the next one has the new key",
                key,
            )
        with self._lock:
            # A task has one open round: the salt of an earlier one is no longer needed.
            for other in [other for other in self._cached if other.task == key.task and other != key]:
                del self._cached[other]
            while len(self._cached) >= MAX_CACHED_ROUNDS:
                del self._cached[next(iter(self._cached))]
            self._cached[key] = found
        return found

    def _drop_expired(self, now: float) -> None:
        """Drops expired entries. Entries are in the order in which they were read."""
        while self._cached:
            oldest = next(iter(self._cached))
            if 0 <= now - self._cached[oldest].read_at < CACHE_SECONDS:
                break
            del self._cached[oldest]

    def _read(self, data: Mapping[str, object], now: float) -> _Naming:
        written, salt = data.get(KEY), data.get(SALT, "")
        if not isinstance(written, str) or not isinstance(salt, str) or written.startswith(_SALTED) is not bool(salt):
            raise StoreError("The document with a round's key can't be read")
        try:
            return _Naming(self.ring.find(fingerprint_of(written)), bytes.fromhex(salt), now)
        except ValueError:
            raise StoreError("The salt in the document with a round's key can't be read") from None

    def _fix(self, key: RoundKey, tickets: Sequence[Mapping[str, int]]) -> Mapping[str, object]:
        """Returns the document with the round's key, and creates it if it is missing. It is immutable."""
        documents, path = self.platform.documents, names.pseudonym_key_path(key)
        document = documents.get(path)
        if document is None:
            if any(map(slots.assigned, tickets)):
                # Slots are assigned but no key is fixed: an earlier version did that, with a single key and no salt.
                made = {KEY: self.ring.oldest.fingerprint}
            else:
                salt = self.platform.randomness.random_bytes(_SALT_SIZE)
                made = {KEY: _SALTED + self.ring.newest.fingerprint, SALT: salt.hex()}
            try:
                document = documents.create(path, made)
            except AlreadyExistsError:
                document = documents.get(path)
        if document is None:
            raise StoreError(f"{path} was there and is gone")
        return document.data
