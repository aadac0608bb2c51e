"""What other processes of this machine have used, as Linux tells in /proc; nothing elsewhere."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PROC = Path("/proc")
_PARENT, _CPU = 1, slice(11, 15)  # fields after the name in /proc/PID/stat; times also of children that have ended


@dataclass(frozen=True)
class Use:
    """What a process and its children used.

    Attributes:
      cpu: Seconds that they computed.
      peak: Bytes of memory that the largest of them has held at once.
      processes: How many they are.
    """

    cpu: float
    peak: int
    processes: int

    def since(self, before: Use) -> Use:
        """What was computed since then; the peak is that of all their lives."""
        return Use(self.cpu - before.cpu, self.peak, self.processes)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-compatible data."""
        return {"cpu_seconds": self.cpu, "peak_bytes": self.peak, "processes": self.processes}


def used_by(roots: Mapping[str, int]) -> dict[str, Use]:
    """What these processes have used so far, with their children, by name; those that can't be seen are not in it."""
    found: dict[str, Use] = {}
    if not (_PROC / "self" / "stat").exists():
        return found
    stats = _stats()
    for name, root in roots.items():
        family = _family(root, stats)
        if family:
            ticks = sum(int(ticks) for pid in family for ticks in stats[pid][_CPU])
            found[name] = Use(ticks / os.sysconf("SC_CLK_TCK"), max(map(_peak, family)), len(family))
    return found


def _stats() -> dict[int, list[str]]:
    found = {}
    for path in _PROC.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            # The name, in parentheses, may hold anything.
            found[int(path.parent.name)] = path.read_text(errors="replace").rpartition(")")[2].split()
    return found


def _family(root: int, stats: Mapping[int, list[str]]) -> list[int]:
    family = [root] if root in stats else []
    for parent in family:  # grows meanwhile
        family.extend(pid for pid, fields in stats.items() if int(fields[_PARENT]) == parent)
    return family


def _peak(pid: int) -> int:
    with contextlib.suppress(OSError):
        match = re.search(r"^VmHWM:\s+(\d+) kB", (_PROC / str(pid) / "status").read_text(), re.MULTILINE)
        return int(match[1]) << 10 if match else 0
    return 0
