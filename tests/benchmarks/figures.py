"""Measured figures: each with its unit, its target, and the yardstick of the same run that it is held against."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MEGABYTE = 1_000_000  # bytes, throughout

# The tables: those of one section are measured together.
ROUNDS, CPU, PARTS, BYTES, LINEAR = "rounds", "cpu", "parts", "bytes", "linear"
FOLD, FOLD_TOGETHER = "fold", "fold-together"
CHECKINS, MEMORY, SCALE, DISTANCE, COLD = "checkins", "memory", "scale", "distance", "cold"
CALLS, ENCODINGS, DECODINGS, SIZES = "calls", "encodings", "decodings", "sizes"
FLOWER, FLOWER_CPU, FLOWER_MEMORY = "flower", "flower-cpu", "flower-memory"
SECTIONS = (ROUNDS, FOLD, CHECKINS, MEMORY, SCALE, DISTANCE, COLD, CALLS, ENCODINGS)
PEERS = (FLOWER,)


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
      table: The table that it is in.
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

    table: str
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


def figure(table: str, case: str, samples: Sequence[float], unit: str, **more: Any) -> Figure:
    """The median of some samples, which are not empty."""
    return Figure(table, case, statistics.median(samples), unit, min(samples), max(samples), len(samples), **more)


@dataclass(frozen=True)
class Conditions:
    """Under what a section was measured.

    Attributes:
      session: When the run that it is of began (ISO 8601). What one session measured may be held against each other.
      date: The day, as people write it.
      machine: Its cores, memory, system and Python.
      quick: Whether it had fewer and smaller cases.
      load: The machine's load averages (1 minute) at its start and its end.
      seconds: How long it took.
      finished: Whether it came to its end.
    """

    session: str
    date: str
    machine: str
    quick: bool
    load: tuple[float, float] = (0.0, 0.0)
    seconds: float = 0.0
    finished: bool = False


def machine() -> str:
    """This machine in a line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{os.cpu_count()} cores, {memory:.0f} GB, {platform.system()}, Python {platform.python_version()}"


@dataclass
class Section:
    """What was measured together."""

    conditions: Conditions
    figures: list[Figure] = field(default_factory=list)


@dataclass
class Results:
    """All sections, of one run or of several."""

    sections: dict[str, Section] = field(default_factory=dict)

    def of(self, table: str) -> list[Figure]:
        """A table's figures."""
        return [each for section in self.sections.values() for each in section.figures if each.table == table]

    def conditions(self, section: str) -> Conditions | None:
        """Those of a section; None: it was not measured."""
        found = self.sections.get(section)
        return None if found is None else found.conditions

    def together(self, one: str, other: str) -> bool:
        """Whether two sections were measured in the same session."""
        first, second = self.conditions(one), self.conditions(other)
        return first is not None and second is not None and first.session == second.session

    def save(self, file: Path) -> None:
        """Writes them as JSON, so that the file is never half of it."""
        file.parent.mkdir(parents=True, exist_ok=True)
        made = file.with_suffix(".new")
        made.write_text(json.dumps(asdict(self), indent=1) + "\n")
        made.replace(file)

    @classmethod
    def load(cls, file: Path) -> Results:
        """Reads what `save` wrote. Raises `ValueError` if it is something else."""
        try:
            found = json.loads(file.read_text())["sections"]
            sections = {
                name: Section(
                    Conditions(**{**each["conditions"], "load": tuple(each["conditions"]["load"])}),
                    [Figure(**one) for one in each["figures"]],
                )
                for name, each in found.items()
            }
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{file} holds no figures of this benchmark: {error}") from error
        return cls(sections)


def text_of(value: float) -> str:
    """A number with three significant digits, or whole."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
