"""Rate limits: token buckets, whose capacity is the number of calls in the rate's period."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from dataclasses import dataclass

_RATE = re.compile(r"([1-9]\d{0,8})/([smh])\Z")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Rate:
    """Rate of `calls` in `seconds`. After a pause as many calls are allowed at once."""

    calls: int
    seconds: float

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Parses a rate such as `60/m`. Raises `ValueError`."""
        match = _RATE.match(text)
        if match is None:
            raise ValueError(f"{text!r} is not a rate such as 60/m (or /s, /h)")
        return cls(int(match[1]), _SECONDS[match[2]])


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Rate limits, per instance, of one address and of one client identity. None is no limit."""

    address: Rate | None = None
    identity: Rate | None = None

    @classmethod
    def parse(cls, text: str) -> RateLimits:
        """Parses limits such as `address=60/m,identity=10/m`. Raises `ValueError`."""
        rates: dict[str, Rate] = {}
        for limit in filter(None, (item.strip() for item in text.split(","))):
            name, _, rate = limit.partition("=")
            if name not in ("address", "identity") or name in rates:
                raise ValueError(f"{limit!r} is not a limit; limits are written as address=60/m,identity=10/m")
            rates[name] = Rate.parse(rate)
        return cls(**rates)


NO_LIMITS = RateLimits()


class TokenBuckets:
    """Token buckets of many callers. Thread-safe.

    Memory is bounded: beyond `most` callers the least recently seen one is dropped, and starts with
    a full bucket at its next call.
    """

    def __init__(self, rate: Rate, *, most: int = 50_000) -> None:
        self._rate = rate
        self._most = most
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens left, and POSIX seconds of then

    def take(self, caller: str, *, now: float) -> float:
        """Removes a token from a caller's bucket, if one is left.

        Args:
          caller: The caller.
          now: The time, in POSIX seconds; may jump.

        Returns:
          0.0 if a token was taken, or the seconds until the next token.
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
