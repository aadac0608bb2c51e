"""What memory the process that clients talk to takes with a hundred uploads under way: `python tests/benchmarks/uploads.py`.

A real `muster up` web worker, a hundred connections that each trickle one update. Printed is the worker's peak (VmHWM) with all of
them under way, and what it was before the first. With fewer threads than uploads the rest wait in the kernel's buffers. Linux only.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests
from rich.console import Console
from rich.table import Table
from rounds import MEGABYTE, Case, compile_plan

from muster.local import LocalCoordinator
from muster.operator import Operator
from muster.wire.messages import TaskPolicy, TaskStatus
from muster.wire.plan import Plan
from muster.wire.tensors import encode

_PIECES = 64  # that an update is sent in
_PAUSE = 0.02  # seconds between them


def trickled(body: bytes) -> Iterator[bytes]:
    """The body, over a second and a bit."""
    size, pause = -(-len(body) // _PIECES), threading.Event()
    for start in range(0, len(body), size):
        yield body[start : start + size]
        pause.wait(_PAUSE)


def upload(url: str, client: str, body: bytes) -> None:
    """Checks in and uploads. `requests` sends the pieces as a chunked body, so that no length is declared."""
    session = requests.Session()
    pause = threading.Event()
    while (answer := _ask(session, url, client))["status"] == "wait":
        pause.wait(answer["retry_after"])
    headers = {"Authorization": f"Bearer {answer['token']}", "Content-Type": "application/octet-stream"}
    session.put(f"{url}/v1/updates", data=trickled(body), headers=headers, timeout=600).raise_for_status()


def _ask(session: requests.Session, url: str, client: str) -> Any:
    answer = session.post(f"{url}/v1/populations/bench:checkin", json={"client": client}, timeout=600)
    answer.raise_for_status()
    return answer.json()["answer"]


def peak(pid: int, field: str) -> int:
    """A field of a process's status, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


@dataclass(frozen=True)
class Measured:
    """Resident bytes of the largest worker before the first upload, and at its peak."""

    before: int
    peak: int


def measure(plan: Plan, folder: Path, *, uploads: int, threads: int, workers: int = 1) -> Measured:
    """Puts so many uploads under way at once."""
    update = {
        spec.path: np.ones([size or 0 for size in spec.shape or ()], spec.dtype.numpy) for spec in plan.manifest.update
    }
    body = encode(update)
    with LocalCoordinator(folder, workers=workers, threads=threads) as coordinator:
        operator = Operator(coordinator.url)
        operator.put_plan(plan)
        # The goal is one more than come: nothing folds meanwhile, in these processes or another.
        policy = TaskPolicy(rounds=1, goal=uploads + 1, minimum=1, round_seconds=600, chunk=10_000)
        operator.create_task("bench", population="bench", plan=plan.sha256, policy=policy)
        pause = threading.Event()
        while operator.task("bench").status is TaskStatus.OPENING:
            pause.wait(0.1)
        pids = [worker.pid for worker in psutil.Process(coordinator.pids["web"]).children()]
        for pid in pids:  # the peak of taking the plan in is not what is asked for
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        before = max(peak(pid, "VmRSS") for pid in pids)
        with ThreadPoolExecutor(uploads) as pool:
            for done in [pool.submit(upload, coordinator.url, str(at), body) for at in range(uploads)]:
                done.result()
        return Measured(before, max(peak(pid, "VmHWM") for pid in pids))


def main() -> None:
    """Runs the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uploads", type=int, default=100)
    parser.add_argument("--megabytes", type=int, default=10)
    parser.add_argument("--threads", type=int, nargs="*", default=[16, 128])
    given = parser.parse_args()
    table = Table("uploads", "MB each", "threads", "worker's MB before", "peak MB")
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        root = Path(folder)
        plan = compile_plan(Case(given.uploads, given.megabytes, 1), root, say=lambda _: None)
        for threads in given.threads:
            found = measure(plan, root / str(threads), uploads=given.uploads, threads=threads)
            row = (f"{found.before / MEGABYTE:.0f}", f"{found.peak / MEGABYTE:.0f}")
            table.add_row(str(given.uploads), str(given.megabytes), str(threads), *row)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
