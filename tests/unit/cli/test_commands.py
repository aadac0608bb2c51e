"""Commands: help, exit codes, errors, and the life cycle of a task."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stamina
import typer
from support.harness import Harness
from support.plans import every_dtype_plan, sum_plan, sum_update
from typer.testing import CliRunner
from werkzeug.serving import make_server
from werkzeug.wrappers import Request

from muster import __version__
from muster.cli.app import app
from muster.cli.plan.build import release_of
from muster.wire.manifest import Release
from muster_coordinator.http import router

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _no_waits() -> Iterator[None]:
    stamina.set_testing(True, attempts=1)
    yield
    stamina.set_testing(False)


def run(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, (result.output, result.stderr, result.exception)
    return result


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return Harness(tmp_path)


@pytest.fixture
def url(harness: Harness) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, Request.application(router(harness.app)), threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def plan_file(tmp_path: Path) -> str:
    sum_plan().save(tmp_path / "sum.plan")
    return str(tmp_path / "sum.plan")


@pytest.mark.parametrize(
    "command",
    [
        "",
        "up",
        "simulate",
        "smoke",
        "bundle",
        *(f"plan {name}" for name in ("", "build", "show", "check")),
        *(f"task {name}" for name in ("", "create", "list", "show", "watch", "pause", "resume", "cancel", "rollback")),
        "client",
        "client run",
    ],
)
def test_every_command_has_help(command: str) -> None:
    assert "Usage" in run(*command.split(), "--help").output


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from muster.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'tensorflow', 'tensorflow_federated', 'numpy', 'requests', 'pydantic'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=300)  # noqa: S603


def test_version() -> None:
    assert run("--version").output.strip() == f"muster {__version__}"


@pytest.mark.parametrize("arguments", [["nonsense"], ["task", "show"], ["task", "create", "--goal", "many"]])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    run(*arguments, code=2)


def test_unreachable_coordinator_exits_with_3_and_a_fix() -> None:
    result = run("task", "list", "--url", NOWHERE, code=3)
    assert f"Can't reach the coordinator at {NOWHERE}: Connection refused" in result.stderr
    assert "muster up" in result.stderr
    assert "Traceback" not in result.stderr


def test_url_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_URL", NOWHERE)
    assert NOWHERE in run("task", "show", "t", code=3).stderr


def test_ctrl_c_exits_with_130(monkeypatch: pytest.MonkeyPatch, plan_file: str) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("muster.wire.plan.Plan.load", interrupted)
    run("plan", "show", plan_file, code=130)


def test_error_in_user_code_has_its_file_and_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wrong.py").write_text("x = 1\nx.y\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    result = run("client", "run", "--population", "p", "--data", f"{tmp_path}/wrong.py:data", code=1)
    assert "AttributeError: 'int' object has no attribute 'y'" in result.stderr
    assert f"at {tmp_path}/wrong.py:2: x.y" in result.stderr
    assert "Traceback" not in result.stderr


def test_muster_debug_prints_the_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MUSTER_DEBUG", "1")
    (tmp_path / "wrong2.py").write_text("1 / 0\n")
    result = CliRunner().invoke(app, ["client", "run", "--population", "p", "--data", f"{tmp_path}/wrong2.py:data"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_plan_show_lists_uploads_and_folds(plan_file: str) -> None:
    text = run("plan", "show", plan_file).output
    assert "What leaves a device: 28 B" in text
    assert "The fold uses numpy only" in text
    assert "CLEAR" not in text


def test_plan_show_warns_of_sums_in_the_clear(tmp_path: Path) -> None:
    every_dtype_plan().save(tmp_path / "clear.plan")
    assert "SUMS IN THE CLEAR" in run("plan", "show", str(tmp_path / "clear.plan")).output


def test_plan_show_writes_the_manifest_as_json(plan_file: str) -> None:
    document = json.loads(run("plan", "show", plan_file, "--json").output)
    assert document["plan"] == sum_plan().sha256
    assert document["manifest"]["name"] == "client_ids"


def test_plan_show_refuses_another_file(tmp_path: Path) -> None:
    (tmp_path / "x.plan").write_text("hello")
    assert "The file is not a plan" in run("plan", "show", str(tmp_path / "x.plan"), code=1).stderr


def test_task_life_cycle(url: str, harness: Harness, plan_file: str) -> None:
    policy = ["--rounds", "1", "--goal", "1", "--let-single-updates-out", "--starts-at", "2020-01-01"]
    made = run("task", "create", "--plan", plan_file, "--population", "phones", "--url", url, *policy, "--json")
    assert json.loads(made.output)["spec"]["name"] == "client_ids"
    assert "client_ids" in run("task", "list", "--url", url).output
    harness.deliver_all()
    paused = run("task", "pause", "client_ids", "--url", url, "--json")
    assert json.loads(paused.output)["status"] == "paused"
    run("task", "resume", "client_ids", "--url", url)
    harness.upload(harness.assigned(1).token, sum_update(1))
    harness.settle()
    lines = [
        json.loads(line) for line in run("task", "watch", "client_ids", "--url", url, "--json").output.splitlines()
    ]
    assert [(line["round"], line["phase"], line["folded"]) for line in lines] == [(1, "COMMITTED", 1)]
    assert "1/1 rounds, completed" in run("task", "watch", "client_ids", "--url", url).output
    run("task", "rollback", "client_ids", "--version", "9", "--url", url, code=1)


def test_watching_a_cancelled_task_exits_with_1(url: str, harness: Harness, plan_file: str) -> None:
    run("task", "create", "--plan", plan_file, "--population", "phones", "--name", "t", "--url", url)
    harness.deliver_all()
    run("task", "cancel", "t", "--url", url)
    run("task", "watch", "t", "--url", url, code=1)


def test_inconsistent_policy_is_refused_before_any_request() -> None:
    bounds = ["--goal", "2", "--minimum", "3"]
    result = run("task", "create", "--plan", "x", "--population", "p", *bounds, "--url", NOWHERE, code=1)
    assert "minimum (3) is above goal (2)" in result.stderr


def test_missing_plan_file_is_wrong_usage() -> None:
    assert "There is no plan file x" in run("task", "create", "--plan", "x", "--population", "p", code=2).stderr


def test_error_names_the_unknown_task(url: str) -> None:
    assert "missing-task" in run("task", "show", "missing-task", "--url", url, code=1).stderr


SOME = ("task", "create", "--population", "phones", "--plan")


@pytest.mark.parametrize("policy", [["--goal", "4", "--minimum", "1"], ["--goal", "1"]], ids=["minimum", "goal"])
def test_minimum_of_one_needs_let_single_updates_out(url: str, plan_file: str, policy: list[str]) -> None:
    result = run(*SOME, plan_file, "--url", url, *policy, code=2)
    output = " ".join(re.sub(r"[^\w\s.;,'-]", " ", result.stderr).split())
    assert "a result of one update is that client's update" in output
    assert "--let-single-updates-out" in output
    assert "There are no tasks" in run("task", "list", "--url", url).output


def test_minimum_of_one_is_warned_of_everywhere(url: str, harness: Harness, plan_file: str) -> None:
    policy = ["--goal", "2", "--minimum", "1", "--let-single-updates-out", "--name", "t", "--rounds", "1"]
    warning = "MINIMUM 1: a round's result may be the update of a single client."
    assert warning in run(*SOME, plan_file, "--url", url, *policy).output
    assert warning in run("task", "show", "t", "--url", url).output
    run(*SOME, plan_file, "--url", url, "--name", "u", "--goal", "2")
    assert warning not in run("task", "show", "u", "--url", url).output
    harness.deliver_all()
    run("task", "cancel", "t", "--url", url)
    assert warning in run("task", "watch", "t", "--url", url, code=1).output


def test_task_create_prints_the_clients_that_a_round_needs(url: str, plan_file: str) -> None:
    create = [*SOME, plan_file, "--url", url, "--name"]
    by_default = run(*create, "a").output
    assert (
        "A round needs 10 clients (goal, the default: --goal sets it); with fewer after 600 s it is tried again."
        in by_default
    )
    given = run(*create, "b", "--goal", "3", "--round-seconds", "90").output
    assert "A round needs 3 clients (goal); with fewer after 90 s it is tried again." in given
    less = run(*create, "c", "--goal", "5", "--minimum", "2").output
    assert "A round needs 5 clients (goal); after 600 s 2 are enough (minimum); with fewer it is tried again." in less


def test_small_round_shows_its_count_only_after_its_end(url: str, harness: Harness, plan_file: str) -> None:
    run(*SOME, plan_file, "--url", url, "--name", "t", "--goal", "2", "--rounds", "1")
    harness.deliver_all()
    tokens = [
        harness.ask("POST", "/v1/populations/phones:checkin", body=json.dumps({"client": str(client)}).encode())
        for client in range(2)
    ]
    answers = [json.loads(answer)["answer"]["token"] for answer in tokens]
    harness.upload(answers[0], sum_update(0))
    shown = " ".join(run("task", "show", "t", "--url", url).output.split())
    assert "COLLECTING: goal of 2 updates (counted when the round has ended); 2 assignments" in shown
    harness.upload(answers[1], sum_update(1))
    harness.settle()
    assert "round 1 committed: 2 updates" in run("task", "show", "t", "--url", url).output


def test_each_option_of_the_floor_is_independent() -> None:
    none = {"minimum": None, "max_rounds": None, "separation_seconds": None}
    assert release_of(**none) is None
    assert release_of(**{**none, "minimum": 20}) == Release(minimum=20)
    assert release_of(**{**none, "max_rounds": 5}) == Release(minimum=1, max_rounds=5)
    assert release_of(**{**none, "separation_seconds": 0.0}) == Release(minimum=1, separation_seconds=0.0)
    with pytest.raises(typer.BadParameter, match="finite"):
        release_of(**{**none, "separation_seconds": float("inf")})
    assert "cover it" in " ".join(run("plan", "build", "--help").output.replace("│", " ").split())
