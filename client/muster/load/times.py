"""How long requests took: a histogram for each phase, in memory that does not grow with their number."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Optional

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

    @property
    def mean(self) -> float:
        """Their mean, in seconds; 0 of none."""
        return self.total / self.count if self.count else 0.0

    def to_dict(self) -> dict[str, Any]:
        """As JSON-compatible data, durations in milliseconds."""
        return {
            "count": self.count,
            "mean_ms": self.mean * 1000,
            "p50_ms": self.quantile(0.5) * 1000,
            "p99_ms": self.quantile(0.99) * 1000,
        }


@dataclass(frozen=True)
class Phase:
    """What one phase came to, without what was nested in it.

    Attributes:
      name: Its name.
      histogram: How long it took each time.
      cpu: Seconds that this process computed meanwhile; None where that is not the coordinator's.
      up: Bytes of requests' bodies.
      down: Bytes of answers' bodies.
      calls: Calls to the stores and the queue by name, where they could be counted.
    """

    name: str
    histogram: Histogram
    cpu: Optional[float] = None
    up: int = 0
    down: int = 0
    calls: Mapping[str, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many times there was one."""
        return self.histogram.count

    @property
    def total(self) -> float:
        """Seconds of all."""
        return self.histogram.total

    def to_dict(self) -> dict[str, Any]:
        """As JSON-compatible data."""
        return {
            "phase": self.name,
            **self.histogram.to_dict(),
            "total_seconds": self.total,
            "cpu_seconds": self.cpu,
            "bytes_up": self.up,
            "bytes_down": self.down,
            "store_calls": dict(self.calls),
        }


class _Running:
    """A phase that a thread is in, and what of its time was nested phases'."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.up = self.down = 0
        self.nested = self.nested_cpu = 0.0  # seconds


class _Sums:
    def __init__(self) -> None:
        self.histogram = Histogram()
        self.cpu = 0.0  # seconds
        self.up = self.down = 0  # bytes
        self.calls: Counter[str] = Counter()


class Times:
    """Histograms by phase, for several threads. A duration is counted once: a phase that is nested in another takes its time off it.

    Args:
      cpu: Whether the process's own computing time is taken too: where one thread does all that counts.
    """

    def __init__(self, *, cpu: bool = False) -> None:
        self._cpu = cpu
        self._lock = threading.Lock()
        self._phases: dict[str, _Sums] = {}
        self._now = threading.local()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Takes the time of a block, without that of phases in it."""
        outer: Optional[_Running] = getattr(self._now, "phase", None)
        running = self._now.phase = _Running(name)
        cpu, start = self._computed(), time.perf_counter()
        try:
            yield
        finally:
            seconds, cpu = time.perf_counter() - start, self._computed() - cpu
            self._now.phase = outer
            if outer is not None:
                outer.nested += seconds
                outer.nested_cpu += cpu
            with self._lock:
                sums = self._phases.setdefault(name, _Sums())
                sums.histogram.add(max(0.0, seconds - running.nested))
                sums.cpu += cpu - running.nested_cpu
                sums.up += running.up
                sums.down += running.down

    def moved(self, *, up: int, down: int) -> None:
        """Counts bytes of bodies for the phase that this thread is in."""
        running: Optional[_Running] = getattr(self._now, "phase", None)
        if running is not None:
            running.up += up
            running.down += down

    def called(self, call: str) -> None:
        """Counts a call to a store for the phase that this thread is in; outside of all phases nobody's."""
        running: Optional[_Running] = getattr(self._now, "phase", None)
        if running is not None:
            with self._lock:
                self._phases.setdefault(running.name, _Sums()).calls[call] += 1

    def clear(self) -> None:
        """Forgets everything so far."""
        with self._lock:
            self._phases.clear()

    def phases(self) -> list[Phase]:
        """All phases so far, in the order of their first use."""
        with self._lock:
            return [
                Phase(
                    name,
                    sums.histogram,
                    sums.cpu if self._cpu else None,
                    sums.up,
                    sums.down,
                    dict(sorted(sums.calls.items())),
                )
                for name, sums in self._phases.items()
                if sums.histogram.count
            ]

    def _computed(self) -> float:
        return time.process_time() if self._cpu else 0.0
