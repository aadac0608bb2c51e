"""Sections of `make bench`: each measures something beside its yardstick and yields figures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable

from support import costs

from benchmarks import checkins, cold, distance, encoding_speeds, fold, scale
from benchmarks.figures import (
    CALLS,
    CHECKINS,
    COLD,
    DECODINGS,
    DISTANCE,
    ENCODINGS,
    FLOWER,
    FOLD,
    FOLD_TOGETHER,
    MEGABYTE,
    MEMORY,
    ROUNDS,
    SCALE,
    SIZES,
    Figure,
    figure,
)
from benchmarks.section_memory import measure_memory
from benchmarks.section_rounds import measure_flower, measure_rounds
from muster_coordinator.bootstrap import MAX_CONCURRENT_CALLS

_MANY_CLIENTS = 10_000


def measure_fold(*, quick: bool) -> Iterable[Figure]:
    """Yields GB/s of the fold."""
    for megabytes, tensors in [(1, 1), (10, 1)] if quick else [(1, 1), (10, 1), (10, 40), (100, 1)]:
        case = fold.Case(megabytes, tensors)
        samples = fold.measure(case, repeats=5 if quick else 9, tensorflow=not quick)
        size = case.updates * megabytes * MEGABYTE / 1e9
        add = size / statistics.median(samples["add"])
        for step, seconds in samples.items():
            yield figure(
                FOLD,
                f"{step}, {megabytes} MB in {tensors} tensor{'s' * (tensors > 1)}",
                [size / each for each in seconds],
                "GB/s",
                target=0.5 * add if step == "fold" else None,
                at_most=False,
                yardstick=add,
                against="numpy adding arrays in memory, in place",
            )
    for megabytes in (1, 10):
        pair = fold.measure_together(fold.Case(megabytes, 1), repeats=5, parts=3 if quick else 10)
        alone = statistics.median(pair.alone)
        for name, speeds in (("one process", pair.alone), ("two processes at once", pair.both)):
            yield figure(
                FOLD_TOGETHER,
                f"{name}, {megabytes} MB in 1 tensor",
                speeds,
                "GB/s",
                yardstick=alone,
                against="one process",
            )


def measure_checkins(*, quick: bool) -> Iterable[Figure]:
    """Yields check-ins per second and their 99th percentile."""
    passes = checkins.measure(repeats=5, seconds=1.0 if quick else 3.0)
    floor = statistics.median(sample.rate for sample in passes[checkins.BARE])
    slowest = statistics.median(sample.p99 for sample in passes[checkins.BARE])
    against = "a bare gunicorn with the same workers"
    for case, samples in passes.items():
        p50, generators, cpu = (
            statistics.median(getattr(sample, name) for sample in samples) for name in ("p50", "generators", "cpu")
        )
        yield figure(
            CHECKINS,
            checkins.NAMES[case],
            [sample.rate for sample in samples],
            "a second",
            target=checkins.TARGETS.get(case),
            at_most=False,
            yardstick=floor,
            against=against,
            note=f"p50 {p50:.1f} ms; server CPU {cpu:.2f} ms each; the generators took {generators:.2f} cores",
        )
        p99 = [sample.p99 for sample in samples]
        yield figure(CHECKINS, f"{checkins.NAMES[case]}: p99", p99, "ms", yardstick=slowest, against=against)


def measure_scale(*, quick: bool) -> Iterable[Figure]:
    """Yields the time per client by the number of clients."""
    sizes = (1000, 3000) if quick else scale.SIZES
    repeats = 1 if quick else 5
    alone = scale.measure(sizes, repeats=repeats)
    served = scale.measure(sizes, repeats=repeats, served=True)
    for name, loads, cpu in (
        ("in one process, CPU time", alone, True),
        ("in one process", alone, False),
        ("through sockets", served, False),
    ):
        first = statistics.median(scale.milliseconds(loads[sizes[0]], cpu=cpu))
        for clients, results in loads.items():
            updates = statistics.median(each.throughput for each in results)
            yield figure(
                SCALE,
                f"{clients:,} clients, {name}",
                scale.milliseconds(results, cpu=cpu),
                "ms a client",
                target=None if clients == sizes[0] else scale.LIMIT * first,
                yardstick=first,
                against=f"{sizes[0]:,} clients",
                note="every sum exact" + ("" if cpu else f"; {updates:,.0f} updates a second"),
            )


def measure_distance(*, quick: bool) -> Iterable[Figure]:
    """Yields seconds of a round's end on distant stores."""
    for clients in (2, 100) if quick else (2, 20, 100, 1000, 4000):
        samples = 1 if quick else 5
        alone = [distance.measure(clients, at_once=1) for _ in range(1 if quick else 3)]
        yield figure(
            DISTANCE,
            f"{clients:,} clients",
            [distance.measure(clients, at_once=MAX_CONCURRENT_CALLS) for _ in range(samples)],
            "s",
            yardstick=statistics.median(alone),
            against="one call at a time",
        )


def measure_cold(*, quick: bool) -> Iterable[Figure]:
    """Yields seconds from a process's start to its first response."""
    seconds_of = cold.measure(repeats=3 if quick else 5)
    hello = statistics.median(seconds_of[cold.HELLO])
    for name, seconds in seconds_of.items():
        yield figure(
            COLD,
            name,
            seconds,
            "s",
            yardstick=None if name in cold.PROGRAMS else hello,
            against=cold.HELLO,
            note="from its start to its end" if name in cold.PROGRAMS else "from its start to its first answer",
        )


def measure_calls(*, quick: bool) -> Iterable[Figure]:
    """Yields store calls of a round, and dollars."""
    for clients in costs.CLIENTS[:2] if quick else (*costs.CLIENTS, _MANY_CLIENTS):
        cost = costs.round_cost(clients)
        for operation in costs.OPERATIONS:
            yield figure(CALLS, f"{operation.label}|{clients}", [cost.billed(operation)], "a round")
        dollars = sum(map(cost.dollars, costs.OPERATIONS))
        yield figure(CALLS, f"dollars|{clients}", [dollars], "for a million contributions")


def measure_encodings(*, quick: bool) -> Iterable[Figure]:
    """Yields savings and speed of encodings."""
    for each in encoding_speeds.measure(repeats=3 if quick else 5):
        case, size = f"{each.body}|{each.encoding}", f"{each.size:,}"
        yield figure(SIZES, case, [100 * each.part], "%", note=size)
        yield figure(ENCODINGS, case, each.encode, "MB/s", note=size)
        yield figure(DECODINGS, case, each.decode, "MB/s", note=size)


SECTIONS: dict[str, Callable[..., Iterable[Figure]]] = {
    ROUNDS: measure_rounds,
    FOLD: measure_fold,
    CHECKINS: measure_checkins,
    MEMORY: measure_memory,
    SCALE: measure_scale,
    DISTANCE: measure_distance,
    COLD: measure_cold,
    CALLS: measure_calls,
    ENCODINGS: measure_encodings,
}
PEERS: dict[str, Callable[..., Iterable[Figure]]] = {FLOWER: measure_flower}
