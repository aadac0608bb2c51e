"""Shows the progress of a load while it runs, and its result: times, rounds and capacity."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Optional

from muster.terminal import size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID
    from typing_extensions import Self

    from muster.load.result import LoadResult, LoadRound

_REST = "between phases"
_FIRST, _EVERY = 2.0, 5.0  # seconds until the first line, and from one to the next
_REFRESH = 0.2  # seconds, of a bar


class LoadProgress:
    """Progress of a load on stderr: a bar on a terminal, else a line every few seconds.

    Args:
      clients: Clients of each round.
    """

    def __init__(self, *, clients: int) -> None:
        self._clients = clients
        self._stage = "starting"
        self._done = 0
        self._started = self._stage_started = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._show, name="load-progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._stop.set()
        self._thread.join()

    def begin(self, stage: str) -> None:
        """Starts a stage."""
        self._stage, self._done, self._stage_started = stage, 0, time.monotonic()

    def report(self, number: int, done: int) -> None:
        """Stores how many clients of a round are done; another thread shows it."""
        del number  # the stage names the round
        self._done = done

    def _show(self) -> None:
        from rich.console import Console

        screen = Console(stderr=True)
        if screen.is_interactive:  # a dumb terminal can't take a line back
            self._bar(screen)
            return
        pause = _FIRST
        while not self._stop.wait(pause):
            pause = _EVERY
            sys.stderr.write(f"{self._line()}\n")
            sys.stderr.flush()

    def _line(self) -> str:
        now = time.monotonic()
        text = f"{now - self._started:.0f} s: {self._stage}"
        if self._done:
            rate = self._done / max(now - self._stage_started, 1e-3)
            text += f", {self._done:,} of {self._clients:,} clients, {rate:,.0f} a second"
        return text

    def _bar(self, screen: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=screen, transient=True, auto_refresh=False) as progress:
            task = progress.add_task(self._stage, total=self._clients)
            while not self._stop.wait(_REFRESH):
                self._refresh(progress, task)

    def _refresh(self, progress: Progress, task: TaskID) -> None:
        progress.update(task, completed=self._done, description=self._stage, refresh=True)


def show(console: Console, result: LoadResult) -> None:
    """Prints the result of a load."""
    console.print(_table(result))
    if result.waits.count:
        waits = result.waits
        console.print(
            f"Clients waited {waits.count:,} times: {waits.mean:.2f} s on average, p99 {waits.quantile(0.99):.2f} s"
        )
    _show_arrivals(console, result)
    for attempt in result.rounds:
        console.print(_round(attempt))
    from muster.load.clients import ACCEPTED, WAITED

    others = {name: number for name, number in result.outcomes.items() if name not in (ACCEPTED, WAITED)}
    if others:
        console.print("Clients " + ", ".join(f"{name}: {number:,}" for name, number in sorted(others.items())))
    clients = max(1, result.checked_in)
    up, down = result.moved()
    console.print(
        f"{result.checked_in:,} clients in {result.wall:.2f} s: {1000 * result.wall / clients:.2f} ms each, "
        f"{result.throughput:,.0f} updates a second; {size(up)} up and {size(down)} down each"
    )
    _show_capacity(console, result)


def _table(result: LoadResult) -> Any:
    from rich.table import Column, Table

    names = ("count", "mean ms", "p50", "p99", "share", "store calls")
    table = Table("phase", *(Column(name, justify="right") for name in names))
    lanes = result.wall * result.lanes  # seconds
    for phase in result.phases:
        calls, times = sum(phase.calls.values()), phase.histogram
        table.add_row(
            phase.name,
            f"{phase.count:,}",
            *(f"{1000 * seconds:.2f}" for seconds in (times.mean, times.quantile(0.5), times.quantile(0.99))),
            f"{phase.total / lanes:.0%}",
            f"{calls / phase.count:.1f}" if calls else "–",
        )
    rest = max(0.0, 1 - sum(phase.total for phase in result.phases) / lanes)
    table.add_row(_REST, "", "", "", "", f"{rest:.0%}", "")
    return table


def _show_arrivals(console: Console, result: LoadResult) -> None:
    arrivals = result.arrivals
    if arrivals is None:
        return
    late, answered = arrivals.lateness, arrivals.answered
    console.print(
        f"Clients arrived {_milliseconds(late.quantile(0.5))} late (p99 {_milliseconds(late.quantile(0.99))}), and "
        f"were answered {_milliseconds(answered.quantile(0.5))} after they were due "
        f"(p99 {_milliseconds(answered.quantile(0.99))}); at most {arrivals.backlog:,} waited for that at once"
    )
    if arrivals.offered is not None and arrivals.achieved is not None:
        console.print(f"Offered {arrivals.offered:,.1f} clients a second, answered {arrivals.achieved:,.1f}")
    if arrivals.kept_up is False:
        console.print(f"[bold red]It could not keep up[/]. The limit: {result.limit}")


def _round(attempt: LoadRound) -> str:
    from rich.markup import escape

    name = f"Round {attempt.number}" + (f", attempt {attempt.attempt}" if attempt.attempt > 1 else "")
    about = f" (or up to {_milliseconds(attempt.within)} earlier)" if attempt.within else ""
    if not attempt.committed:
        return f"{name}: [bold red]abandoned[/] after {attempt.seconds:.2f} s: {escape(attempt.reason)}"
    short = f" of {attempt.goal:,}" if attempt.folded < attempt.goal else ""
    after = "" if attempt.commit is None else f", committed {_milliseconds(attempt.commit)} after the last one{about}"
    lost = f"; [bold red]{attempt.lost:,} accepted updates are MISSING[/]" if attempt.lost else ""
    updates = f"{attempt.folded:,}{short} updates in {attempt.seconds:.2f} s"
    return f"{name}: {updates}{after}; sum {_verdict(attempt.exact)}{lost}"


def _verdict(exact: Optional[bool]) -> str:
    if exact is None:
        return "unknown there"
    return "exact" if exact else "[bold red]WRONG[/]"


def _show_capacity(console: Console, result: LoadResult) -> None:
    for name, use in result.processes.items():
        several = f"{use.processes} processes, the largest" if use.processes > 1 else "1 process"
        console.print(f"{name}: {use.cpu:.2f} s of CPU time; {several} with at most {size(use.peak)} of memory")
    if result.unmeasured:
        console.print(result.unmeasured)
    capacity = result.capacity
    if capacity is not None:
        console.print(
            f"The coordinator uses {1000 * capacity.seconds:.2f} ms of CPU time per client and round: one core serves "
            f"{capacity.updates:,.0f} updates a second, or {capacity.clients:,.0f} clients an hour"
        )


def _milliseconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 10 else f"{1000 * seconds:,.0f} ms"  # noqa: PLR2004
