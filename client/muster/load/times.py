"""Durations of requests and of queued work: a histogram for each phase, in bounded memory."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Optional

_RESOLUTION = 50  # buckets per factor of e: a quantile is exact to 2 %


class Histogram:
    """Durations in seconds, in buckets of their logarithm."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0  # seconds
        self._buckets: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """Adds a duration."""
        self.count += 1
        self.total += seconds
        self._buckets[round(math.log(max(seconds, 1e-9)) * _RESOLUTION)] += 1

    def merge(self, other: Histogram) -> None:
        """Adds all durations of another histogram."""
        self.count += other.count
        self.total += other.total
        self._buckets.update(other._buckets)

    def quantile(self, fraction: float) -> float:
        """Returns the duration in seconds that `fraction` (0 to 1) of all do not exceed."""
        left = fraction * self.count
        for bucket in sorted(self._buckets):
            left -= self._buckets[bucket]
            if left <= 0:
                return math.exp(bucket / _RESOLUTION)
        return 0.0

    @property
    def mean(self) -> float:
        """The mean duration in seconds; 0 if there are none."""
        return self.total / self.count if self.count else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON-compatible data, with durations in milliseconds."""
        return {
            "count": self.count,
            "mean_ms": self.mean * 1000,
            "p50_ms": self.quantile(0.5) * 1000,
            "p99_ms": self.quantile(0.99) * 1000,
        }


@dataclass
class Phase:
    """Totals of one phase, without the phases nested in it.

    Attributes:
      name: The phase's name, such as `check-in`.
      cpu: CPU seconds of this process; None where that is not the coordinator's.
      histogram: Durations.
      up: Bytes of request bodies.
      down: Bytes of response bodies.
      calls: Calls to the stores and the queue, by name, where they can be counted.
    """

    name: str
    cpu: Optional[float] = None
    histogram: Histogram = field(default_factory=Histogram)
    up: int = 0
    down: int = 0
    calls: Counter[str] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """Number of runs of the phase."""
        return self.histogram.count

    @property
    def total(self) -> float:
        """Seconds of all runs."""
        return self.histogram.total

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON-compatible data."""
        return {
            "phase": self.name,
            **self.histogram.to_dict(),
            "total_seconds": self.total,
            "cpu_seconds": self.cpu,
            "bytes_up": self.up,
            "bytes_down": self.down,
            "store_calls": dict(sorted(self.calls.items())),
        }


@dataclass
class _Run:
    """A phase that a thread is in, and the seconds of phases nested in it."""

    name: str
    up: int = 0
    down: int = 0
    nested: float = 0.0
    nested_cpu: float = 0.0


class Times:
    """Durations by phase. Safe to share between threads.

    A duration is counted once: that of a nested phase is subtracted from the outer one.

    Args:
      cpu: True to measure CPU time too; only for a process with one thread that works.
    """

    def __init__(self, *, cpu: bool = False) -> None:
        self._cpu = cpu
        self._lock = threading.Lock()
        self._phases: dict[str, Phase] = {}
        self._thread = threading.local()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measures a block."""
        outer, run = self._current(), _Run(name)
        self._thread.run = run
        cpu, start = self._cpu_seconds(), time.perf_counter()
        try:
            yield
        finally:
            seconds, cpu = time.perf_counter() - start, self._cpu_seconds() - cpu
            self._thread.run = outer
            if outer is not None:
                outer.nested += seconds
                outer.nested_cpu += cpu
            with self._lock:
                phase = self._named(name)
                phase.histogram.add(max(0.0, seconds - run.nested))
                phase.up += run.up
                phase.down += run.down
                if phase.cpu is not None:
                    phase.cpu += cpu - run.nested_cpu

    def moved(self, *, up: int, down: int) -> None:
        """Counts bytes of bodies in this thread's phase."""
        run = self._current()
        if run is not None:
            run.up += up
            run.down += down

    def called(self, call: str) -> None:
        """Counts a call to a store in this thread's phase; outside of a phase it is not counted."""
        run = self._current()
        if run is not None:
            with self._lock:
                self._named(run.name).calls[call] += 1

    def clear(self) -> None:
        """Discards all durations."""
        with self._lock:
            self._phases.clear()

    def phases(self) -> list[Phase]:
        """Returns all phases, in the order of their first use."""
        with self._lock:
            return [phase for phase in self._phases.values() if phase.count]

    def _current(self) -> Optional[_Run]:
        return getattr(self._thread, "run", None)

    def _named(self, name: str) -> Phase:
        return self._phases.setdefault(name, Phase(name, 0.0 if self._cpu else None))

    def _cpu_seconds(self) -> float:
        return time.process_time() if self._cpu else 0.0
