"""Section of memory: the client API under a hundred transfers, and the fold by clients."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterable
from pathlib import Path

from benchmarks import memory, rounds, transfers
from benchmarks.figures import MEGABYTE, MEMORY, Figure, figure
from benchmarks.rounds import Case

_CLIENT_API = 150.0  # MB, with a hundred transfers of 10 MB under way
_MODELS = 3.0  # that an aggregator may take beyond its base
_FLAT = 1.1  # of the largest aggregator's memory over the smallest's, whatever the number of clients
_CLIENTS, _MODEL = 100, 10  # MB
# What is under way, at how many workers of how many threads each; `muster up` has two of sixteen.
_CASES = (("uploads", 2, 16), ("downloads", 2, 16), ("uploads", 1, 128))


def measure_memory(*, quick: bool) -> Iterable[Figure]:
    """Yields peaks of the client API and of the fold."""
    yield from _client_api(_CASES[:2] if quick else _CASES, repeats=1 if quick else 5)
    yield from _folds((10, 100) if quick else (10, 100, 1000), repeats=2 if quick else 5)


def _client_api(cases: Iterable[tuple[str, int, int]], *, repeats: int) -> Iterable[Figure]:
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        root = Path(folder)
        plan = rounds.compile_plan(Case(_CLIENTS, _MODEL, 1), root, say=lambda _: None)
        for kind, workers, threads in cases:
            peaks = [
                transfers.measure(
                    plan, root / f"{kind}-{threads}-{at}", kind=kind, clients=_CLIENTS, threads=threads, workers=workers
                )
                for at in range(repeats)
            ]
            before, own = (
                statistics.median(getattr(each, name) for each in peaks) / MEGABYTE for name in ("before", "anonymous")
            )
            yield figure(
                MEMORY,
                f"client API, {_CLIENTS} {kind} of {_MODEL} MB under way, "
                f"{workers} worker{'s' * (workers > 1)} of {threads} threads",
                [each.resident / MEGABYTE for each in peaks],
                "MB",
                target=_CLIENT_API,
                note=f"the largest worker, resident; {own:.0f} MB of it anonymous; {before:.0f} MB before the first",
            )


def _folds(sizes: tuple[int, ...], *, repeats: int) -> Iterable[Figure]:
    aggregators: list[list[float]] = []
    for clients in sizes:
        for role, peaks in memory.measure(clients, _MODEL, repeats=repeats).items():
            resident = [each.resident / MEGABYTE for each in peaks]
            own, base = (
                statistics.median(getattr(each, name) for each in peaks) / MEGABYTE for name in ("anonymous", "base")
            )
            if role == "aggregator":
                aggregators.append(resident)
            yield figure(
                MEMORY,
                f"{role}, {clients:,} clients of {_MODEL} MB, beyond its base",
                resident,
                "MB",
                target=_MODELS * _MODEL if role == "aggregator" else None,
                yardstick=float(_MODEL),
                against="the model",
                note=f"{own:.0f} MB of it anonymous; the base is {base:.0f} MB",
            )
    yield figure(
        MEMORY,
        f"aggregator, the largest of {', '.join(f'{each:,}' for each in sizes)} clients over the smallest",
        [max(each) / min(each) for each in zip(*aggregators, strict=True)],
        "×",
        target=_FLAT,
    )
