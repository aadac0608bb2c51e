"""Duration and cost of a round: `python -m benchmarks.rounds [CLIENTS:MB:ROUNDS[:VALUES] …]`.

Real processes and real HTTP, with data on disk. Clients download, respond with an update of the
model's size and train nothing, so the coordinator is what is timed. The clients are threads of a
few processes on the coordinator's machine. A round is timed from its opening to the next one's, so
it includes fold, commit and the clients' waits; so does its CPU time. Bytes are counted where
clients send and receive them.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.crowd import Contribution, Crowd, Values
from benchmarks.figures import MEGABYTE
from benchmarks.processes import CpuWatch, Peak, family, peaks_of
from muster.local.coordinator import LocalCoordinator
from muster.operator import Operator
from muster.wire.messages import Phase, RoundView, TaskPolicy, TaskStatus
from muster.wire.plan import Plan

FLOAT = 4  # bytes
PLAN = "bytes.plan"
_MEMORY_INTERVAL = 0.05  # seconds between two samples, which take some of the measured time


@dataclass(frozen=True)
class Case:
    """A number of clients, a model of megabytes (10^6 bytes), rounds, and seconds as a target.

    `values`: values of the updates, which decide whether encoding them pays.
    """

    clients: int
    megabytes: float
    rounds: int
    target: float | None = None
    values: Values = Values.NOISE

    @classmethod
    def parse(cls, text: str) -> Case:
        """Parses `clients:megabytes:rounds`, optionally with `:weights` or `:sparse`."""
        clients, megabytes, rounds, *values = text.split(":")
        return cls(int(clients), float(megabytes), int(rounds), values=Values(*values) if values else Values.NOISE)

    @property
    def name(self) -> str:
        """Name of the case in tables."""
        return name_of(self.clients, self.megabytes) + ("" if self.values is Values.NOISE else f", {self.values}")


def name_of(clients: int, megabytes: float) -> str:
    """Returns the name of a case whose values are noise."""
    return f"{clients:,} × {megabytes:g} MB"


DEFAULT_CASES = (Case(2, 0.01, 15, 0.3), Case(100, 1.0, 7, 2.5), Case(100, 10.0, 7, 6.0))


LEARN = "opening to first assignment"
WORK = "to the last upload's answer"
CLOSE = "to the commit"
NEXT = "to the next opening"
TOLD = "a client is told to wait"


@dataclass(frozen=True)
class Result:
    """Result of a case, for each round but the first.

    Attributes:
      case: The case.
      seconds: Seconds of each round.
      cpu: CPU seconds of all coordinator processes per client-round.
      peaks: Memory of each process, by name, including the first round.
      parts: Seconds of each round's sections, by name.
      down: Bytes of bodies that each client received in each round.
      up: Bytes of bodies that each client sent in each round.
    """

    case: Case
    seconds: list[float]
    cpu: list[float]
    peaks: dict[str, Peak]
    parts: dict[str, list[float]]
    down: list[int]
    up: list[int]


def run(case: Case, folder: Path, *, say: Any) -> Result:
    """Runs a case on a new coordinator."""
    plan = compile_plan(case, folder, say=say)
    say("starting the coordinator")
    with LocalCoordinator(folder / "data") as coordinator:
        operator = Operator(coordinator.url)
        operator.put_plan(plan)
        processes = _processes(coordinator)
        with CpuWatch(processes.values()) as cpu, peaks_of(*processes.values(), every=_MEMORY_INTERVAL) as peaks:
            policy = TaskPolicy(rounds=case.rounds, goal=case.clients, minimum=case.clients, round_seconds=600)
            operator.create_task("bench", population="bench", plan=plan.sha256, policy=policy)
            with Crowd(coordinator.url, case.clients, folder / PLAN, values=case.values) as crowd:
                _watch(operator, crowd, case, say=say)
                contributed = crowd.end()
        views = [view for view in operator.rounds("bench") if view.phase is Phase.COMMITTED]
    assert all(view.folded == case.clients for view in views), "an update is missing from a round"
    opened = [view.opened_at.timestamp() for view in views[1:]]
    counted = {view.round for view in views[1:]}
    return Result(
        case,
        [after - before for before, after in pairwise(opened)],
        [cpu.between(before, after) / case.clients for before, after in pairwise(opened)],
        {name: peaks[pid] for name, pid in processes.items()},
        parts_of(views[1:], contributed),
        [each.down for each in contributed if each.round in counted],
        [each.up for each in contributed if each.round in counted],
    )


def parts_of(views: list[RoundView], contributed: list[Contribution]) -> dict[str, list[float]]:
    """Returns the seconds of each round's sections, by the clock of the machine."""
    parts: dict[str, list[float]] = {name: [] for name in (LEARN, WORK, CLOSE, NEXT, TOLD)}
    for view, after in pairwise(views):
        mine = [each for each in contributed if each.round == view.round]
        opened, ended = view.opened_at.timestamp(), (view.ended_at or view.opened_at).timestamp()
        first, last = min(each.assigned for each in mine), max(each.done for each in mine)
        parts[LEARN].append(first - opened)
        parts[WORK].append(last - first)
        parts[CLOSE].append(ended - last)
        parts[NEXT].append(after.opened_at.timestamp() - ended)
        parts[TOLD].append(statistics.median(each.wait_seconds for each in mine))
    return parts


def compile_plan(case: Case, folder: Path, *, say: Any) -> Plan:
    """Compiles the plan of a case in a separate process."""
    say("compiling the plan")
    file, log = folder / PLAN, folder / "plan.log"
    floats = max(1, round(case.megabytes * MEGABYTE / FLOAT))
    recipe = Path(__file__).with_name("plan_of_size.py")
    with log.open("wb") as output:
        done = subprocess.run(  # noqa: S603  our own recipe
            [sys.executable, str(recipe), "--floats", str(floats), str(file)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"The plan could not be compiled:\n{log.read_text()[-2000:]}")
    return Plan.load(file)


def _watch(operator: Operator, crowd: Crowd, case: Case, *, say: Any) -> None:
    pause = threading.Event()
    while (task := operator.task("bench")).status is not TaskStatus.COMPLETED:
        crowd.check()
        say(f"round {task.current.round if task.current else 0} of {case.rounds}")
        pause.wait(0.5)


def _processes(coordinator: LocalCoordinator) -> dict[str, int]:
    """Returns the ids of the coordinator's processes; gunicorn's workers are numbered."""
    pids = {}
    for name, parent in coordinator.pids.items():
        for number, pid in enumerate(family(parent)):
            pids[f"{name} worker {number}" if number else name] = pid
    return pids


def report(results: list[Result], console: Console) -> None:
    """Prints the figures."""
    table = Table(
        "case",
        "rounds",
        "median s",
        "min",
        "max",
        "target s",
        "server CPU ms / client-round",
        "bytes down",
        "up",
        title="of a client: bytes of bodies",
        title_justify="left",
    )
    for result in results:
        case, seconds = result.case, result.seconds
        table.add_row(
            case.name,
            str(len(seconds)),
            f"{statistics.median(seconds):.3f}",
            f"{min(seconds):.3f}",
            f"{max(seconds):.3f}",
            "" if case.target is None else f"{case.target:g}",
            f"{statistics.median(result.cpu) * 1000:.1f}",
            f"{statistics.median(result.down):,.0f}",
            f"{statistics.median(result.up):,.0f}",
        )
    console.print(table)
    memory = Table("case", "process", "peak MB resident", "anonymous")
    for result in results:
        for name, peak in result.peaks.items():
            memory.add_row(
                result.case.name, name, f"{peak.resident / MEGABYTE:.0f}", f"{peak.anonymous / MEGABYTE:.0f}"
            )
    console.print(memory)


def main() -> None:
    """Runs the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", type=Case.parse, metavar="CLIENTS:MB:ROUNDS[:VALUES]", default=None)
    arguments = parser.parse_args()
    console = Console()
    results = []
    for case in arguments.cases or DEFAULT_CASES:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder, console.status("") as shown:

            def say(text: str, case: Case = case, started: float = started) -> None:
                shown.update(f"{case.name}: {text} ({time.monotonic() - started:.0f} s)")

            results.append(run(case, Path(folder), say=say))
    report(results, console)


if __name__ == "__main__":
    main()
