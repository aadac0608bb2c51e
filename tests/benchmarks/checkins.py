"""Check-ins per second over real HTTP, accepted and answered "wait", beside the bare server.

Run `python -m benchmarks.checkins`. The subject is `muster up` with one web worker per core on an
embedded store. Generators with open connections run on the same cores, and their CPU share is
printed. The same run measures two yardsticks: `bare` is the same gunicorn with an application of
two lines that responds `ok`; `health` is `GET /health`, which also passes through
functions-framework and Muster's router. Cases are measured alternately; the first pass warms up
and is dropped, and the medians of the others are shown.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import select
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from benchmarks.processes import cpu_seconds, family
from benchmarks.yardsticks import bare_server
from muster.local.coordinator import LocalCoordinator
from muster.operator import Operator
from muster.smoke import smoke_plan
from muster.wire.messages import TaskPolicy

BARE, HEALTH, ACCEPTED, WAIT = CASES = ("bare", "health", "accepted", "wait")
NAMES = {
    BARE: "a bare gunicorn",
    HEALTH: "GET /health",
    ACCEPTED: "check-in, accepted",
    WAIT: "check-in, answered “wait”",
}
TARGETS = {ACCEPTED: 300.0, WAIT: 1000.0}  # a second
OPEN, FULL = "open", "full"  # populations
_HEADER_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Measured:
    """Result of one generator, or of all. Seconds; `expected`: responses that the case is about."""

    answers: int
    expected: int
    latencies: list[float]
    cpu: float


@dataclass(frozen=True)
class Pass:
    """One pass of a case: responses per second, quantiles in ms, cores used by generators and
    coordinator, CPU ms per response.
    """

    rate: float
    p50: float
    p99: float
    generators: float
    coordinator: float
    cpu: float


def request_of(case: str, client: str) -> bytes:
    """Returns a request of the case as bytes on the wire."""
    if case in (BARE, HEALTH):
        return b"GET /health HTTP/1.1\r\nHost: bench\r\n\r\n"
    body = json.dumps({"client": client}).encode()
    path = f"/v1/populations/{OPEN if case == ACCEPTED else FULL}:checkin"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def generate(
    case: str, host: str, port: int, *, connections: int, seconds: float, name: str, ready: Any, out: Any
) -> None:
    """Sends requests from a separate process, over `connections` connections, for `seconds`."""
    wanted = {ACCEPTED: b'"assigned"', WAIT: b'"round_full"'}.get(case, b"ok")
    sockets = [socket.create_connection((host, port)) for _ in range(connections)]
    for each in sockets:
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    poll = select.poll()
    by_number = {each.fileno(): each for each in sockets}
    started: dict[int, float] = {}
    buffers = dict.fromkeys(by_number, b"")
    latencies: list[float] = []
    sent = expected = 0
    ready.wait()
    began, cpu = time.perf_counter(), time.process_time()
    until = began + seconds

    def ask(number: int) -> None:
        nonlocal sent
        sent += 1
        started[number] = time.perf_counter()
        by_number[number].sendall(request_of(case, f"{name}-{sent}"))

    for number in by_number:
        poll.register(number, select.POLLIN)
        ask(number)
    while started and time.perf_counter() < until + 10:
        for number, _ in poll.poll(1000):
            buffers[number] += by_number[number].recv(1 << 16)
            head, end, body = buffers[number].partition(_HEADER_END)
            if not end or len(body) < _length(head):
                continue
            now = time.perf_counter()
            latencies.append(now - started.pop(number))
            expected += wanted in body and b" 200 " in head[:16]
            buffers[number] = b""
            if now < until:
                ask(number)
    for each in sockets:
        each.close()
    out.put(Measured(len(latencies), expected, latencies, time.process_time() - cpu))


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def run_case(case: str, url: str, pid: int, *, processes: int, connections: int, seconds: float) -> Pass:
    """Measures a case once, at the server whose parent process is `pid`."""
    place, servers = urlsplit(url), family(pid)
    context = multiprocessing.get_context("fork")
    ready, out = context.Event(), context.SimpleQueue()
    generators = [
        context.Process(
            target=generate,
            args=(case, place.hostname, place.port),
            kwargs={
                "connections": connections,
                "seconds": seconds,
                "name": f"{time.time_ns():x}-{at}",
                "ready": ready,
                "out": out,
            },
        )
        for at in range(processes)
    ]
    for each in generators:
        each.start()
    before, start = cpu_seconds(servers), time.perf_counter()
    ready.set()
    measured: list[Measured] = [out.get() for _ in generators]
    wall, cpu = time.perf_counter() - start, cpu_seconds(servers) - before
    for each in generators:
        each.join()
    answers = sum(each.answers for each in measured)
    odd = answers - sum(each.expected for each in measured)
    if odd:
        raise SystemExit(f"{odd} of {answers} answers were not what {case!r} is about")
    latencies = sorted(latency for each in measured for latency in each.latencies)
    return Pass(
        answers / wall,
        1000 * latencies[len(latencies) // 2],
        1000 * latencies[math.ceil(0.99 * len(latencies)) - 1],
        sum(each.cpu for each in measured) / wall,
        cpu / wall,
        1000 * cpu / answers,
    )


def prepare(coordinator: LocalCoordinator) -> None:
    """Opens one task with a slot for every client, and one whose round is full."""
    operator, plan = Operator(coordinator.url), smoke_plan()
    for name, goal in ((OPEN, 100_000), (FULL, 1)):
        policy = TaskPolicy(goal=goal, round_seconds=86400, assignment_seconds=86400)
        operator.create_task(name, population=name, plan=plan, policy=policy)
    pause = threading.Event()
    while any(operator.task(name).current is None for name in (OPEN, FULL)):
        pause.wait(0.05)
    place = urlsplit(coordinator.url)
    with socket.create_connection((place.hostname or "", place.port or 0)) as first:
        first.sendall(request_of(WAIT, "first"))
        first.recv(1 << 16)


def measure(
    *, repeats: int, seconds: float, processes: int = 1, connections: int = 16, workers: int | None = None
) -> dict[str, list[Pass]]:
    """Returns all passes of all cases, on a new coordinator with a web worker per core."""
    samples: dict[str, list[Pass]] = {case: [] for case in CASES}
    count = workers or os.cpu_count() or 1
    with (
        tempfile.TemporaryDirectory(prefix="muster-bench-") as folder,
        LocalCoordinator(Path(folder) / "data", workers=count) as coordinator,
        bare_server(Path(folder), size=2, workers=count) as bare,
    ):
        prepare(coordinator)
        for at in range(repeats + 1):
            for case, each in samples.items():
                url, pid = (bare.url, bare.pid) if case == BARE else (coordinator.url, coordinator.pids["web"])
                sample = run_case(case, url, pid, processes=processes, connections=connections, seconds=seconds)
                each.extend([sample] if at else [])
    return samples


def report(console: Console, repeats: dict[str, list[Pass]]) -> None:
    """Prints medians."""

    def middle(case: str, of: Callable[[Pass], float]) -> float:
        return statistics.median(map(of, repeats[case]))

    names = (
        "case",
        "a second",
        "target",
        "of the bare one",
        "p50 ms",
        "p99 ms",
        "cores: generators",
        "web workers",
        "CPU ms each",
    )
    table = Table(*names)
    for case in repeats:
        target = TARGETS.get(case)
        table.add_row(
            NAMES[case],
            f"{middle(case, lambda each: each.rate):,.0f}",
            "" if target is None else f"{target:,.0f}",
            f"{middle(case, lambda each: each.rate) / middle(BARE, lambda each: each.rate):.0%}",
            *(f"{middle(case, of):.1f}" for of in (lambda each: each.p50, lambda each: each.p99)),
            *(f"{middle(case, of):.2f}" for of in (lambda each: each.generators, lambda each: each.coordinator)),
            f"{middle(case, lambda each: each.cpu):.2f}",
        )
    console.print(table)
    console.print("generators, workers: cores that they took; ms each: the workers' CPU for an answer")


def main() -> None:
    """Measures all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a case")
    parser.add_argument("--processes", type=int, default=1, help="generators")
    parser.add_argument("--connections", type=int, default=16, help="of each generator")
    parser.add_argument("--workers", type=int, help="web workers; else one for each core")
    options = parser.parse_args()
    report(Console(), measure(**vars(options)))


if __name__ == "__main__":
    main()
