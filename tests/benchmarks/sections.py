"""The sections of `make bench`: each measures something beside its yardstick and gives figures."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import checkins
import cold
import distance
import flower
import fold
import memory
import rounds
import uploads
import yardsticks
from figures import (
    BYTES,
    CALLS,
    CHECKINS,
    COLD,
    CPU,
    DISTANCE,
    FLOWER,
    FLOWER_CPU,
    FLOWER_MEMORY,
    FOLD,
    MEMORY,
    PARTS,
    ROUNDS,
    SCALE,
    Figure,
    figure,
)
from rounds import MEGABYTE, Case
from support import costs

from coordinator.bootstrap import AT_ONCE

CPU_TARGET = 25.0  # milliseconds for a client-round at 1 MB
_FLOOR = Case(2, 0.01, 15, 0.3)
_CASES = (
    _FLOOR,
    Case(10, 10.0, 7),
    Case(100, 1.0, 8, 2.5),
    Case(100, 10.0, 7, 6.0),
    Case(1000, 1.0, 7),
)
_QUICK = (replace(_FLOOR, rounds=8), Case(100, 1.0, 7, 2.5), Case(100, 10.0, 7, 6.0))
_FLOWER = {"full": ("2:0.01:6", "10:10:6", "100:1:6", "100:10:4"), "quick": ("2:0.01:3", "100:1:3", "100:10:2")}


def _name(clients: int, megabytes: float) -> str:
    return f"{clients:,} × {megabytes:g} MB"


def measure_rounds(*, quick: bool) -> Iterable[Figure]:
    """Seconds a round, server CPU a client-round, and the parts of the floor."""
    for case in _QUICK if quick else _CASES:
        name = _name(case.clients, case.megabytes)
        with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
            root = Path(folder)
            result = rounds.run(case, root, say=lambda _: None)
            bare = yardsticks.http_seconds(root, clients=case.clients, megabytes=case.megabytes)
            copied = yardsticks.copy_seconds(root, files=case.clients, megabytes=case.megabytes)
        web = max(peak for process, peak in result.peaks.items() if process.startswith("web"))
        rss = f"peaks: web worker {web / MEGABYTE:.0f} MB, committer {result.peaks['committer worker 1'] / MEGABYTE:.0f} MB"
        yield figure(
            ROUNDS,
            name,
            result.seconds,
            "s",
            target=case.target,
            yardstick=bare,
            against="the same requests and bytes at a bare gunicorn",
            note=f"file copy of the updates: {copied:.3f} s; {rss}",
        )
        milliseconds = [1000 * result.cpu]
        yield figure(CPU, name, milliseconds, "ms", target=CPU_TARGET if case.megabytes == 1 else None)
        yield figure(BYTES, f"{name}, downloaded", [float(result.down)], "bytes")
        yield figure(BYTES, f"{name}, uploaded", [float(result.up)], "bytes")
        if case.clients == _FLOOR.clients:
            for part, seconds in result.parts.items():
                yield figure(PARTS, part, [1000 * each for each in seconds], "ms")


def measure_fold(*, quick: bool) -> Iterable[Figure]:
    """GB/s of the fold."""
    for megabytes, tensors in [(1, 1), (10, 1)] if quick else [(1, 1), (10, 1), (10, 40), (100, 1)]:
        case = fold.Case(megabytes, tensors)
        found = fold.measure(case, repeats=5 if quick else 9, tensorflow=not quick)
        size = case.updates * megabytes * 1e6

        def speeds(step: str, size: float = size, found: dict[str, list[float]] = found) -> list[float]:
            return [size / seconds / 1e9 for seconds in found[step]]

        add = statistics.median(speeds("add"))
        for step in found:
            yield figure(
                FOLD,
                f"{step}, {megabytes} MB in {tensors} tensor{'s' * (tensors > 1)}",
                speeds(step),
                "GB/s",
                target=0.5 * add if step == "fold" else None,
                at_most=False,
                yardstick=add,
                against="numpy adding arrays in memory, in place",
            )


def measure_checkins(*, quick: bool) -> Iterable[Figure]:
    """Check-ins a second."""
    turns = checkins.measure(turns=5, seconds=1.0 if quick else 3.0)
    floor = statistics.median(turn.rate for turn in turns["floor"])
    for case, found in turns.items():
        quantiles = [statistics.median(at(turn) for turn in found) for at in (lambda t: t.p50, lambda t: t.p99)]
        generators = statistics.median(turn.generators for turn in found)
        cpu = statistics.median(turn.cpu for turn in found)
        yield figure(
            CHECKINS,
            {"floor": "GET /health", "accepted": "check-in, accepted", "wait": "check-in, answered “wait”"}[case],
            [turn.rate for turn in found],
            "a second",
            target=checkins.TARGETS.get(case),
            at_most=False,
            yardstick=floor,
            against="GET /health at the same workers",
            note=f"p50 {quantiles[0]:.1f} ms, p99 {quantiles[1]:.1f} ms; server CPU {cpu:.2f} ms each; the generators took {generators:.2f} cores",
        )


def measure_memory(*, quick: bool) -> Iterable[Figure]:
    """Peaks of the client API and of the fold."""
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        root = Path(folder)
        plan = rounds.compile_plan(Case(100, 10.0, 1), root, say=lambda _: None)
        for workers, threads in [(2, 16)] if quick else [(2, 16), (1, 16), (1, 128)]:
            place = root / f"{workers}-{threads}"
            found = [
                uploads.measure(plan, place / str(at), uploads=100, threads=threads, workers=workers)
                for at in range(1 if quick else 3)
            ]
            before = statistics.median(each.before for each in found) / MEGABYTE
            yield figure(
                MEMORY,
                f"client API, 100 uploads of 10 MB under way, {workers} worker{'s' * (workers > 1)} of {threads} threads",
                [each.peak / MEGABYTE for each in found],
                "MB",
                target=150.0,
                note=f"the largest worker, resident; {before:.0f} MB before the first upload",
            )
    megabytes = 10
    for clients in (10, 100) if quick else (10, 100, 1000):
        for role, peak in memory.measure(clients, megabytes).items():
            yield figure(
                MEMORY,
                f"{role}, {clients:,} clients of {megabytes} MB, beyond its base",
                [peak.resident / MEGABYTE],
                "MB",
                target=3.0 * megabytes if role == "aggregator" else None,
                yardstick=float(megabytes),
                against="the model",
                note=f"{peak.anonymous / MEGABYTE:.0f} MB of it anonymous; the base is {peak.base / MEGABYTE:.0f} MB",
            )


def measure_scale(*, quick: bool) -> Iterable[Figure]:
    """Time for a client by the number of clients."""
    from muster.simulation.load import run_load
    from muster.simulation.load_shape import LoadShape

    sizes = (1000, 3000) if quick else (1000, 10_000)
    found: dict[int, list[float]] = {clients: [] for clients in sizes}
    for _ in range(1 if quick else 5):
        for clients, each in found.items():
            result = run_load(LoadShape(clients=clients))
            if not result.exact:
                raise SystemExit(f"The sum of {clients} clients is not exact")
            each.append(1000 * result.cpu / clients)
    first = statistics.median(found[sizes[0]])
    for clients, each in found.items():
        target = None if clients == sizes[0] else 1.5 * first
        note = "every sum exact; CPU time of both sides, in one process"
        yield figure(
            SCALE,
            f"{clients:,} clients",
            each,
            "ms a client",
            target=target,
            yardstick=first,
            against=f"{sizes[0]:,} clients",
            note=note,
        )


def measure_distance(*, quick: bool) -> Iterable[Figure]:
    """Seconds of a round's end where each call to a store takes a while."""
    for clients in (2, 100) if quick else (2, 20, 100, 1000, 4000):
        samples = 1 if quick else 5
        alone = [distance.measure(clients, at_once=1) for _ in range(1 if quick else 3)]
        yield figure(
            DISTANCE,
            f"{clients:,} clients",
            [distance.measure(clients, at_once=AT_ONCE) for _ in range(samples)],
            "s",
            yardstick=statistics.median(alone),
            against="one call at a time",
        )


def measure_cold(*, quick: bool) -> Iterable[Figure]:
    """Seconds until a function could listen."""
    for name, seconds in cold.measure(repeats=3 if quick else 5).items():
        yield figure(COLD, name, seconds, "s", note=cold.NOTES[name])


def measure_calls(*, quick: bool) -> Iterable[Figure]:
    """Store calls and dollars."""
    for clients in costs.CLIENTS[:2] if quick else costs.CLIENTS:
        cost = costs.round_cost(clients)
        rounds_ = costs.MILLION / clients
        dollars = 0.0
        for operation in costs.OPERATIONS:
            number = cost.billed(operation)
            dollars += number * rounds_ / costs.MILLION * operation.dollars
            yield figure(CALLS, f"{operation.label}|{clients}", [number / clients], "a contribution")
        yield figure(CALLS, f"dollars|{clients}", [dollars], "for a million")


def measure_flower(*, quick: bool) -> Iterable[Figure]:
    """Flower on the cases of rounds."""
    for each in flower.measure(_FLOWER["quick" if quick else "full"]):
        name = _name(each.clients, each.megabytes)
        yield figure(FLOWER, name, each.seconds, "s", note=f"Flower {each.version}")
        yield figure(FLOWER_CPU, name, [1000 * each.cpu], "ms")
        yield figure(FLOWER_MEMORY, name, [each.peak_mb], "MB")


SECTIONS: dict[str, Callable[..., Iterable[Figure]]] = {
    ROUNDS: measure_rounds,
    FOLD: measure_fold,
    CHECKINS: measure_checkins,
    MEMORY: measure_memory,
    SCALE: measure_scale,
    DISTANCE: measure_distance,
    COLD: measure_cold,
    CALLS: measure_calls,
}
PEERS: dict[str, Callable[..., Iterable[Figure]]] = {FLOWER: measure_flower}
