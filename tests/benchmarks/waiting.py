"""Compares retries with a long poll for waiting clients: `python -m benchmarks.waiting`.

Cases are `CLIENTS:SECONDS:ROUNDS`; the clients of a round finish one after another, evenly over
SECONDS, and train nothing. Real processes and HTTP on loopback: `muster up`, and a client API on a
separate gunicorn that logs each request. The long poll exists only here: a check-in that has to
wait is held until a round opens, for 20 s at most, with a thread per client; a thread of each
worker polls the store every 10 ms and wakes all. Printed are medians and ranges without the
first round. Dollars are the client API's, as measured, and as replayed by `domain.pacing`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from functools import cache
from io import BytesIO
from itertools import pairwise, product
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from functions_framework import create_app
from rich.console import Console
from werkzeug.wrappers import Request, Response

from benchmarks.processes import CpuWatch, family
from muster.client import MusterClient
from muster.local.coordinator import LocalCoordinator
from muster.local.reserved_port import ReservedPort
from muster.local.serving import serve
from muster.local.settings import settings_of
from muster.operator import Operator
from muster.smoke import smoke_plan
from muster.wire.messages import Phase, TaskPolicy, TaskStatus
from muster_coordinator.bootstrap import from_environment
from muster_coordinator.domain import names
from muster_coordinator.domain.pacing import checkin_delay
from muster_coordinator.domain.rounds import Collecting, Terms
from muster_coordinator.http import router

# cloud.google.com/run/pricing, tier 1 (us-central1), billed by requests: while one is open, by 100
# ms. 1 CPU, 512 MiB, 16 at once: infra/terraform/variables.tf. Firestore as tests/support/costs.py
# has it.
INSTANCE, REQUEST, READ = 0.000024 + 0.5 * 0.0000025, 0.40e-6, 0.30e-6  # dollars: a second, each, each
CONCURRENCY, TICK, READS = 16, 0.1, 4  # reads of a check-in that is not served from the cache
HOLD, LOOK, CACHE, LENGTHS = 20.0, 0.01, 0.05, (10.0, 600.0)  # seconds
POLL = "long poll"
WAYS = {"retry, 0.1 s": (0.1, CACHE), "retry, 1 s": (1.0, 1.0), POLL: (0.1, CACHE)}  # floor and cache, seconds
FIGURES = ("first assigned, s", "last, s", "round, s", "CPU, ms", "requests", "thread-s", "$ a million")


class Front:
    """The client API with a log of requests, which holds check-ins if `hold`."""

    def __init__(self, *, hold: bool, log: str) -> None:
        self._app, self._hold, self._told, self._news = from_environment("client_api"), hold, threading.Condition(), 0
        self._router, self._log = router(self._app, "client_api"), os.open(log, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
        if hold:
            threading.Thread(target=self._watch, daemon=True).start()

    def __call__(self, request: Request) -> Response:
        start, get = time.time(), request.method == "GET"
        response = self._router(request) if get or not self._hold else self._held(request)
        assigned = not get and b'"assigned"' in response.get_data()
        os.write(self._log, f"{start} {time.time()} {assigned:d}\n".encode())
        return response

    def _held(self, request: Request) -> Response:
        body, until = request.get_data(), time.monotonic() + HOLD
        while True:
            seen = self._news
            response = self._router(Request({**request.environ, "wsgi.input": BytesIO(body)}))
            message = json.loads(response.get_data())
            if message.get("answer", {}).get("status") != "wait" or time.monotonic() >= until:
                if "retry_after" in message:  # an update's receipt
                    response.set_data(json.dumps({**message, "retry_after": 0.0}))
                return response
            with self._told:
                self._told.wait_for(lambda seen=seen: self._news != seen, until - time.monotonic())

    def _watch(self, last: object = None) -> None:
        while True:
            time.sleep(LOOK)
            task = self._app.platform.tasks.get(names.task_path("bench"))
            last, before = task and task.value.current, last
            for after in (0.0, CACHE) if last != before else ():  # once more, for those that saw the cached round
                time.sleep(after)
                self._app.assignment_issuer.open_rounds._populations.clear()
                with self._told:
                    self._news += 1
                    self._told.notify_all()


_front = cache(lambda: Front(hold=os.environ["BENCH_HOLD"] == "1", log=os.environ["BENCH_LOG"]))


def client_api(request: Request) -> Response:
    return _front()(request)


def _members(url: str, delays: dict[str, float]) -> None:
    zeros = {spec.path: np.zeros(spec.shape, spec.dtype.numpy) for spec in smoke_plan().manifest.update}
    for name, delay in delays.items():
        runtime = SimpleNamespace(work=lambda *_, delay=delay: time.sleep(delay) or zeros)
        client = MusterClient(url, "bench", float, client_id=name, runtime_factory=lambda _, runtime=runtime: runtime)
        threading.Thread(target=client.run, daemon=True).start()
    threading.Event().wait()


def dollars(spans: list[tuple[float, float]], clients: int, *, hold: bool) -> float:
    """Returns the dollars of a million contributions, from a round's requests (start, end)."""
    edges = sorted(edge for start, end in spans for edge in ((start, 1), (end, -1)))
    ticks, count = dict[int, int](), 0
    for (at, step), (after, _) in pairwise(edges):
        count += step
        for tick in range(int(at / TICK), int(after / TICK) + 1) if count else ():
            ticks[tick] = max(ticks.get(tick, 0), math.ceil(count / CONCURRENCY))
    seconds = TICK * sum(ticks.values())
    read = seconds if hold else READS * len({int(start) for start, _ in spans})
    return (seconds * INSTANCE + len(spans) * REQUEST + read * READ) / clients * 1e6


def replay(clients: int, length: float, way: str, service: float) -> list[tuple[float, float]]:
    """Returns the requests of a round of so many seconds, by the rule of pacing."""
    terms = {"goal": clients, "cap": clients, "opened_at": 0.0, "expected_seconds": length}
    round_, spans = Collecting(None, Terms(**{**dict.fromkeys(Terms.__dataclass_fields__), **terms})), []
    for at in (length * (number + 1) / clients for number in range(clients)):
        spans += [(at, at + service)] * 2  # broadcast and update
        while at < length:
            retry = checkin_delay(round_, now=at, floor=WAYS[way][0], jitter=0.5, updates=int(at / length * clients))
            step = min(HOLD, length - at) if way == POLL else retry
            spans.append((at, at + step) if way == POLL else (at + step, at + step + service))
            at += step  # noqa: PLW2901
    return spans


def measure(clients: int, seconds: float, rounds: int, way: str, folder: Path) -> tuple[list[list[float]], float]:
    """Returns figures, each of all rounds, and the median seconds of a request."""
    hold, (floor, cache), log, parts = way == POLL, WAYS[way], folder / "requests", max(2, clients // 50)
    with LocalCoordinator(folder / "data") as coordinator, ReservedPort() as port, ExitStack() as ended:
        settings = {"MUSTER_RETRY_FLOOR": f"{floor}", "MUSTER_ROUND_CACHE_SECONDS": f"{cache}", "BENCH_LOG": str(log)}
        environment = {**os.environ, **settings_of(folder / "data"), **settings, "BENCH_HOLD": f"{hold:d}"}
        command = [
            sys.executable,
            "-m",
            "benchmarks.waiting",
            "--serve",
            f"127.0.0.1:{port.number}",
            str(16 + clients * hold),
        ]
        front = ended.enter_context(subprocess.Popen(command, env=environment))  # noqa: S603
        ended.callback(front.terminate)
        operator, plan = Operator(coordinator.url), smoke_plan()
        operator.put_plan(plan)
        while len(family(front.pid)) < 3:
            time.sleep(0.1)
        late = [(str(number), seconds * (number + 1) / clients) for number in range(clients)]
        for at in range(parts):
            arguments = f"http://127.0.0.1:{port.number}", dict(late[at::parts])
            member = get_context("spawn").Process(target=_members, args=arguments)
            member.start()
            ended.callback(member.kill)
        time.sleep(5)  # until all have checked in
        policy = TaskPolicy(rounds=rounds + 2, goal=clients, minimum=clients)
        with CpuWatch(pid for parent in (*coordinator.pids.values(), front.pid) for pid in family(parent)) as cpu:
            operator.create_task("bench", population="bench", plan=plan.sha256, policy=policy)
            while operator.task("bench").status is not TaskStatus.COMPLETED:
                time.sleep(0.5)
        views = [view for view in operator.rounds("bench") if view.phase is Phase.COMMITTED][1:]
    figures, lines = [], [[float(word) for word in line.split()] for line in log.read_text().splitlines()]
    for opened, closed in pairwise(view.opened_at.timestamp() for view in views):
        assigned = [end - opened for _, end, is_assigned in lines if is_assigned and opened <= end < closed]
        spans = [(max(opened, start), min(closed, end)) for start, end, _ in lines if start < closed and end > opened]
        requests, held = sum(opened <= start < closed for start, *_ in lines), sum(end - start for start, end in spans)
        shares = [each / clients for each in (1000 * cpu.between(opened, closed), requests, held)]
        figures.append([min(assigned), max(assigned), closed - opened, *shares, dollars(spans, clients, hold=hold)])
    return [list(each) for each in zip(*figures, strict=True)], float(
        np.median([end - start for start, end, _ in lines])
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=["2:0:9", "50:0:9", "200:0:9", "50:10:6"])
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        address, threads = options.serve
        serve(lambda: create_app("client_api", __file__, "http"), addresses=[address], workers=2, threads=int(threads))
        return
    console, replayed = Console(soft_wrap=True), [f"{each:g} s: requests | $" for each in LENGTHS]
    console.print("case", "way", "load", *FIGURES, *replayed, sep=" | ")
    for case, way in product(options.cases, WAYS):
        clients, seconds, rounds = map(int, case.split(":"))
        with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
            figures, service = measure(clients, seconds, rounds, way, Path(folder))
        cells = [f"{np.median(each):.3g} ({min(each):.3g}–{max(each):.3g})" for each in figures]
        for spans in (replay(clients, length, way, service) for length in LENGTHS):
            cells += [f"{len(spans) / clients:.1f}", f"{dollars(spans, clients, hold=way == POLL):,.1f}"]
        console.print(case, way, f"{os.getloadavg()[0]:.1f}", *cells, sep=" | ")


if __name__ == "__main__":
    main()
