"""What the kernel knows of a process: its memory, its peak, and the CPU time that it took. Linux only."""

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
_OFTEN = 0.01  # seconds between two looks at it
_OFTEN_MEMORY = 0.003  # seconds between two looks at the memory


def status(pid: int) -> dict[str, int]:
    """The memory of a process in bytes, by the names of proc_pid_status(5): VmRSS, VmHWM, RssAnon, RssFile, …"""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}


def start_peak_anew(pid: int) -> None:
    """Sets the high-water mark (VmHWM) back to what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def family(pid: int) -> list[int]:
    """A process and all that it started, at this moment."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of processes that live, all their threads' together, ended ones included."""
    return sum(time.clock_gettime((~pid << 3) | _CPU_TIME) for pid in pids)


class CpuWatch:
    """The CPU time of some processes over time, looked at every hundredth of a second while this is entered.

    A look takes some microseconds. So a round's share is known afterwards, without a question to the coordinator that would cost it.
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
        while not self._stop.wait(_OFTEN):
            seconds = cpu_seconds(self._pids)
            self._times.append(time.time())
            self._seconds.append(seconds)

    def between(self, start: float, end: float) -> float:
        """CPU seconds from one moment to another (POSIX seconds)."""
        return self._at(end) - self._at(start)

    def _at(self, moment: float) -> float:
        if not self._times or not self._times[0] <= moment <= self._times[-1]:
            raise ValueError(f"Nobody looked at {moment}")
        after = max(1, bisect_left(self._times, moment))
        (left, right), (low, high) = self._times[after - 1 : after + 1], self._seconds[after - 1 : after + 1]
        return low + (high - low) * (moment - left) / (right - left)


@dataclass
class Peak:
    """Bytes of a process: resident before it began; at the most (VmHWM), mapped files' pages included; and of these its own (RssAnon)."""

    before: int
    resident: int = 0
    anonymous: int = 0
    anonymous_before: int = 0


@contextmanager
def peaks_of(*pids: int, every: float = _OFTEN_MEMORY) -> Iterator[dict[int, Peak]]:
    """The peaks of processes while this is entered, filled in at its end. What is their own is looked at `every` so many seconds."""
    peaks, stop = {}, threading.Event()
    for pid in pids:
        start_peak_anew(pid)
        before = status(pid)
        peaks[pid] = Peak(before["VmRSS"], anonymous_before=before["RssAnon"])

    def look() -> None:
        while not stop.wait(every):
            for pid, peak in peaks.items():
                peak.anonymous = max(peak.anonymous, status(pid)["RssAnon"])

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield peaks
    finally:
        stop.set()
        watcher.join()
        for pid, peak in peaks.items():
            peak.resident = status(pid)["VmHWM"]
