"""Memory, peak and CPU time of processes, as the kernel counts them. Linux only."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

_CPU_TIME = 2  # CPUCLOCK_SCHED: the clock of a process's CPU time, in nanoseconds where /proc counts in hundredths
_CPU_INTERVAL = 0.01  # seconds between two samples
_MEMORY_INTERVAL = 0.003  # seconds between two samples


def status(pid: int) -> dict[str, int]:
    """Returns the memory of a process in bytes, by the names of proc_pid_status(5)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}


def start_peak_anew(pid: int) -> None:
    """Resets the high-water mark (VmHWM) to the resident size."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def family(pid: int) -> list[int]:
    """Returns the ids of a process and of all its descendants."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def cpu_seconds(pids: Iterable[int]) -> float:
    """Returns user and system time of live processes, including ended threads."""
    return sum(time.clock_gettime((~pid << 3) | _CPU_TIME) for pid in pids)


class CpuWatch:
    """CPU time of processes, sampled every hundredth of a second in a `with` block.

    A sample takes some microseconds, so a round's CPU time is known without a request to the
    coordinator, which would cost CPU time.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = list(pids)
        self._times: list[float] = []
        self._seconds: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_CPU_INTERVAL):
            seconds = cpu_seconds(self._pids)
            self._times.append(time.time())
            self._seconds.append(seconds)

    def between(self, start: float, end: float) -> float:
        """Returns the CPU seconds between two times (POSIX seconds)."""
        return self._at(end) - self._at(start)

    def _at(self, moment: float) -> float:
        if not self._times or not self._times[0] <= moment <= self._times[-1]:
            raise ValueError(f"No sample at {moment}")
        after = max(1, bisect_left(self._times, moment))
        (left, right), (low, high) = self._times[after - 1 : after + 1], self._seconds[after - 1 : after + 1]
        return low + (high - low) * (moment - left) / (right - left)


@dataclass
class Peak:
    """Bytes of a process: resident before, at its peak (VmHWM, including mapped files' pages), and
    anonymous at its peak (RssAnon).
    """

    before: int
    resident: int = 0
    anonymous: int = 0
    anonymous_before: int = 0


@contextmanager
def peaks_of(*pids: int, every: float = _MEMORY_INTERVAL) -> Iterator[dict[int, Peak]]:
    """Measures the peaks of processes in a `with` block; `every`: seconds between samples."""
    peaks, stop = {}, threading.Event()
    for pid in pids:
        start_peak_anew(pid)
        before = status(pid)
        peaks[pid] = Peak(before["VmRSS"], anonymous_before=before["RssAnon"])

    def sample() -> None:
        while not stop.wait(every):
            for pid, peak in peaks.items():
                peak.anonymous = max(peak.anonymous, status(pid)["RssAnon"])

    watcher = threading.Thread(target=sample, daemon=True)
    watcher.start()
    try:
        yield peaks
    finally:
        stop.set()
        watcher.join()
        for pid, peak in peaks.items():
            peak.resident = status(pid)["VmHWM"]
