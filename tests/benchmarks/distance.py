"""Duration of a round's end on stores across a network: `python -m benchmarks.distance`.

The coordinator is in this process; each call to its stores is delayed by the latency of a bucket
beside a function. Printed is the time from the upload that reaches the goal to the next round's
opening, without the queue's latency: once as deployed, and once with one call at a time.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from support.harness import Harness
from support.plans import sum_update

from muster_coordinator.bootstrap import MAX_CONCURRENT_CALLS

SECONDS = 0.02  # a call
_CALLS = frozenset({"create", "get", "replace", "delete", "increment", "list", "read", "stat"})
_IDS = 60  # that a sum's ids may have


@dataclass
class Distant:
    """Store whose calls take `seconds` longer while it is `away`."""

    inner: Any
    seconds: float
    away: bool = False

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.inner, name)
        if name not in _CALLS or not self.away:
            return attribute

        def call(*arguments: Any, **more: Any) -> Any:
            threading.Event().wait(self.seconds)
            return attribute(*arguments, **more)

        return call


def measure(clients: int, *, at_once: int, seconds: float = SECONDS) -> float:
    """Returns the seconds of the end of a round."""
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        h = Harness(Path(folder), durable=True)
        stores = [Distant(h.inner.documents, seconds), Distant(h.inner.blobs, seconds)]
        h.platform = replace(h.inner, documents=stores[0], blobs=stores[1], at_once=at_once)
        h.restart()
        h.begin(rounds=2, goal=clients, minimum=1, over_selection=1.0)
        tokens = [h.assigned(client).token for client in range(clients)]
        for client, token in enumerate(tokens[:-1]):
            h.upload(token, sum_update(client % _IDS))
        h.deliver_all()  # full chunks are folded while the round is open
        h.upload(tokens[-1], sum_update(0))
        for store in stores:
            store.away = True
        started = time.perf_counter()
        while h.key().number == 1:
            h.deliver(min(h.queue.held, key=lambda held: held.due))
        return time.perf_counter() - started


def main() -> None:
    """Runs the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clients", type=int, nargs="*", default=[2, 20, 100, 1000, 4000])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="that a call takes (default: %(default)s)")
    options = parser.parse_args()
    table = Table("clients", f"s, {MAX_CONCURRENT_CALLS} calls at once", "s, one by one")
    for clients in options.clients:
        seconds = [measure(clients, at_once=each, seconds=options.seconds) for each in (MAX_CONCURRENT_CALLS, 1)]
        table.add_row(f"{clients:,}", *(f"{each:.2f}" for each in seconds))
    Console().print(table)


if __name__ == "__main__":
    main()
