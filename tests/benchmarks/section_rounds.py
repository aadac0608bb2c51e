"""Section of rounds: seconds, CPU, bytes and sections of each case, their growth, and Flower's."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from benchmarks import flower, rounds, yardsticks
from benchmarks.crowd import Values
from benchmarks.figures import (
    BYTES,
    CPU,
    FLOWER,
    FLOWER_CPU,
    FLOWER_MEMORY,
    LINEAR,
    MEGABYTE,
    PARTS,
    ROUNDS,
    Figure,
    figure,
)
from benchmarks.rounds import Case

_CPU_TARGET = 25.0  # milliseconds for a client-round at 1 MB
_GROWTH = 1.5  # of the time for a client, from a hundred clients to a thousand
_FLOOR = Case(2, 0.01, 15, 0.3)
_HUNDRED = Case(100, 1.0, 8, 2.5)
_CASES = (
    _FLOOR,
    Case(10, 10.0, 7),
    _HUNDRED,
    Case(100, 1.0, 8, values=Values.WEIGHTS),
    Case(100, 1.0, 8, values=Values.SPARSE),
    Case(100, 10.0, 7, 6.0),
    Case(1000, 1.0, 7),
)
_QUICK = (replace(_FLOOR, rounds=8), replace(_HUNDRED, rounds=7), Case(100, 10.0, 7, 6.0))
# Flower's own first round is left out, as Muster's is.
_FLOWER = {"full": ("2:0.01:6", "10:10:6", "100:1:6", "100:10:6"), "quick": ("2:0.01:3", "100:1:3", "100:10:2")}


def measure_rounds(*, quick: bool) -> Iterable[Figure]:
    """Yields seconds a round, server CPU and bytes per client-round, and a round's sections."""
    bare: dict[tuple[int, float], float] = {}
    copied: dict[tuple[int, float], float] = {}
    results: dict[str, rounds.Result] = {}
    for case in _QUICK if quick else _CASES:
        size = (case.clients, case.megabytes)
        with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
            root = Path(folder)
            result = results[case.name] = rounds.run(case, root, say=lambda _: None)
            if size not in bare:
                bare[size] = yardsticks.http_seconds(root, clients=case.clients, megabytes=case.megabytes)
                copied[size] = yardsticks.copy_seconds(root, files=case.clients, megabytes=case.megabytes)
        yield from _of_case(result, bare=bare[size], copied=copied[size])
    if _CASES[-1].name in results:
        yield from _linear(results[_HUNDRED.name], results[_CASES[-1].name])


def _of_case(result: rounds.Result, *, bare: float, copied: float) -> Iterable[Figure]:
    case = result.case
    web, committer = (_largest(result, role) for role in ("web", "committer"))
    yield figure(
        ROUNDS,
        case.name,
        result.seconds,
        "s",
        target=case.target,
        yardstick=bare,
        against="the same requests and bytes at a bare gunicorn",
        note=f"file copy of the updates: {copied:.3f} s; peaks: web worker {web}, committer {committer}",
    )
    target = _CPU_TARGET if case.megabytes == 1 else None
    yield figure(CPU, case.name, [1000 * each for each in result.cpu], "ms", target=target)
    model = case.megabytes * MEGABYTE
    for way, sizes in (("down", result.down), ("up", result.up)):
        yield figure(BYTES, f"{case.name}|{way}", sizes, "bytes", yardstick=model, against="the model")
    for part, seconds in result.parts.items():
        yield figure(PARTS, f"{case.name}|{part}", [1000 * each for each in seconds], "ms")


def _largest(result: rounds.Result, role: str) -> str:
    """Returns the peak of the largest process of a role, and its anonymous memory."""
    peak = max((peak for name, peak in result.peaks.items() if name.startswith(role)), key=lambda peak: peak.resident)
    return f"{peak.resident / MEGABYTE:.0f} MB ({peak.anonymous / MEGABYTE:.0f} anonymous)"


def _linear(some: rounds.Result, many: rounds.Result) -> Iterable[Figure]:
    """Returns the time per client of a large round beside that of a small one."""
    first = 1000 * statistics.median(some.seconds) / some.case.clients
    for result in (some, many):
        wait, first_come = (statistics.median(result.parts[part]) for part in (rounds.TOLD, rounds.LEARN))
        yield figure(
            LINEAR,
            result.case.name,
            [1000 * each / result.case.clients for each in result.seconds],
            "ms a client",
            target=_GROWTH * first if result is many else None,
            yardstick=first,
            against=some.case.name,
            note=f"a client is told to wait {wait:.2f} s at its upload, and the first of the next round comes "
            f"{first_come:.2f} s after its opening",
        )


def measure_flower(*, quick: bool) -> Iterable[Figure]:
    """Yields Flower's figures on the cases of rounds."""
    for each in flower.measure(_FLOWER["quick" if quick else "full"]):
        name = rounds.name_of(each.clients, each.megabytes)
        yield figure(FLOWER, name, each.seconds, "s", note=f"Flower {each.version}")
        yield figure(FLOWER_CPU, name, [1000 * each.cpu], "ms", note=f"the mean of {len(each.seconds)}")
        yield figure(FLOWER_MEMORY, name, [each.peak_mb], "MB")
