"""Measured figures, each with its unit, its target, and a yardstick of the same run."""

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
      table: Name of its table.
      case: What was measured.
      value: The median, in `unit`.
      unit: Unit of `value`, `low`, `high`, `target` and `yardstick`.
      low: The least of the samples.
      high: The greatest of the samples.
      samples: Number of samples.
      target: The target; None if it has none.
      at_most: True if the target is an upper bound, else a lower one.
      yardstick: The yardstick's figure of the same run, in the same unit; None if it has none.
      against: Name of the yardstick.
      note: A related fact, such as a process's peak.
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
        """True if the target is met; None without a target."""
        if self.target is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target


def figure(table: str, case: str, samples: Sequence[float], unit: str, **more: Any) -> Figure:
    """Returns the median of a non-empty list of samples as a figure."""
    return Figure(table, case, statistics.median(samples), unit, min(samples), max(samples), len(samples), **more)


@dataclass(frozen=True)
class Conditions:
    """Conditions of a section's measurement.

    Attributes:
      session: Start of its run (ISO 8601). Figures of one session may be compared.
      date: The day, in words.
      machine: Cores, memory, system and Python.
      quick: True if it had fewer and smaller cases.
      load: The machine's load averages (1 minute) at the start and the end.
      seconds: Its duration.
      finished: True if it completed.
    """

    session: str
    date: str
    machine: str
    quick: bool
    load: tuple[float, float] = (0.0, 0.0)
    seconds: float = 0.0
    finished: bool = False


def machine() -> str:
    """Returns a description of this machine in a line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{os.cpu_count()} cores, {memory:.0f} GB, {platform.system()}, Python {platform.python_version()}"


@dataclass
class Section:
    """Figures that were measured together."""

    conditions: Conditions
    figures: list[Figure] = field(default_factory=list)


@dataclass
class Results:
    """All sections, of one run or of several."""

    sections: dict[str, Section] = field(default_factory=dict)

    def of(self, table: str) -> list[Figure]:
        """Returns a table's figures."""
        return [each for section in self.sections.values() for each in section.figures if each.table == table]

    def conditions(self, section: str) -> Conditions | None:
        """Returns the conditions of a section; None if it was not measured."""
        measured = self.sections.get(section)
        return None if measured is None else measured.conditions

    def together(self, one: str, other: str) -> bool:
        """Returns whether two sections were measured in the same session."""
        first, second = self.conditions(one), self.conditions(other)
        return first is not None and second is not None and first.session == second.session

    def save(self, file: Path) -> None:
        """Writes the results as JSON, atomically."""
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(".new")
        temporary.write_text(json.dumps(asdict(self), indent=1) + "\n")
        temporary.replace(file)

    @classmethod
    def load(cls, file: Path) -> Results:
        """Reads what `save` wrote. Raises `ValueError` for anything else."""
        try:
            sections = json.loads(file.read_text())["sections"]
            sections = {
                name: Section(
                    Conditions(**{**each["conditions"], "load": tuple(each["conditions"]["load"])}),
                    [Figure(**one) for one in each["figures"]],
                )
                for name, each in sections.items()
            }
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{file} holds no figures of this benchmark: {error}") from error
        return cls(sections)


def text_of(value: float) -> str:
    """Returns a number with three significant digits, or whole."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
