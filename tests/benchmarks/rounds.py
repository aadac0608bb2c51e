"""How long a round takes and what it costs: `python tests/benchmarks/rounds.py [CLIENTS:MB:ROUNDS …]`.

Real processes and real HTTP, bytes on disk; the clients download, answer with an update of the model's size and train nothing,
so what is timed is the coordinator. The clients are threads of a few processes, on the coordinator's machine.
A round is timed from its opening to the next one's, so that commit, fold and the clients' waits are in it.
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

import psutil
from crowd import Contribution, Crowd
from rich.console import Console
from rich.table import Table

from muster.local import LocalCoordinator
from muster.operator import Operator
from muster.wire.messages import Phase, RoundView, TaskPolicy, TaskStatus
from muster.wire.plan import Plan

FLOAT = 4  # bytes
MEGABYTE = 1_000_000
PLAN = "bytes.plan"


@dataclass(frozen=True)
class Case:
    """So many clients, a model of so many megabytes (10^6 bytes), so many rounds, and the target in seconds a round.

    `weights`: whether its values are distributed as weights are; else it is noise.
    """

    clients: int
    megabytes: float
    rounds: int
    target: float | None = None
    weights: bool = False

    @classmethod
    def parse(cls, text: str) -> Case:
        """Reads `clients:megabytes:rounds`, and perhaps `:weights`."""
        clients, megabytes, rounds, *weights = text.split(":")
        return cls(int(clients), float(megabytes), int(rounds), weights=weights == ["weights"])


DEFAULT_CASES = (Case(2, 0.01, 15, 0.3), Case(100, 1.0, 7, 2.5), Case(100, 10.0, 7, 6.0))


LEARN = "from the round's opening to the first assignment"
WORK = "from there to the last upload's answer"
CLOSE = "from there to the commit: fold, `report`, `update`, `prepare`"
NEXT = "from the commit to the next round's opening"
TOLD = "(what a client that has uploaded is told to wait)"


@dataclass(frozen=True)
class Result:
    """What a case came to.

    Seconds of each round but the first; peaks in bytes by process; CPU seconds of the coordinator for one client-round; seconds of the
    parts of each round, by name; bytes that a client downloads and uploads in a round.
    """

    case: Case
    seconds: list[float]
    peaks: dict[str, int]
    cpu: float
    parts: dict[str, list[float]]
    down: int
    up: int


def run(case: Case, folder: Path, *, say: Any) -> Result:
    """Runs a case on a coordinator of its own."""
    plan = compile_plan(case, folder, say=say)
    say("starting the coordinator")
    with LocalCoordinator(folder / "data") as coordinator:
        operator = Operator(coordinator.url)
        operator.put_plan(plan)
        policy = TaskPolicy(rounds=case.rounds, goal=case.clients, minimum=case.clients, round_seconds=600)
        operator.create_task("bench", population="bench", plan=plan.sha256, policy=policy)
        started_with = _cpu(coordinator)  # what loading TensorFlow and the libraries took is no round's
        with Crowd(coordinator.url, case.clients, folder / PLAN, weights=case.weights) as crowd:
            _watch(operator, crowd, case, say=say)
            peaks, cpu = _peaks(coordinator), _cpu(coordinator) - started_with
            contributed = crowd.end()
        views = [view for view in operator.rounds("bench") if view.phase is Phase.COMMITTED]
    opened = [view.opened_at.timestamp() for view in views]
    seconds = [after - before for before, after in pairwise(opened[1:])]
    assert all(view.folded == case.clients for view in views), "an update is missing from a round"
    return Result(
        case,
        seconds,
        peaks,
        cpu / (case.clients * case.rounds),
        parts_of(views[1:], contributed),
        views[-2].broadcast_bytes,
        views[-2].update_bytes // case.clients,
    )


def parts_of(views: list[RoundView], contributed: list[Contribution]) -> dict[str, list[float]]:
    """Seconds of the parts of each round that another one follows, by the clock that clients and coordinator share here."""
    parts: dict[str, list[float]] = {name: [] for name in (LEARN, WORK, CLOSE, NEXT, TOLD)}
    for view, after in pairwise(views):
        mine = [each for each in contributed if each.round == view.round]
        opened, ended = view.opened_at.timestamp(), (view.ended_at or view.opened_at).timestamp()
        first, last = min(each.assigned for each in mine), max(each.done for each in mine)
        parts[LEARN].append(first - opened)
        parts[WORK].append(last - first)
        parts[CLOSE].append(ended - last)
        parts[NEXT].append(after.opened_at.timestamp() - ended)
        parts[TOLD].append(statistics.median(each.told for each in mine))
    return parts


def compile_plan(case: Case, folder: Path, *, say: Any) -> Plan:
    """The plan of a case, by a process of its own."""
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


def _processes(coordinator: LocalCoordinator) -> dict[str, psutil.Process]:
    """The coordinator's processes; children (gunicorn's workers) under their parent's name, numbered."""
    found = {}
    for name, pid in coordinator.pids.items():
        process = psutil.Process(pid)
        found[name] = process
        for number, child in enumerate(process.children(recursive=True), start=1):
            found[f"{name} worker {number}"] = child
    return found


def _peaks(coordinator: LocalCoordinator) -> dict[str, int]:
    peaks = {}
    for name, process in _processes(coordinator).items():
        status = Path(f"/proc/{process.pid}/status")
        if status.exists():
            line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
            peaks[name] = int(line.split()[1]) * 1024
    return peaks


def _cpu(coordinator: LocalCoordinator) -> float:
    times = [process.cpu_times() for process in _processes(coordinator).values()]
    return sum(each.user + each.system for each in times)


def report(results: list[Result], console: Console) -> None:
    """Prints the figures."""
    table = Table("clients", "MB", "rounds", "median s", "min", "max", "target s", "server CPU ms / client-round")
    for result in results:
        case, seconds = result.case, result.seconds
        table.add_row(
            str(case.clients),
            f"{case.megabytes:g}",
            str(len(seconds)),
            f"{statistics.median(seconds):.3f}",
            f"{min(seconds):.3f}",
            f"{max(seconds):.3f}",
            "" if case.target is None else f"{case.target:g}",
            f"{result.cpu * 1000:.1f}",
        )
    console.print(table)
    memory = Table("clients", "MB", "process", "peak MB resident")
    for result in results:
        for name, peak in result.peaks.items():
            memory.add_row(str(result.case.clients), f"{result.case.megabytes:g}", name, f"{peak / MEGABYTE:.0f}")
    console.print(memory)


def main() -> None:
    """Runs the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", type=Case.parse, metavar="CLIENTS:MB:ROUNDS[:weights]", default=None)
    arguments = parser.parse_args()
    console = Console()
    results = []
    for case in arguments.cases or DEFAULT_CASES:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder, console.status("") as status:

            def say(text: str, case: Case = case, started: float = started) -> None:
                status.update(
                    f"{case.clients} clients x {case.megabytes:g} MB: {text} ({time.monotonic() - started:.0f} s)"
                )

            results.append(run(case, Path(folder), say=say))
    report(results, console)


if __name__ == "__main__":
    main()
