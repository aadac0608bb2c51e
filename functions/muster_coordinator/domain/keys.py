"""The deployment's keys: one, or a ring of several while one takes over from another.

The first key signs; all of them verify. A key is known by its fingerprint, which tells nothing of it, and not by the id that
people give it: so a key may be named later, or be in another place of another deployment's ring, and is still the same one.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

_KEY_TEXT = b"which key this is, for a file of a task's state"
FINGERPRINT = 16  # hex digits
_ID = re.compile(r"[a-z0-9][a-z0-9_.-]{0,31}\Z")
_HEX = re.compile(r"(?:[0-9a-f]{2}){32,}\Z")
_LEAST = 32  # bytes


class KeyRingError(ValueError):
    """A text is no ring of keys; says why, and quotes no key."""


@dataclass(frozen=True)
class Key:
    """A key. `id` is for people, and may be empty."""

    secret: bytes = field(repr=False)
    id: str = ""

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that tell this key from others, and nothing of it."""
        return hmac.new(self.secret, _KEY_TEXT, hashlib.sha256).hexdigest()[:FINGERPRINT]


@dataclass(frozen=True)
class KeyRing:
    """Keys, newest first. An empty ring signs nothing and verifies nothing: that of a function which has no need of keys."""

    keys: tuple[Key, ...] = ()

    @classmethod
    def of(cls, secret: KeyRing | bytes | None) -> KeyRing:
        """The ring of one key, of none for None; a ring is itself."""
        if isinstance(secret, KeyRing):
            return secret
        return cls() if secret is None else cls((Key(secret),))

    @classmethod
    def parse(cls, text: str) -> KeyRing:
        """Reads `hex`, or `id:hex,id:hex,…`, newest first; an id may be left out.

        Raises:
          KeyRingError: it is neither, a key has fewer than 32 bytes, or two have one id or are the same.
        """
        keys: list[Key] = []
        for number, entry in enumerate(text.split(","), 1):
            name, colon, digits = entry.strip().rpartition(":")
            if colon and not _ID.match(name):
                raise KeyRingError(
                    f"the id of key {number} must be of a-z, 0-9, '.', '_' and '-', such as 2026-03-01, and have at most 32"
                )
            if not _HEX.match(digits):
                raise KeyRingError(
                    f"key {number} must be {_LEAST} bytes or more in lower-case hex, alone or as id:hex; "
                    "`muster key new` makes one"
                )
            keys.append(Key(bytes.fromhex(digits), name))
        for what, found in (("id", [key.id for key in keys if key.id]), ("key", [key.fingerprint for key in keys])):
            if len(set(found)) < len(found):
                raise KeyRingError(f"two keys have the same {what}" if what == "id" else "a key is there twice")
        return cls(tuple(keys))

    def __iter__(self) -> Iterator[Key]:
        return iter(self.keys)

    def __bool__(self) -> bool:
        return bool(self.keys)

    @property
    def newest(self) -> Key:
        """The key that signs. Raises `KeyRingError` if there is none."""
        if not self.keys:
            raise KeyRingError("there is no key here to sign with: this function was not given MUSTER_SECRET")
        return self.keys[0]

    @property
    def oldest(self) -> Key:
        """The last key. Raises `KeyRingError` if there is none."""
        return self.keys[-1] if self.keys else self.newest

    def find(self, fingerprint: object) -> Key | None:
        """The key of a fingerprint, or None."""
        return next((key for key in self.keys if key.fingerprint == fingerprint), None)
