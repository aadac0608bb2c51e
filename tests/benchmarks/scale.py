"""Time for a client by the number of clients in one round: `python tests/benchmarks/scale.py [CLIENTS …]`.

The real HTTP application in one process on embedded stores (`muster simulate --no-train`), a small model, and the exact sum. Sizes take
turns, so that what else the machine does falls on all; the CPU's time, which others disturb least, is beside the clock's.
"""

from __future__ import annotations

import argparse
import os
import statistics

from rich.console import Console
from rich.table import Table

from muster.simulation.load import LoadResult, run_load
from muster.simulation.load_shape import LoadShape

LIMIT = 1.5  # times the first size's


def per_client(results: list[LoadResult], *, cpu: bool) -> float:
    """The median time for a client, in milliseconds."""
    return statistics.median(1000 * (each.cpu if cpu else each.wall) / each.shape.clients for each in results)


def main() -> None:
    """Measures."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clients", nargs="*", type=int, default=[1000, 10_000])
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    results: dict[int, list[LoadResult]] = {clients: [] for clients in given.clients}
    for _ in range(given.turns):
        for clients, found in results.items():
            found.append(run_load(LoadShape(clients=clients)))
    if not all(each.exact for found in results.values() for each in found):
        raise SystemExit("A sum is not exact")
    table = Table("clients", "ms each", "CPU ms each", "of the first", f"limit {LIMIT:g}", "store calls each", "sum")
    first = per_client(results[given.clients[0]], cpu=True)
    for clients, found in results.items():
        calls = statistics.median(sum(sum(phase.calls.values()) for phase in each.phases) / clients for each in found)
        ratio = per_client(found, cpu=True) / first
        table.add_row(
            f"{clients:,}",
            f"{per_client(found, cpu=False):.2f}",
            f"{per_client(found, cpu=True):.2f}",
            f"{ratio:.2f}",
            "met" if ratio <= LIMIT else "missed",
            f"{calls:.1f}",
            "exact",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
