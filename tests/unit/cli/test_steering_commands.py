"""`muster task` against a coordinator: runs, clones, changes, tags, evaluations and deletion."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import stamina
from support.harness import POPULATION, TASK, Harness
from support.plans import sum_update
from support.served import served
from typer.testing import CliRunner
from werkzeug.wrappers import Request

from muster.cli.app import app
from muster.operator import Operator
from muster.wire.messages import TaskStatus
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.http import router

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _no_waits() -> Iterator[None]:
    stamina.set_testing(True, attempts=1)
    yield
    stamina.set_testing(False)


@pytest.fixture
def h(tmp_path: Path) -> Harness:
    harness = Harness(tmp_path)
    harness.put_plan()
    return harness


@pytest.fixture
def url(h: Harness) -> Iterator[str]:
    with served(Request.application(router(h.app))) as address:
        yield address


def run(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    assert result.exit_code == code, (result.output, result.stderr, result.exception)
    return result


def document(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


def play(h: Harness, *clients: int) -> None:
    h.deliver_all()
    for client in clients:
        h.upload(h.assigned(client).token, sum_update(client))
    h.deliver_all()


@contextmanager
def queue_is_delivered(h: Harness) -> Iterator[None]:
    """Delivers the queue in another thread, as a deployment does."""
    ended = threading.Event()

    def deliver() -> None:
        while not ended.wait(0.01):
            h.deliver_all()

    thread = threading.Thread(target=deliver)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_driven_task_runs_on_request(h: Harness, url: str) -> None:
    run_ = ("task", "run", TASK, "--url", url, "--request", "first")
    created = run(
        *("task", "create", "--name", TASK, "--population", POPULATION, "--plan", h.plan.sha256, "--goal", "2"),
        *("--driven", "--url", url),
    )
    assert f"Next: muster task run {TASK}" in created.output
    h.deliver_all()
    started = document(*run_, "--no-wait")
    assert (started["status"], started["first_round"], started["base"]["version"]) == ("running", 1, 0)
    play(h, 1, 2)
    assert document(*run_)["status"] == "done"
    assert "Run first: done, round 1" in run(*run_).output
    again = document("task", "run", TASK, "--url", url, "--request", "again", "--base", "0", "--no-wait")
    assert (again["first_round"], again["base"]["version"]) == (2, 0)
    refused = run("task", "complete", TASK, "--url", url, code=1)
    assert "can't be completed: its run 'again' is in progress" in refused.stderr
    play(h, 3, 4)
    assert document("task", "complete", TASK, "--url", url)["status"] == "completed"
    listed = document("checkpoint", "list", TASK, "--url", url)
    assert [(item["version"], item.get("parent", {}).get("version"), item["request"]) for item in listed] == [
        (0, None, ""),
        (1, 0, "first"),
        (2, 0, "again"),
    ]
    assert "request again" in run("checkpoint", "list", TASK, "--url", url).output


def test_update_reopens_a_completed_task(h: Harness, url: str) -> None:
    h.create_task(rounds=1, goal=2)
    play(h, 1, 2)
    assert h.task().status is TaskStatus.COMPLETED
    shown = run("task", "update", TASK, "--rounds", "2", "--weight", "3", "--url", url).output
    assert f"{TASK}: opening, 1 of 2 rounds" in shown
    assert h.task().spec.policy.weight == 3
    document("task", "update", TASK, "--default", "weight", "--url", url)
    assert h.task().spec.policy.weight == 1
    play(h, 3, 4)
    assert h.task().line == 2
    assert "name at least one field to change" in run("task", "update", TASK, "--url", url, code=2).stderr


def test_tags_name_versions_for_other_commands(h: Harness, url: str) -> None:
    h.create_task(rounds=3, goal=2)
    play(h, 1, 2)
    play(h, 3, 4)
    assert "tags released=1" in run("task", "tag", TASK, "released", "1", "--url", url).output
    cloned = document("task", "clone", "copy", "--from", f"{TASK}@released", "--goal", "5", "--url", url)
    assert cloned["spec"]["start"] == {"task": TASK, "version": 1, "leaves": []}
    assert (cloned["spec"]["policy"]["goal"], cloned["spec"]["policy"]["rounds"]) == (5, 3)
    h.deliver_all()
    assert h.ask("GET", "/v1/tasks/copy/checkpoints/0") == h.checkpoint(1)
    rolled = run("task", "rollback", TASK, "--version", "released", "--url", url)
    assert TASK in rolled.output
    unknown = run("task", "rollback", TASK, "--version", "unknown", "--url", url, code=2)
    assert f"task {TASK} has no tag 'unknown'; its tags: released" in " ".join(unknown.stderr.split())
    assert "tags" not in run("task", "untag", TASK, "released", "--url", url).output


def test_best_round_is_shown(h: Harness, url: str) -> None:
    h.create_task(rounds=3, goal=1)
    for client in (1, 3, 2):
        play(h, client)
    metric = next(iter(h.committed()[0].metrics))
    best = ("task", "best", TASK, "--metric", metric, "--url", url)
    values = [round_.metrics[metric] for round_ in h.committed()]
    assert document(*best)["metrics"][metric] == min(values)
    assert document(*best, "--higher")["metrics"][metric] == max(values)
    assert "committed" in run(*best).output


def test_archived_task_is_listed_on_request(h: Harness, url: str) -> None:
    h.create_task()
    h.operate("cancel")
    run("task", "archive", TASK, "--url", url)
    assert TASK not in run("task", "list", "--url", url).output
    assert TASK in run("task", "list", "--archived", "--url", url).output
    run("task", "unarchive", TASK, "--url", url)
    assert TASK in run("task", "list", "--url", url).output


def test_delete_waits_until_nothing_is_left(h: Harness, url: str) -> None:
    h.create_task(rounds=1, goal=2)
    play(h, 1, 2)
    assert run("task", "delete", TASK, "--url", url, code=1).exit_code == 1  # no confirmation
    assert h.task().status is TaskStatus.COMPLETED
    with queue_is_delivered(h):
        assert f"Task {TASK} is deleted." in run("task", "delete", TASK, "--yes", "--url", url).output
    with Operator(url) as operator, pytest.raises(ProblemError) as missing:
        operator.task(TASK)
    assert missing.value.type is ProblemType.NOT_FOUND


def test_evaluation_is_created_beside_its_training_task(h: Harness, url: str) -> None:
    h.create_task(rounds=4, goal=2)
    evaluate = ("task", "evaluate", TASK, "--plan", h.plan.sha256, "--leaves", "total", "--goal", "2", "--url", url)
    view = document(*evaluate, "--every", "2", "--select", "split=test", "--share", "0.5")
    spec = view["spec"]
    assert (spec["name"], spec["kind"], spec["selector"]) == (f"{TASK}-evaluation", "evaluate", {"split": "test"})
    assert spec["evaluates"] == {"task": TASK, "every": 2, "leaves": ["total"], "share": 0.5}
    shown = run("task", "show", f"{TASK}-evaluation", "--url", url).output
    assert f"evaluates task {TASK} every 2 rounds, with 50% of the clients" in shown
    assert 'selector {"split": "test"}' in shown


def test_state_is_uploaded_and_started_from(h: Harness, url: str) -> None:
    h.create_task(rounds=1, goal=2)
    play(h, 1, 2)
    with Operator(url) as operator:
        sha256 = operator.put_state(operator.download_checkpoint(TASK, 1), plan=h.plan.sha256)
    created = run(
        *("task", "create", "--name", "next", "--population", POPULATION, "--plan", h.plan.sha256),
        *("--start", sha256, "--url", url),
    )
    assert f"starts from state {sha256[:12]}" in created.output
    h.deliver_all()
    assert h.ask("GET", "/v1/tasks/next/checkpoints/0") == h.checkpoint(1)


def test_populations_show_a_mistyped_name(h: Harness, url: str) -> None:
    h.create_task()
    h.deliver_all()
    h.assigned(1)
    h.ask("POST", "/v1/populations/hopsitals:checkin", body=b"{}")
    h.clock.advance(120)
    h.assigned(1)
    h.ask("POST", "/v1/populations/hopsitals:checkin", body=b"{}")
    shown = run("population", "list", "--url", url).output
    assert "none: check the name" in next(line for line in shown.splitlines() if line.startswith("hopsitals"))
    assert TASK in next(line for line in shown.splitlines() if line.startswith(POPULATION))
