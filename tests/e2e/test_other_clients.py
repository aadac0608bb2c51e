"""Clients of `examples/clients` in other languages, each in a round with an exact result."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from support.served import Loopback

from muster.local.coordinator import LocalCoordinator
from muster.operator import Operator
from muster.wire.messages import TaskPolicy, TaskStatus
from muster.wire.plan import Plan
from muster.wire.tensors import decode

EXAMPLES = Path(__file__).parents[2] / "examples/clients"
PLAN, OTHER = EXAMPLES / "histogram.plan", EXAMPLES.parents[1] / "tests/data/mean.plan"
SHELL = EXAMPLES / "curl/contribute.sh"
MODULE = EXAMPLES / "javascript/muster.mjs"
# Edges of bins, values outside, fractions and signs, and the expected count of each bin.
NUMBERS = ("-5", "0", "9.5", "10", "19.99", "42", "42.5", "5e1", "99.999", "100", "+1234.5")
HISTOGRAM = [3, 2, 0, 0, 2, 1, 0, 0, 0, 3]
PATIENCE = 240.0  # seconds
# No background requests of Chromium; its sandbox does not work in containers.
CHROMIUM = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--no-proxy-server",
]

pytestmark = pytest.mark.xdist_group("other_clients")


class Pages(Loopback):
    """Serves the pages, from an origin that is not the coordinator's."""

    def __init__(self) -> None:
        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

        folder = str(EXAMPLES / "javascript")
        super().__init__(ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)))


@pytest.fixture(scope="module")
def pages() -> Iterator[Pages]:
    with Pages() as pages:
        yield pages


@pytest.fixture(scope="module")
def coordinator(pages: Pages, tmp_path_factory: Any) -> Iterator[LocalCoordinator]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MUSTER_CORS_ORIGINS", pages.url)
        with LocalCoordinator(tmp_path_factory.mktemp("coordinator"), workers=1) as running:
            yield running


@pytest.fixture
def opened(coordinator: LocalCoordinator) -> Iterator[Callable[..., str]]:
    """Creates a task with one round of one client, and returns its population when open."""
    with Operator(coordinator.url) as operator:

        def make(name: str, plan: Path = PLAN) -> str:
            policy = TaskPolicy(rounds=1, goal=1)
            operator.create_task(name, population=name, plan=Plan.load(plan), policy=policy)
            until(lambda: operator.task(name).status is TaskStatus.ACTIVE)
            return name

        yield make


def until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.1)):
        if condition():
            return
        pause.wait(0.1)
    pytest.fail(f"The condition was not met within {PATIENCE:.0f} s")


def result(coordinator: LocalCoordinator, task: str) -> list[int]:
    with Operator(coordinator.url) as operator:
        until(lambda: operator.task(task).status is TaskStatus.COMPLETED)
        (round_,) = operator.rounds(task)
        assert (round_.folded, round_.dropped) == (1, {})
        counts: list[int] = decode(operator.result_bytes(task, 1))["counts"].tolist()
    return counts


def run(*command: str | Path, code: int = 0, lines: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(  # noqa: S603
        list(map(str, command)),
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={
            **os.environ,
            "no_proxy": "127.0.0.1",
            "NO_PROXY": "127.0.0.1",
        },  # curl and browsers use proxies on loopback
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done


def needed(*names: str) -> str:
    """Returns the path of the first installed program of `names`, or skips the test."""
    for name in names:
        if path := shutil.which(name):
            return path
    pytest.skip(f"{names[0]} is not installed")


@pytest.fixture
def curl() -> None:
    for name in ("sh", "curl", "awk"):
        needed(name)


@pytest.fixture
def node() -> str:
    path = needed("node")
    version = run(path, "--version").stdout
    if int(version.lstrip("v").partition(".")[0]) < 18:
        pytest.skip(f"node {version.strip()} has no fetch; node 18 has it")
    return path


@pytest.mark.usefixtures("curl")
def test_shell_client_completes_a_round(coordinator: LocalCoordinator, opened: Callable[..., str]) -> None:
    task = opened("shell")
    done = run("sh", SHELL, coordinator.url, task, "device-1", lines=NUMBERS)
    assert json.loads(done.stdout)["status"] == "accepted"
    assert result(coordinator, task) == HISTOGRAM


@pytest.mark.usefixtures("curl")
def test_shell_client_rejects_another_plan(coordinator: LocalCoordinator, opened: Callable[..., str]) -> None:
    task = opened("shell-other", OTHER)
    assert "has another plan than" in run("sh", SHELL, coordinator.url, task, "d", lines=("1",), code=1).stderr
    assert failures(coordinator, task) == {"plan_refused": 1}


def test_shell_client_has_the_address_of_the_plan_beside_it() -> None:
    assert f"plan={Plan.load(PLAN).sha256} " in SHELL.read_text()


@pytest.mark.usefixtures("curl")
def test_shell_client_refuses_non_numbers() -> None:
    assert (
        "not a number: twelve" in run("sh", SHELL, "http://127.0.0.1:9", "p", "c", lines=("1", "twelve"), code=1).stderr
    )


def test_node_client_completes_a_round(coordinator: LocalCoordinator, opened: Callable[..., str], node: str) -> None:
    task = opened("node")
    done = run(node, MODULE, coordinator.url, task, "device-1", *NUMBERS)
    assert json.loads(done.stdout)["status"] == "accepted"
    assert result(coordinator, task) == HISTOGRAM


def test_node_client_rejects_another_plan(coordinator: LocalCoordinator, opened: Callable[..., str], node: str) -> None:
    task = opened("node-other", OTHER)
    assert "wants something else" in run(node, MODULE, coordinator.url, task, "d", "1", code=1).stderr
    assert failures(coordinator, task) == {"plan_refused": 1}


def test_node_client_refuses_a_plan_with_a_changed_byte(node: str, tmp_path: Path) -> None:
    plan = PLAN.read_bytes()
    changed = plan.replace(b'"histogram"', b'"histogran"')
    assert changed != plan
    (tmp_path / "changed.plan").write_bytes(changed)
    script = f"""
        import {{ readFileSync }} from "node:fs";
        import {{ checkPlan }} from {json.dumps(MODULE.as_uri())};
        const address = {json.dumps(Plan.load(PLAN).sha256)};
        console.log(await checkPlan(readFileSync({json.dumps(str(PLAN))}), address));
        await checkPlan(readFileSync("changed.plan"), address).catch((error) => console.log(error.message));
    """
    (tmp_path / "check.mjs").write_text(script)
    done = subprocess.run(  # noqa: S603
        [node, "check.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert done.stdout.splitlines() == ["0/counts", "The plan is not the one that was assigned"]


def browse(profile: Path, address: str) -> str:
    """Returns the outcome that the page at `address` shows when it is done."""
    chromium = needed("chromium", "chromium-browser", "google-chrome", "chrome")
    # Virtual time of the page advances while the page only waits, so the budget causes no delay.
    done = run(chromium, *CHROMIUM, f"--user-data-dir={profile}", "--virtual-time-budget=60000", "--dump-dom", address)
    found = re.search(r'<output id="outcome">(.*?)</output>', done.stdout, re.DOTALL)
    assert found, (done.stdout, done.stderr)
    return html.unescape(found[1])


def query(coordinator: LocalCoordinator, task: str) -> str:
    fields = {"url": coordinator.url, "population": task, "client": "device-1", "numbers": ",".join(NUMBERS), "now": ""}
    return urlencode(fields)


def test_page_of_an_allowed_origin_completes_a_round(
    coordinator: LocalCoordinator, opened: Callable[..., str], pages: Pages, tmp_path: Path
) -> None:
    task = opened("page")
    outcome = browse(tmp_path, f"{pages.url}/page.html?{query(coordinator, task)}")
    assert json.loads(outcome)["status"] == "accepted", outcome
    assert result(coordinator, task) == HISTOGRAM


def test_browser_blocks_a_page_of_another_origin(
    coordinator: LocalCoordinator, opened: Callable[..., str], tmp_path: Path
) -> None:
    task = opened("stranger")
    with Pages() as others:
        assert browse(tmp_path, f"{others.url}/page.html?{query(coordinator, task)}") == "Error: Failed to fetch"
    with Operator(coordinator.url) as operator:
        (round_,) = operator.rounds(task)
    assert (round_.assigned, round_.reported) == (0, None)  # a small round publishes its count when it has ended


def failures(coordinator: LocalCoordinator, task: str) -> dict[str, int]:
    with Operator(coordinator.url) as operator:
        (round_,) = operator.rounds(task)
    return round_.failed
