"""How a load is shown: progress while it runs, then where the time went."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from rich.console import Console

    from muster.simulation.load import LoadResult

_REST = "between phases"


@contextmanager
def bar(console: Console, *, clients: int, rounds: int, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar, as what `run_load` tells; nothing of it where it is `quiet`, or no terminal is there."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task("starting", total=clients)

        def tell(number: int, done: int) -> None:
            progress.update(task, completed=done, description=f"round {number} of {rounds}")

        yield tell


def show(console: Console, result: LoadResult) -> None:
    """Prints what a load came to."""
    from rich.table import Table

    shape, count = result.shape, len(result.rounds)
    table = Table(
        "phase", *(_right(name) for name in ("count", "mean ms", "p50", "p99", "share", "calls to stores each"))
    )
    lanes = result.wall * result.lanes  # seconds
    # What is delivered while a client's request runs does not nest; `queue` is what delivers, and so not a phase of its own.
    phases = [phase for phase in result.phases if phase.name != "queue"]
    for phase in phases:
        calls = sum(phase.calls.values())
        table.add_row(
            phase.name,
            f"{phase.count:,}",
            *(f"{1000 * seconds:.2f}" for seconds in (phase.mean, phase.p50, phase.p99)),
            f"{phase.total / lanes:.0%}",
            f"{calls / phase.count:.1f}" if calls else "–",
        )
    table.add_row(_REST, "", "", "", "", f"{max(0.0, 1 - sum(each.total for each in phases) / lanes):.0%}", "")
    console.print(table)
    if result.waits.count:
        waits = result.waits
        console.print(f"Told to wait {waits.count:,} times: {waits.mean:.2f} s on average, p99 {waits.p99:.2f} s")
    for each in result.rounds:
        console.print(
            f"Round {each.number}: {each.folded:,} updates in {each.seconds:.2f} s, committed {1000 * each.commit:.0f} ms "
            f"after the last one; sum {_verdict(each.exact)}"
        )
    others = {name: number for name, number in result.outcomes.items() if name not in ("accepted", "told to wait")}
    if others:
        console.print("Clients " + ", ".join(f"{name}: {number:,}" for name, number in sorted(others.items())))
    console.print(
        f"{shape.clients * count:,} clients in {result.wall:.2f} s: {1000 * result.wall / (shape.clients * count):.2f} ms each, "
        f"{result.throughput:,.0f} updates a second"
    )


def _verdict(exact: Any) -> str:
    return {True: "exact", False: "WRONG"}.get(exact, "not to be seen there")


def _right(name: str) -> Any:
    from rich.table import Column

    return Column(name, justify="right")
