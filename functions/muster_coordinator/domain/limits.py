"""How often somebody may ask: token buckets, which allow a burst of as many calls as the rate has in its time."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from dataclasses import dataclass

_RATE = re.compile(r"([1-9]\d{0,8})/([smh])\Z")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Rate:
    """So many calls in so many seconds; as many at once after a pause."""

    calls: int
    seconds: float

    @classmethod
    def parse(cls, text: str) -> Rate:
        """A rate such as `60/m`. Raises `ValueError`."""
        found = _RATE.match(text)
        if found is None:
            raise ValueError(f"{text!r} is no rate; one looks like 60/m (or /s, /h)")
        return cls(int(found[1]), _SECONDS[found[2]])


@dataclass(frozen=True, slots=True)
class RateLimits:
    """What one address, and one identity, may do at one instance; None: as much as it likes."""

    address: Rate | None = None
    identity: Rate | None = None

    @classmethod
    def parse(cls, text: str) -> RateLimits:
        """Limits such as `address=60/m,identity=10/m`. Raises `ValueError`."""
        rates: dict[str, Rate] = {}
        for part in filter(None, (each.strip() for each in text.split(","))):
            name, _, rate = part.partition("=")
            if name not in ("address", "identity") or name in rates:
                raise ValueError(f"{part!r} is no limit; they look like address=60/m,identity=10/m")
            rates[name] = Rate.parse(rate)
        return cls(**rates)


NO_LIMITS = RateLimits()


class TokenBuckets:
    """A bucket for each caller. Safe for several threads.

    Memory is bounded: beyond `most` callers the one that was longest away is forgotten, and has a full bucket when it is back.
    """

    def __init__(self, rate: Rate, *, most: int = 50_000) -> None:
        self._rate = rate
        self._most = most
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is left, and when that was so

    def take(self, caller: str, *, now: float) -> float:
        """Takes a call: 0.0 if there was one left, else the seconds until there is (and nothing is taken).

        Args:
          caller: Whose bucket.
          now: POSIX seconds; may jump.
        """
        pace = self._rate.calls / self._rate.seconds
        with self._lock:
            left, then = self._buckets.pop(caller, (float(self._rate.calls), now))
            left = min(float(self._rate.calls), left + max(0.0, now - then) * pace)
            wait = 0.0 if left >= 1.0 else (1.0 - left) / pace
            self._buckets[caller] = (left if wait else left - 1.0, now)
            while len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
        return wait

    def __len__(self) -> int:
        return len(self._buckets)
