"""Clocks and randomness: the machine's, and deterministic ones for simulations and tests."""

from __future__ import annotations

import random
import secrets
import threading
import time


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Returns the time in POSIX seconds. It may jump, back as well."""
        return time.time()


class ManualClock:
    """Clock that stands still until it is advanced, for simulations and tests. Thread-safe."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._lock = threading.Lock()

    def now(self) -> float:
        """Returns the time in POSIX seconds."""
        return self._now

    def advance(self, seconds: float) -> float:
        """Advances by `seconds`, or back if negative, and returns the new time."""
        with self._lock:
            self._now += seconds
            return self._now

    def advance_to(self, instant: float) -> float:
        """Advances to `instant`, in POSIX seconds, but never back, and returns the new time."""
        with self._lock:
            self._now = max(self._now, instant)
            return self._now


class SystemRandomness:
    """Unpredictable randomness of the operating system."""

    def __init__(self) -> None:
        self._random = random.SystemRandom()

    def uniform(self) -> float:
        """Returns a float in [0, 1)."""
        return self._random.random()

    def nonce(self) -> str:
        """Returns 16 fresh hex digits."""
        return secrets.token_hex(8)

    def random_bytes(self, size: int) -> bytes:
        """Returns `size` bytes from the operating system."""
        return secrets.token_bytes(size)


class SeededRandomness:
    """Reproducible randomness: equal seeds yield equal values, in order of the calls.

    Not for anything that must be secret.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311  fixed on purpose
        # A separate sequence, so that drawing bytes does not change other callers' numbers.
        self._bytes = random.Random(f"bytes {seed}")  # noqa: S311

    def uniform(self) -> float:
        """Returns a float in [0, 1)."""
        return self._random.random()

    def nonce(self) -> str:
        """Returns 16 hex digits, in practice distinct for every call on this object."""
        return f"{self._random.getrandbits(64):016x}"

    def random_bytes(self, size: int) -> bytes:
        """Returns `size` bytes derived from the seed."""
        return self._bytes.randbytes(size)
