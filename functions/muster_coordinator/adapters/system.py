"""Time and chance: the machine's own, and ones that a simulation or a test fixes."""

from __future__ import annotations

import random
import secrets
import threading
import time


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """POSIX seconds. May jump, as clocks do."""
        return time.time()


class ManualClock:
    """A clock that stands still until it is moved; for simulation and tests. Safe to share between threads."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._lock = threading.Lock()

    def now(self) -> float:
        """POSIX seconds."""
        return self._now

    def advance(self, seconds: float) -> float:
        """Moves on by `seconds` (back, if negative) and returns the new time."""
        with self._lock:
            self._now += seconds
            return self._now

    def advance_to(self, instant: float) -> float:
        """Moves on to `instant`, in POSIX seconds, and returns the new time; never back."""
        with self._lock:
            self._now = max(self._now, instant)
            return self._now


class SystemRandomness:
    """The operating system's randomness: nobody can tell the next value."""

    def __init__(self) -> None:
        self._random = random.SystemRandom()

    def uniform(self) -> float:
        """A float in [0, 1)."""
        return self._random.random()

    def nonce(self) -> str:
        """A fresh name: 16 hex digits."""
        return secrets.token_hex(8)

    def random_bytes(self, size: int) -> bytes:
        """Returns `size` bytes from the operating system."""
        return secrets.token_bytes(size)


class SeededRandomness:
    """The same values for the same `seed`, in the order of the calls. Not for anything that must be secret."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311  fixed on purpose
        # A separate sequence, so that drawing bytes does not change other callers' numbers.
        self._bytes = random.Random(f"bytes {seed}")  # noqa: S311

    def uniform(self) -> float:
        """A float in [0, 1)."""
        return self._random.random()

    def nonce(self) -> str:
        """A name that no other call on this object returns, for all practical purposes: 16 hex digits."""
        return f"{self._random.getrandbits(64):016x}"

    def random_bytes(self, size: int) -> bytes:
        """Returns `size` bytes derived from the seed."""
        return self._bytes.randbytes(size)
