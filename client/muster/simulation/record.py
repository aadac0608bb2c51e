"""What a run leaves in a folder: checkpoints, results and a table of metrics, written as the rounds go by."""

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
    """A committed round as a row: counts, bytes, then the result's scalars by path."""
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
    """A folder with `checkpoints/<round>.safetensors` (0 is the initial state), `results/<round>.safetensors` and `metrics.csv`.

    The files of an earlier run there are removed first; others stay.

    Args:
      folder: Where; None: nothing is written.
      results: Whether results will come.
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
        """Writes a version of the state, as the coordinator gave it."""
        self._write(CHECKPOINTS, version, data)

    def result(self, number: int, data: bytes) -> None:
        """Writes a round's result, as the coordinator gave it."""
        self._write(RESULTS, number, data)

    def row(self, row: Mapping[str, Any]) -> None:
        """Adds a row to the table. A column that only later rows have stays empty in the earlier ones."""
        self._rows.append(row)
        if self._folder is not None:
            # Whole and at once, as a later row may bring a column; a table of numbers is small.
            (self._folder / METRICS).write_bytes(table(self._rows))

    def _write(self, kind: str, number: int, data: bytes) -> None:
        if self._folder is not None:
            (self._folder / kind / f"{number}{_SUFFIX}").write_bytes(data)


def table(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as CSV (RFC 4180, but with bare line feeds), the columns in the order of their first appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
