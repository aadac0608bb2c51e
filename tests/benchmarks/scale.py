"""Time per client by the number of clients in one round: `python -m benchmarks.scale [CLIENTS …]`.

A small model and the exact sum, as in `muster load`: the real HTTP application in one process on
embedded stores, or with `--served` a `muster up` with processes and sockets. Sizes alternate, so
that other load on the machine affects all. CPU time, which other load affects least, is shown
beside the wall time; with `--served` it does not include the coordinator's.
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


def measure(sizes: Sequence[int], *, repeats: int, served: bool = False) -> dict[int, list[LoadResult]]:
    """Returns the loads of each size; ends the benchmark if a sum is not exact."""
    results: dict[int, list[LoadResult]] = {clients: [] for clients in sizes}
    for _ in range(repeats):
        for clients, loads in results.items():
            loads.append(run_load(LoadShape(clients=clients), served=served))
            if not loads[-1].exact:
                raise SystemExit(f"The sum of {clients} clients is not exact")
    return results


def milliseconds(results: list[LoadResult], *, cpu: bool = False) -> list[float]:
    """Returns the wall or CPU milliseconds per client of each load."""
    return [1000 * (each.cpu if cpu else each.wall) / each.shape.clients for each in results]


def main() -> None:
    """Measures all sizes."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clients", nargs="*", type=int, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--served", action="store_true", help="through sockets, at processes of their own")
    options = parser.parse_args()
    results = measure(options.clients, repeats=options.repeats, served=options.served)
    table = Table("clients", "ms each", "of the first", "CPU ms each", "of the first", "store calls each")
    first = [statistics.median(milliseconds(results[options.clients[0]], cpu=cpu)) for cpu in (False, True)]
    for clients, loads in results.items():
        calls = statistics.median(sum(sum(phase.calls.values()) for phase in each.phases) / clients for each in loads)
        row = []
        for at, cpu in enumerate((False, True)):
            middle = statistics.median(milliseconds(loads, cpu=cpu))
            row += [f"{middle:.2f}", f"{middle / first[at]:.2f}"]
        table.add_row(f"{clients:,}", *row, f"{calls:.1f}")
    Console().print(table)
    Console().print(f"Every sum is exact; the limit is {LIMIT:g} times the first")


if __name__ == "__main__":
    main()
