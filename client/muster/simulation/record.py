"""Writes a run's checkpoints, results and table of metrics to a folder, round by round."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, Union

from muster.wire.messages import RoundView

CHECKPOINTS, RESULTS, METRICS = "checkpoints", "results", "metrics.csv"
_SUFFIX = ".safetensors"

Row = dict[str, Union[int, float]]


def row_of(view: RoundView) -> Row:
    """Returns a committed round as a row: counts, bytes, then the result's scalars by path."""
    return {
        "round": view.round,
        "epoch": view.epoch,
        "folded": view.folded,
        "dropped": sum(view.dropped.values()),
        "update_bytes": view.update_bytes,
        "broadcast_bytes": view.broadcast_bytes,
        **view.metrics,
    }


class Record:
    """Writer of a run's output folder.

    The folder has `checkpoints/<round>.safetensors` (0 is the initial state),
    `results/<round>.safetensors` and `metrics.csv`. Those of an earlier run are removed
    first; other files stay.

    Args:
      folder: The folder; None: nothing is written.
      results: True if the run has results.
    """

    def __init__(self, folder: Optional[Path], *, results: bool = True) -> None:
        self._folder = folder
        self._rows: list[Mapping[str, Any]] = []
        if folder is None:
            return
        for name in (CHECKPOINTS, RESULTS) if results else (CHECKPOINTS,):
            (folder / name).mkdir(parents=True, exist_ok=True)
            for old in (folder / name).glob(f"*{_SUFFIX}"):
                if old.stem.isdecimal():
                    old.unlink()
        (folder / METRICS).unlink(missing_ok=True)

    def checkpoint(self, version: int, data: bytes) -> None:
        """Writes the bytes of a version of the state."""
        self._write(CHECKPOINTS, version, data)

    def result(self, number: int, data: bytes) -> None:
        """Writes the bytes of a round's result."""
        self._write(RESULTS, number, data)

    def row(self, row: Mapping[str, Any]) -> None:
        """Adds a row to the table. Columns that only later rows have are empty in earlier ones."""
        self._rows.append(row)
        if self._folder is not None:
            # The whole table, since a later row may add a column.
            (self._folder / METRICS).write_bytes(table(self._rows))

    def _write(self, kind: str, number: int, data: bytes) -> None:
        if self._folder is not None:
            (self._folder / kind / f"{number}{_SUFFIX}").write_bytes(data)


def table(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Returns rows as CSV (RFC 4180, but with bare line feeds), columns by first appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
