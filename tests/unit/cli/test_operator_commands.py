"""`muster key`, `muster audit` and `--token`, with a coordinator that authenticates operators."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import termios
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.harness import Harness
from support.plans import sum_plan
from support.served import served
from typer.testing import CliRunner
from werkzeug.wrappers import Request, Response

from muster.cli.app import app
from muster.interpreter import command_for
from muster.operator import Operator
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.adapters.operator_authenticators import parse_operators
from muster_coordinator.domain.operators import Role
from muster_coordinator.http import router


def run(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    assert result.exit_code == code, (result.output, result.stderr, result.exception)
    return result


def created_key(name: str, role: str) -> dict[str, str]:
    key: dict[str, str] = json.loads(run("key", "operator", "--name", name, "--role", role, "--json").stdout)
    return key


@pytest.fixture(scope="module")
def keys() -> dict[str, dict[str, str]]:
    return {"alice": created_key("alice", "operator"), "bob": created_key("bob", "viewer")}


@pytest.fixture
def url(tmp_path: Path, keys: dict[str, dict[str, str]]) -> Iterator[str]:
    value = "keys:" + ",".join(key["entry"] for key in keys.values())
    application = replace(Harness(tmp_path).app, operators=parse_operators(value))
    with served(Request.application(router(application))) as address:
        yield address


def test_printed_setting_accepts_the_printed_key() -> None:
    text = run("key", "operator", "--name", "alice", "--role", "viewer").stdout
    key = next(line.strip() for line in text.splitlines() if line.startswith("  muster-operator-"))
    value = text.partition("MUSTER_OPERATORS=")[2].strip()
    assert key not in value
    operator = parse_operators(value).identify(key)
    assert (operator.name, operator.role) == ("alice", Role.VIEWER)


def test_keys_are_unique() -> None:
    assert created_key("a", "viewer")["key"] != created_key("a", "viewer")["key"]


@pytest.mark.parametrize("name", ["", "a:b", "a,b", "-a", "a" * 65])
def test_invalid_operator_name_is_refused(name: str) -> None:
    run("key", "operator", "--name", name, code=2)


def test_operator_token_is_an_option_or_an_environment_variable(
    url: str, keys: dict[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = str(tmp_path / "sum.plan")
    sum_plan().save(plan)
    create = ("task", "create", "--plan", plan, "--population", "phones", "--name", "sum", "--url", url)
    assert "MUSTER_OPERATOR_TOKEN" in run(*create, code=1).stderr
    run(*create, "--token", keys["alice"]["key"])
    monkeypatch.setenv("MUSTER_OPERATOR_TOKEN", keys["bob"]["key"])
    assert "sum" in run("task", "list", "--url", url).stdout
    assert "[forbidden]" in run("task", "cancel", "sum", "--url", url, code=1).stderr
    shown = run("audit", "--url", url).stdout
    assert [line.split()[2:6] for line in shown.splitlines()[1:]] == [
        ["alice", "plan.store", sum_plan().sha256[:12], "done"],
        ["alice", "task.create", "sum", "done"],
        ["bob", "task.cancel", "sum", "refused:"],
    ]
    entries = [
        json.loads(line) for line in run("audit", "--subject", "sum", "--url", url, "--json").stdout.splitlines()
    ]
    assert [(entry["who"], entry["result"]) for entry in entries] == [("alice", "done"), ("bob", "refused")]
    assert run("audit", "--who", "mallory", "--url", url).stdout == "There are no entries.\n"


def test_operator_reads_the_audit_log_page_by_page(url: str, keys: dict[str, dict[str, str]]) -> None:
    with Operator(url, token=keys["alice"]["key"]) as operator:
        for _ in range(5):
            with pytest.raises(ProblemError):
                operator.pause("nothing")
        log = list(operator.audit(page=2))
        assert [entry.problem for entry in log] == ["not_found"] * 5
        assert list(operator.audit(since=log[0].at)) == log
    with Operator(url, token=f"{keys['alice']['key']}x") as stranger, pytest.raises(ProblemError) as refused:
        stranger.tasks()
    assert refused.value.type is ProblemType.UNAUTHENTICATED


@pytest.mark.parametrize(("token", "sent"), [("a.b.c", "Bearer a.b.c"), ("muster-operator-x", None)])
def test_only_a_json_web_token_is_sent_to_cloud_run(token: str, sent: str | None) -> None:
    seen: list[Request] = []

    def answer(request: Request) -> Any:
        seen.append(request)
        return Response('{"tasks": []}', content_type="application/json")

    with served(Request.application(answer)) as address, Operator(address, token=token) as operator:
        assert operator.tasks().tasks == ()
    assert seen[0].headers["Authorization"] == f"Bearer {token}"
    assert seen[0].headers.get("X-Serverless-Authorization") == sent


def test_task_list_names_unreadable_tasks() -> None:
    application = Request.application(
        lambda _: Response('{"tasks": [], "unreadable": ["later"]}', content_type="application/json")
    )
    with served(application) as address:
        shown = run("task", "list", "--url", address)
        assert "Not shown: later" in shown.stderr
        assert run("task", "list", "--url", address, "--json").stdout == "[]\n"


def on_a_terminal(*arguments: str, columns: int) -> list[str]:
    """Runs a command on a pseudo-terminal of `columns` columns and returns its lines."""
    lead, follow = pty.openpty()
    termios.tcsetwinsize(follow, (40, columns))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(  # noqa: S603  our own command
        command_for("muster.cli", *arguments),
        stdin=follow,
        stdout=follow,
        stderr=follow,
        env={**environment, "TERM": "dumb"},
    )
    os.close(follow)
    written = b""
    with suppress(OSError):  # Linux fails to read a terminal that no process has open
        while piece := os.read(lead, 1 << 16):
            written += piece
    os.close(lead)
    assert process.wait(timeout=60) == 0, written
    return written.decode().replace("\r\n", "\n").splitlines()


def test_audit_fits_80_columns_and_breaks_no_word(url: str, keys: dict[str, dict[str, str]], tmp_path: Path) -> None:
    plan = str(tmp_path / "sum.plan")
    sum_plan().save(plan)
    token = ("--token", keys["alice"]["key"])
    run("task", "create", "--plan", plan, "--population", "phones", "--name", "sum", "--url", url, *token)
    run("task", "cancel", "sum", "--url", url, *token)
    lines = on_a_terminal("audit", "--url", url, *token, columns=80)
    assert max(map(len, lines)) <= 80
    assert [line.split()[2:5] for line in lines if not line.startswith(" ")] == [
        ["alice", "plan.store", sum_plan().sha256[:12]],
        ["alice", "task.create", "sum"],
        ["alice", "task.cancel", "sum"],
    ]
    assert any("status: opening → cancelled" in line for line in lines)


def test_audit_without_a_terminal_is_one_line_per_entry(url: str, keys: dict[str, dict[str, str]]) -> None:
    with Operator(url, token=keys["alice"]["key"]) as operator, pytest.raises(ProblemError):
        operator.pause("a-task-whose-name-is-wider-than-its-column")
    lines = run("audit", "--url", url, "--token", keys["alice"]["key"]).stdout.splitlines()
    assert len(lines) == 2
    assert "failed: not_found" in lines[1]
