"""Memory of the client API with a hundred transfers: `python -m benchmarks.transfers`.

A real `muster up`, and a hundred connections that each trickle one update up, or one broadcast
down. Printed is the largest web worker's peak with all of them open, and its use before the first.
With fewer threads than connections the rest wait in the kernel's buffers. Linux only.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import requests
from rich.console import Console
from rich.table import Table

from benchmarks.figures import MEGABYTE
from benchmarks.processes import Peak, family, peaks_of
from benchmarks.rounds import Case, compile_plan
from muster.local.coordinator import LocalCoordinator
from muster.operator import Operator
from muster.wire.messages import TaskPolicy, TaskStatus
from muster.wire.plan import Plan
from muster.wire.tensors import encode

KINDS = ("uploads", "downloads")
_PIECES = 64  # that a body is sent or taken in
_PAUSE = 0.02  # seconds between them
_RECEIVED = (
    1 << 16
)  # bytes that the kernel keeps for a slow reader; else it would take much of a broadcast off the server's hands


def trickled(body: bytes) -> Iterator[bytes]:
    """Yields the body over a second or two."""
    size, pause = -(-len(body) // _PIECES), threading.Event()
    for start in range(0, len(body), size):
        yield body[start : start + size]
        pause.wait(_PAUSE)


def upload(url: str, assignment: dict[str, Any], body: bytes) -> None:
    """Uploads an update. `requests` sends a chunked body, so no length is declared."""
    headers = {"Authorization": f"Bearer {assignment['token']}", "Content-Type": "application/octet-stream"}
    requests.put(f"{url}/v1/updates", data=trickled(body), headers=headers, timeout=600).raise_for_status()


def download(url: str, assignment: dict[str, Any]) -> None:
    """Reads the broadcast over a second or two."""
    place, broadcast, pause = urlsplit(url), assignment["broadcast"], threading.Event()
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVED)
        line.settimeout(600)
        line.connect((place.hostname, place.port))
        line.sendall(f"GET {broadcast['url']} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
        with line.makefile("rb", buffering=0) as answer:
            piece, head, size = -(-broadcast["size"] // _PIECES), b"", 0
            while b"\r\n\r\n" not in head:
                head += answer.read(1)
            while got := _read(answer, piece):
                size += got
                pause.wait(_PAUSE)
    if b" 200 " not in head.splitlines()[0] or size != broadcast["size"]:
        raise SystemExit(f"A download of {broadcast['size']} bytes came to {size}: {head!r}")


def _read(answer: Any, most: int) -> int:
    """Reads up to so many bytes, and returns how many there were."""
    got = 0
    while got < most and (piece := answer.read(min(most - got, _RECEIVED))):
        got += len(piece)
    return got


def _assignment(url: str, client: str) -> Any:
    pause = threading.Event()
    while True:
        answer = requests.post(f"{url}/v1/populations/bench:checkin", json={"client": client}, timeout=600)
        answer.raise_for_status()
        answer_ = answer.json()["answer"]
        if answer_["status"] != "wait":
            return answer_
        pause.wait(answer_["retry_after"])


def measure(plan: Plan, folder: Path, *, kind: str, clients: int, threads: int, workers: int = 1) -> Peak:
    """Returns the largest worker's peak with so many uploads or downloads at once."""
    body = encode(
        {
            spec.path: np.ones([size or 0 for size in spec.shape or ()], spec.dtype.numpy)
            for spec in plan.manifest.update
        }
    )
    with LocalCoordinator(folder, workers=workers, threads=threads) as coordinator:
        url, operator = coordinator.url, Operator(coordinator.url)
        operator.put_plan(plan)
        # The goal is one more than come: nothing folds meanwhile, in these processes or another.
        policy = TaskPolicy(rounds=1, goal=clients + 1, minimum=1, round_seconds=600, chunk=10_000)
        operator.create_task("bench", population="bench", plan=plan.sha256, policy=policy)
        pause = threading.Event()
        while operator.task("bench").status is TaskStatus.OPENING:
            pause.wait(0.1)

        def client(name: str) -> None:
            assignment = _assignment(url, name)
            upload(url, assignment, body) if kind == "uploads" else download(url, assignment)

        # The peak of taking the plan in is not measured: reset it.
        with peaks_of(*family(coordinator.pids["web"])[1:]) as peaks, ThreadPoolExecutor(clients) as pool:
            list(pool.map(client, map(str, range(clients))))
        return max(peaks.values(), key=lambda peak: peak.resident)


def main() -> None:
    """Runs the cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--megabytes", type=int, default=10)
    parser.add_argument("--threads", type=int, nargs="*", default=[16, 128])
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    table = Table("", "MB each", "threads", "worker's MB before", "peak MB", "of it anonymous")
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        root = Path(folder)
        plan = compile_plan(Case(options.clients, options.megabytes, 1), root, say=lambda _: None)
        for kind in KINDS:
            for threads in options.threads:
                peaks = [
                    measure(plan, root / f"{kind}-{threads}-{at}", kind=kind, clients=options.clients, threads=threads)
                    for at in range(options.repeats)
                ]
                cells = [
                    statistics.median(getattr(each, name) for each in peaks) / MEGABYTE
                    for name in ("before", "resident", "anonymous")
                ]
                table.add_row(
                    f"{options.clients} {kind}",
                    str(options.megabytes),
                    str(threads),
                    *(f"{each:.0f}" for each in cells),
                )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
