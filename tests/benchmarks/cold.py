"""Duration of a cold start: `python -m benchmarks.cold`.

Each function is started in a new process by functions-framework and measured from the process's
start to its first response; the application is built by the first request. The yardsticks are a
function of one line and a Python that does nothing. The committer's first commit, which loads
TensorFlow, is that of a round of two clients. All of this is on a warm disk; in the cloud Google's
libraries are loaded too.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from support.harness import Harness

from benchmarks.processes import family
from muster.load.run import ones
from muster.local.reserved_port import ReservedPort
from muster.local.settings import settings_of
from muster.smoke import smoke_plan

ROOT = Path(__file__).resolve().parents[2]
HELLO = "a function that says hello"
_HELLO = """
import functions_framework

@functions_framework.http
def hello(request):
    return "hello"
"""
_TIMEOUT = 60.0  # seconds for a response
_POLL = 0.001  # seconds between polls of whether a port is open


@dataclass(frozen=True)
class Request:
    """First request to a function, and whether its response may load TensorFlow."""

    function: str
    method: str
    path: str
    body: Any = None
    heavy: bool = False


ANSWERS = {
    HELLO: Request("hello", "GET", "/"),
    "client_api, GET /health": Request("client_api", "GET", "/health"),
    "client_api, a check-in": Request("client_api", "POST", "/v1/populations/bench:checkin", {"client": "first"}),
    "operator_api, GET /health": Request("operator_api", "GET", "/health"),
    "operator_api, the list of tasks": Request("operator_api", "GET", "/v1/tasks"),
    "aggregator, GET /health": Request("aggregator", "GET", "/health"),
    "aggregator, a tick": Request("aggregator", "POST", "/internal/tick"),
    "committer, GET /health": Request("committer", "GET", "/health"),
}
COMMIT = "committer, a commit"
PROGRAMS = {
    "python, nothing": "pass",
    "import muster.client": "import muster.client",
    "import muster.cli": "import muster.cli",
    "import muster.operator": "import muster.operator",
    "import tensorflow": "import tensorflow",
}


def before_commit(folder: Path) -> Any:
    """Creates a coordinator's folder with a folded round; returns the payload of its commit."""
    from muster.runtime import Runtime  # loads TensorFlow

    plan = smoke_plan()
    h = Harness(folder, plan=plan, runtime=Runtime(plan), durable=True, start=time.time())
    h.begin(rounds=3, goal=2, minimum=1, over_selection=1.0)
    for client in range(2):
        h.upload(h.assigned(client).token, ones(plan))
    while (held := min(h.queue.held, key=lambda held: held.due)).work.kind != "commit":
        h.deliver(held)
    return dict(held.work.payload)


def answer_seconds(request: Request, folder: Path) -> float:
    """Returns seconds from the start of a function's process to its first response."""
    source = ROOT / "functions" / request.function / "main.py"
    if request.function == "hello":
        source = folder / "hello.py"
        source.write_text(_HELLO)
    with ReservedPort() as port, (folder / "log").open("wb") as log:
        arguments = ["--target", request.function, "--source", str(source), "--signature-type", "http"]
        place = ["--host", "127.0.0.1", "--port", str(port.number)]
        command = [sys.executable, "-m", "functions_framework", *arguments, *place]
        environment = {**os.environ, **_environment(), **settings_of(folder)}
        start = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)  # noqa: S603  our own
        try:
            status = _ask(request, port.number, process)
            took = time.perf_counter() - start
            if not 200 <= status < 300:
                raise SystemExit(f"{request} was answered {status}: {(folder / 'log').read_text()[-2000:]}")
            if not request.heavy and any(
                "tensorflow" in Path(f"/proc/{pid}/maps").read_text() for pid in family(process.pid)
            ):
                raise SystemExit(f"{request.function} loads TensorFlow for {request.path}")
        finally:
            process.terminate()
            process.wait()
    return took


def _ask(request: Request, port: int, process: subprocess.Popen[bytes]) -> int:
    until, pause = time.monotonic() + _TIMEOUT, threading.Event()
    while process.poll() is None and time.monotonic() < until:
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT)
        try:
            line.connect()
        except ConnectionRefusedError:
            pause.wait(_POLL)
            continue
        body = None if request.body is None else json.dumps(request.body)
        line.request(request.method, request.path, body, {"Content-Type": "application/json"})
        answer = line.getresponse()
        answer.read()
        line.close()
        return answer.status
    raise SystemExit(f"{request.function} does not listen (code {process.poll()})")


def program_seconds(code: str) -> float:
    """Returns seconds from a Python's start to its end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env={**os.environ, **_environment()})  # noqa: S603  our own
    return time.perf_counter() - start


def _environment() -> dict[str, str]:
    return {"TF_CPP_MIN_LOG_LEVEL": "3"}


def measure(*, repeats: int) -> dict[str, list[float]]:
    """Returns seconds by started program, measured alternately; the first pass warms the disk."""
    seconds_of: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as root:
        ready = Path(root) / "ready"
        ready.mkdir()
        commit = Request("committer", "POST", "/internal/commit", before_commit(ready), heavy=True)

        def answer(request: Request) -> float:
            with tempfile.TemporaryDirectory(dir=root) as folder:
                place = Path(folder) / "data"
                shutil.copytree(ready, place) if request is commit else place.mkdir()
                return answer_seconds(request, place)

        steps: dict[str, Callable[[], float]] = {
            **{name: lambda code=code: program_seconds(code) for name, code in PROGRAMS.items()},
            **{name: lambda request=request: answer(request) for name, request in {**ANSWERS, COMMIT: commit}.items()},
        }
        for repeat in range(repeats + 1):
            for name, step in steps.items():
                seconds = step()
                seconds_of.setdefault(name, []).extend([seconds] if repeat else [])
    return seconds_of


def main() -> None:
    """Measures all programs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    table = Table("", "median s", "min", "max")
    for name, seconds in measure(repeats=parser.parse_args().repeats).items():
        table.add_row(name, *(f"{each:.3f}" for each in (statistics.median(seconds), min(seconds), max(seconds))))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
