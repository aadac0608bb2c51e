"""How long requests took: a histogram for each phase, in memory that does not grow with their number."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_STEPS = 50  # buckets for each factor e: a quantile is right to 2 %


class Histogram:
    """Durations, in seconds, by their logarithm."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0  # seconds
        self._buckets: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """Adds one."""
        self.count += 1
        self.total += seconds
        self._buckets[round(math.log(max(seconds, 1e-9)) * _STEPS)] += 1

    def merge(self, other: Histogram) -> None:
        """Adds all of another one's."""
        self.count += other.count
        self.total += other.total
        self._buckets.update(other._buckets)

    def quantile(self, part: float) -> float:
        """The duration that `part` (0 to 1) of all do not exceed, in seconds; 0 of none."""
        left = part * self.count
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return math.exp(bucket / _STEPS)
        return 0.0


@dataclass(frozen=True)
class Phase:
    """What one phase came to: `calls` are calls to the stores and the queue by name, where they could be counted."""

    name: str
    count: int
    mean: float  # seconds
    p50: float
    p99: float
    total: float
    calls: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-compatible data, durations in milliseconds."""
        return {
            "phase": self.name,
            "count": self.count,
            "mean_ms": self.mean * 1000,
            "p50_ms": self.p50 * 1000,
            "p99_ms": self.p99 * 1000,
            "total_seconds": self.total,
            "store_calls": dict(self.calls),
        }


class Times:
    """Histograms by phase, for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phases: dict[str, Histogram] = {}
        self._calls: dict[str, Counter[str]] = {}
        self._now = threading.local()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Takes the time of a block; what is nested in it is its own."""
        before = getattr(self._now, "phase", "")
        self._now.phase = name
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self._now.phase = before
            with self._lock:
                self._phases.setdefault(name, Histogram()).add(seconds)

    def merge(self, name: str, other: Histogram) -> None:
        """Adds a histogram to a phase's."""
        if other.count:
            with self._lock:
                self._phases.setdefault(name, Histogram()).merge(other)

    def clear(self) -> None:
        """Forgets everything so far."""
        with self._lock:
            self._phases.clear()
            self._calls.clear()

    def called(self, call: str) -> None:
        """Counts a call to a store for the phase that this thread is in."""
        phase = getattr(self._now, "phase", "")
        with self._lock:
            self._calls.setdefault(phase, Counter())[call] += 1

    def phases(self) -> list[Phase]:
        """All phases so far, in the order of their first use."""
        with self._lock:
            return [
                Phase(
                    name,
                    found.count,
                    found.total / found.count,
                    found.quantile(0.5),
                    found.quantile(0.99),
                    found.total,
                    dict(sorted(self._calls.get(name, Counter()).items())),
                )
                for name, found in self._phases.items()
            ]
