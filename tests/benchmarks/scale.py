"""Time for a client by the number of clients in one round: `python tests/benchmarks/scale.py [CLIENTS …]`.

A small model and the exact sum (`muster simulate --no-train`): the real HTTP application in one process on embedded stores; or, `served`,
`muster up` with its processes and sockets. Sizes take turns, so that what else the machine does falls on all. In one process the CPU's time,
which others disturb least, is beside the clock's; served, the coordinator's is not in it.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from muster.load.run import LoadResult, run_load
from muster.load.shape import LoadShape

LIMIT = 1.5  # times the first size's
SIZES = (1000, 10_000)


def measure(sizes: Sequence[int], *, turns: int, served: bool = False) -> dict[int, list[LoadResult]]:
    """The loads of each size, each of which has the exact sum."""
    results: dict[int, list[LoadResult]] = {clients: [] for clients in sizes}
    for _ in range(turns):
        for clients, found in results.items():
            found.append(run_load(LoadShape(clients=clients), served=served))
            if not found[-1].exact:
                raise SystemExit(f"The sum of {clients} clients is not exact")
    return results


def milliseconds(results: list[LoadResult], *, cpu: bool = False) -> list[float]:
    """The time for a client of each load, by the clock or the CPU."""
    return [1000 * (each.cpu if cpu else each.wall) / each.shape.clients for each in results]


def main() -> None:
    """Measures."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clients", nargs="*", type=int, default=list(SIZES))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--served", action="store_true", help="through sockets, at processes of their own")
    given = parser.parse_args()
    results = measure(given.clients, turns=given.turns, served=given.served)
    table = Table("clients", "ms each", "of the first", "CPU ms each", "of the first", "store calls each")
    first = [statistics.median(milliseconds(results[given.clients[0]], cpu=cpu)) for cpu in (False, True)]
    for clients, found in results.items():
        calls = statistics.median(sum(sum(phase.calls.values()) for phase in each.phases) / clients for each in found)
        row = []
        for at, cpu in enumerate((False, True)):
            middle = statistics.median(milliseconds(found, cpu=cpu))
            row += [f"{middle:.2f}", f"{middle / first[at]:.2f}"]
        table.add_row(f"{clients:,}", *row, f"{calls:.1f}")
    Console().print(table)
    Console().print(f"Every sum is exact; the limit is {LIMIT:g} times the first")


if __name__ == "__main__":
    main()
