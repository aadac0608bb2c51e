"""Key ring of a deployment: one key, or several during a rotation.

The newest key signs, and all keys verify. A key is identified by its fingerprint, which reveals
nothing about it, and not by the id that an operator gives it. So it stays the same key when it gets
an id, or stands elsewhere in the ring of another deployment.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

# Text whose HMAC is the fingerprint. Stored fingerprints depend on its exact bytes.
_FINGERPRINT_TEXT = b"which key this is, for a file of a task's state"
FINGERPRINT = 16  # hex digits
_ID = re.compile(r"[a-z0-9][a-z0-9_.-]{0,31}\Z")
_HEX = re.compile(r"(?:[0-9a-f]{2}){32,}\Z")
_MIN_KEY_SIZE = 32  # bytes


class KeyRingError(ValueError):
    """Error raised when a text is not a valid key ring, or a key is missing. Quotes no key."""


@dataclass(frozen=True)
class Key:
    """A secret key. `id` is for operators, and may be empty."""

    secret: bytes = field(repr=False)
    id: str = ""

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that identify the key and reveal nothing about it."""
        return hmac.new(self.secret, _FINGERPRINT_TEXT, hashlib.sha256).hexdigest()[:FINGERPRINT]


@dataclass(frozen=True)
class KeyRing:
    """Keys, newest first. An empty ring neither signs nor verifies; most functions need no keys."""

    keys: tuple[Key, ...] = ()

    @classmethod
    def of(cls, secret: KeyRing | bytes | None) -> KeyRing:
        """Returns a ring of one key or, for None, of none. A ring is returned unchanged."""
        if isinstance(secret, KeyRing):
            return secret
        return cls() if secret is None else cls((Key(secret),))

    @classmethod
    def parse(cls, text: str) -> KeyRing:
        """Parses a key in hex, or a ring `id:hex,id:hex,…`, newest first. An id may be omitted.

        Raises:
          KeyRingError: the text is neither; a key has fewer than 32 bytes; or two keys are equal,
            or have the same id.
        """
        keys: list[Key] = []
        for number, entry in enumerate(text.split(","), 1):
            id_, colon, digits = entry.strip().rpartition(":")
            if colon and not _ID.match(id_):
                raise KeyRingError(
                    f"the id of key {number} must have 1 to 32 of a-z, 0-9, '.', '_' and '-', such as 2026-03-01"
                )
            if not _HEX.match(digits):
                raise KeyRingError(
                    f"key {number} must be {_MIN_KEY_SIZE} bytes or more in lower-case hex, alone or as id:hex; "
                    "`muster key new` makes one"
                )
            keys.append(Key(bytes.fromhex(digits), id_))
        ids = [key.id for key in keys if key.id]
        if len(set(ids)) < len(ids):
            raise KeyRingError("two keys have the same id")
        if len({key.fingerprint for key in keys}) < len(keys):
            raise KeyRingError("a key occurs twice")
        return cls(tuple(keys))

    def __iter__(self) -> Iterator[Key]:
        return iter(self.keys)

    def __bool__(self) -> bool:
        return bool(self.keys)

    @property
    def newest(self) -> Key:
        """The key that signs. Raises `KeyRingError` if the ring is empty."""
        if not self.keys:
            raise KeyRingError("this function has no key to sign with: set MUSTER_SECRET")
        return self.keys[0]

    @property
    def oldest(self) -> Key:
        """The last key. Raises `KeyRingError` if the ring is empty."""
        return self.keys[-1] if self.keys else self.newest

    def find(self, fingerprint: object) -> Key | None:
        """Returns the key with this fingerprint, or None."""
        return next((key for key in self.keys if key.fingerprint == fingerprint), None)
