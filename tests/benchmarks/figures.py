"""A measured figure: its unit, its target, and the yardstick of the same run that it is held against."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# The tables: those of one section are measured together.
ROUNDS, CPU, PARTS, BYTES = "rounds", "cpu", "parts", "bytes"
FOLD, CHECKINS, MEMORY, SCALE = "fold", "checkins", "memory", "scale"
DISTANCE, COLD, CALLS = "distance", "cold", "calls"
FLOWER, FLOWER_CPU, FLOWER_MEMORY = "flower", "flower-cpu", "flower-memory"
SECTIONS = (ROUNDS, FOLD, CHECKINS, MEMORY, SCALE, DISTANCE, COLD, CALLS)
PEERS = (FLOWER,)


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
      section: The table that it is in.
      case: What was measured.
      value: The median, in `unit`.
      unit: Of `value`, `low`, `high`, `target` and `yardstick`.
      low: The least of the samples. Likewise `high`.
      samples: How many there were.
      target: What it should be; None: nothing is asked of it.
      at_most: Whether the target is an upper bound; else a lower one.
      yardstick: The yardstick's figure of the same run, in the same unit; None: it has none.
      against: What the yardstick is.
      note: What else belongs to it, such as a process's peak.
    """

    section: str
    case: str
    value: float
    unit: str
    low: float
    high: float
    samples: int
    target: float | None = None
    at_most: bool = True
    yardstick: float | None = None
    against: str = ""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The figure over its yardstick."""
        return self.value / self.yardstick if self.yardstick else None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target


def figure(section: str, case: str, samples: Sequence[float], unit: str, **more: Any) -> Figure:
    """The median of some samples, which are not empty."""
    return Figure(section, case, statistics.median(samples), unit, min(samples), max(samples), len(samples), **more)


@dataclass(frozen=True)
class Conditions:
    """Under what a run was made. `load`: the machine's load averages (1 minute) at the start and end of each section."""

    date: str
    cores: int
    memory_gb: float
    python: str
    system: str
    load: dict[str, list[float]]
    quick: bool

    @classmethod
    def now(cls, *, date: str, quick: bool) -> Conditions:
        """Of this machine."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
        return cls(date, os.cpu_count() or 1, memory, platform.python_version(), platform.system(), {}, quick)


@dataclass
class Results:
    """All figures of a run."""

    conditions: Conditions
    figures: list[Figure] = field(default_factory=list)

    def of(self, section: str) -> list[Figure]:
        """A section's figures."""
        return [each for each in self.figures if each.section == section]

    def save(self, file: Path) -> None:
        """Writes them as JSON."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, file: Path) -> Results:
        """Reads what `save` wrote."""
        found = json.loads(file.read_text())
        return cls(Conditions(**found["conditions"]), [Figure(**each) for each in found["figures"]])


def text_of(value: float) -> str:
    """A number with three significant digits, or whole."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
