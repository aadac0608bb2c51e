"""`muster client run` as a process: proxies in between, interrupts, endless data."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.scripted_proxy import STATUSES, ScriptedProxy

from muster.local.coordinator import LocalCoordinator
from muster.operator import Operator
from muster.wire.messages import TaskPolicy, TaskStatus
from muster.wire.plan import Plan

PLAN = Path(__file__).parents[1] / "data/endless.plan"
PATIENCE = 60.0  # seconds
FAILURES = 10  # failed assignments whose reports are answered with pages

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="gunicorn does not run there"),
    pytest.mark.xdist_group("client_process"),  # they share a coordinator
]

# Data functions of the clients. Back-off is shortened to a fiftieth. Each assignment fetches the
# plan, so that all scripted answers are used within seconds.
DATA = """
import ctypes, itertools, os, time
from collections import OrderedDict
from pathlib import Path

import muster.client.machine, muster.client.plans

muster.client.machine._MIN_PAUSE = 0.02

class Forgetful(OrderedDict):
    def get(self, *_):
        return None

muster.client.plans.OrderedDict = Forgetful

def mark(text="working"):
    Path(os.environ["MARK"]).write_text(text)

def numbers():
    return [1, 2]

def failing_at_first():
    counted = Path(os.environ["MARK"])
    tries = len(counted.read_text()) if counted.exists() else 0
    counted.write_text("x" * (tries + 1))
    if tries < int(os.environ["FAILURES"]):
        raise FileNotFoundError("patients.csv")
    return [1]

def endless_graph():
    mark()
    return [-1]

def ten_minutes():
    def slow():
        mark()
        for _ in range(600):
            time.sleep(1)
            yield 1
    return slow()

def sleeping():
    mark()
    time.sleep(600)
    return [1]

def native():
    mark()
    ctypes.CDLL(None).sleep(600)
    return [1]

def forking():
    child = os.fork()
    if child == 0:  # as multiprocessing does
        time.sleep(600)
        os._exit(0)
    mark(str(child))
    os.waitpid(child, 0)
    return [1]

def without_end():
    return itertools.repeat(1)
"""


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCoordinator]:
    with LocalCoordinator(tmp_path_factory.mktemp("coordinator"), workers=1) as running:
        yield running


@pytest.fixture(scope="module")
def operator(coordinator: LocalCoordinator) -> Iterator[Operator]:
    with Operator(coordinator.url) as operator:
        yield operator


class Client:
    """Process of `muster client run --json`, whose events are read in a thread."""

    def __init__(self, folder: Path, url: str, population: str, data: str, *options: str, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        file, self.mark = folder / "data_of_test.py", folder / "mark"
        file.write_text(DATA)
        self.errors = folder / "errors"
        command = [sys.executable, "-m", "muster.cli", "client", "run", "--json", "--url", url]
        command += ["--population", population, "--data", f"{file}:{data}", "--client-id", "one", *options]
        with self.errors.open("w") as errors:
            self.popen = subprocess.Popen(  # noqa: S603
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "MARK": str(self.mark), **environment},
            )
        self.events: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.events.append(json.loads(line))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in list(self.events) if event["event"] == kind]

    def wait(self, seconds: float = PATIENCE) -> int:
        code = self.popen.wait(seconds)
        self._reader.join(PATIENCE)
        return code

    def output(self) -> str:
        return f"{self.errors.read_text()}\n" + "\n".join(map(str, self.events[-20:]))


@contextmanager
def client(*arguments: Any, **more: str) -> Iterator[Client]:
    process = Client(*arguments, **more)
    try:
        yield process
    except BaseException as error:
        error.add_note(process.output())
        raise
    finally:
        process.popen.kill()
        process.popen.wait()


def open_task(operator: Operator, name: str, **policy: Any) -> None:
    operator.create_task(
        name,
        population=name,
        plan=Plan.load(PLAN),
        policy=TaskPolicy(**{"rounds": 1, "goal": 1, **policy}),
    )
    until(lambda: operator.task(name).status is TaskStatus.ACTIVE)


def until(condition: Callable[[], Any], output: Callable[[], str] = lambda: "") -> None:
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.05)):
        if condition():
            return
        pause.wait(0.05)
    pytest.fail(f"The condition was not met within {PATIENCE:.0f} s\n{output()}")


def test_web_pages_as_answers_end_no_client(
    coordinator: LocalCoordinator, operator: Operator, tmp_path: Path, measured: Callable[[str], None]
) -> None:
    open_task(operator, "pages", rounds=len(STATUSES))
    # A client that gave its assignment back waits for the round's next attempt.
    open_task(operator, "failing", round_seconds=1.0)
    started = time.monotonic()
    with ScriptedProxy(coordinator.url) as healthy, ScriptedProxy(coordinator.url) as failing:
        for kind in ("checkin", "plan", "broadcast", "upload"):
            healthy.plan(kind, STATUSES)
        failing.script["report"].extend(STATUSES)  # some are retried at once, others follow the next assignment
        with (
            client(tmp_path / "a", healthy.url, "pages", "numbers", "--rounds", str(len(STATUSES))) as contributing,
            client(
                tmp_path / "b", failing.url, "failing", "failing_at_first", "--rounds", "1", FAILURES=str(FAILURES)
            ) as reporting,
        ):
            codes = [process.wait(2 * PATIENCE) for process in (contributing, reporting)]
            output = contributing.output() + reporting.output()
        unused = {**healthy.unused(), **failing.unused()}
    assert codes == [0, 0], output
    assert unused == {}
    assert contributing.of("Summary")[0]["contributed"] == len(STATUSES)
    until(lambda: operator.task("pages").status is TaskStatus.COMPLETED)
    assert len(reporting.of("Failed")) == FAILURES
    assert {event["reason"] for event in reporting.of("Failed")} == {"data"}
    details = [event["detail"] for event in contributing.of("Unreached")]
    assert any("refuses bodies of" in detail for detail in details)
    measured(
        f"a client behind pages of {len(STATUSES)} statuses at 5 kinds of requests: {time.monotonic() - started:.1f} s"
    )


CASES = {
    "endless_graph": signal.SIGINT,
    "ten_minutes": signal.SIGTERM,
    "sleeping": signal.SIGINT,
    "native": signal.SIGTERM,
}


def test_signal_ends_a_client_at_once_and_frees_its_slot(
    coordinator: LocalCoordinator, operator: Operator, tmp_path: Path, measured: Callable[[str], None]
) -> None:
    took = {}
    for data, number in CASES.items():
        population = data.replace("_", "-")
        open_task(operator, population)
        with client(tmp_path / data, coordinator.url, population, data) as process:
            until(process.mark.exists, process.output)
            sent = time.monotonic()
            process.popen.send_signal(number)
            assert process.wait() == 130, process.output()
            took[data] = time.monotonic() - sent
        assert operator.task(population).current.failed == {"owner.cancelled": 1}, data  # type: ignore[union-attr]
    figures = ", ".join(f"{data} {CASES[data].name} {seconds:.2f} s" for data, seconds in took.items())
    measured(f"from a signal to the end of `muster client run`: {figures}")


def test_children_of_a_data_callback_handle_signals_as_usual(
    coordinator: LocalCoordinator, operator: Operator, tmp_path: Path
) -> None:
    open_task(operator, "forking")
    with client(tmp_path, coordinator.url, "forking", "forking", "--rounds", "1") as process:
        until(lambda: process.mark.exists() and process.mark.read_text(), process.output)
        os.kill(int(process.mark.read_text()), signal.SIGTERM)
        assert process.wait() == 0, process.output()  # the child's signal does not end the client
    assert len(process.of("Contributed")) == 1


def test_endless_data_ends_with_the_assignment(
    coordinator: LocalCoordinator, operator: Operator, tmp_path: Path
) -> None:
    open_task(operator, "without-end", assignment_seconds=3.0, round_seconds=6.0, rounds=3)
    with client(tmp_path, coordinator.url, "without-end", "without_end") as process:
        until(lambda: len(process.of("Failed")) == 2, process.output)  # the client continues
        process.popen.send_signal(signal.SIGTERM)
        assert process.wait() == 130
    assert {event["reason"] for event in process.of("Failed")} == {"cancelled"}
    assert "The work took longer than its assignment" in process.of("Failed")[0]["detail"]
