"""`--policy` of `muster client run` and of `muster plan show`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from muster.cli.app import app
from muster.wire.plan import Plan

DIGITS = Path(__file__).parents[3] / "client/muster/demo/digits.plan"


def run(*arguments: Any, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return tmp_path / "ward.toml"


def test_plan_is_checked_rule_by_rule(policy: Path) -> None:
    address = Plan.load(DIGITS).sha256
    policy.write_text(
        f'plans = ["{address}"]\nfolds = ["sum"]\nmax_update_bytes = 10_000_000\nmax_seconds = 60\n'
        "[budget]\nper_day = 3\n"
    )
    shown = run("plan", "show", DIGITS, "--client", "--policy", policy).stdout
    assert "The policy accepts this plan" in shown
    assert "budget.per_day" in shown
    document = json.loads(run("plan", "show", DIGITS, "--client", "--policy", policy, "--json").stdout)["policy"]
    assert document["accepted"]
    assert [item["rule"] for item in document["rules"]] == ["plans", "folds", "max_update_bytes"]
    assert document["decided_later"] == {"max_seconds": "60.0", "budget.per_day": "3"}


def test_refusal_by_a_policy_names_the_rules(policy: Path) -> None:
    policy.write_text(
        f'plans = ["{"0" * 64}"]\nminimum = 5\nmax_update_bytes = 1\nmax_download_bytes = 1\nfolds = ["sum"]\n'
    )
    result = run("plan", "show", DIGITS, "--client", "--policy", policy, "--json", code=1)
    rules = {item["rule"]: item for item in json.loads(result.stdout)["policy"]["rules"]}
    assert {name for name, item in rules.items() if not item["passed"]} == {
        "plans",
        "minimum",
        "max_update_bytes",
        "max_download_bytes",
    }
    assert rules["minimum"]["detail"] == "the plan binds no minimum, which counts as 1; minimum = 5"
    assert "The policy refuses this plan" in run("plan", "show", DIGITS, "--client", "--policy", policy, code=1).stdout


def test_policy_needs_the_client_option(policy: Path) -> None:
    policy.write_text("")
    assert "--client" in run("plan", "show", DIGITS, "--policy", policy, code=2).output


@pytest.mark.parametrize(
    "command", [("plan", "show", DIGITS, "--client"), ("client", "run", "--population", "p", "--data", "x:y")]
)
def test_invalid_policy_is_wrong_usage(policy: Path, command: tuple[Any, ...]) -> None:
    policy.write_text("minimun = 3\n")
    result = run(*command, "--policy", policy, code=2)
    assert result.output.strip() == f"Error: {policy}: minimun is not a rule of a policy. Do you mean minimum?"


@pytest.mark.slow
def test_client_with_an_exposed_budget_does_not_start(policy: Path, tmp_path: Path) -> None:
    policy.write_text('[budget]\nper_day = 1\nfile = "budget"\n')
    (tmp_path / "budget").write_bytes(b"")
    (tmp_path / "budget").chmod(0o644)
    (tmp_path / "ward.py").write_text("def data():\n    return 1\n")
    arguments = ("client", "run", "--population", "p", "--data", f"{tmp_path}/ward.py:data", "--policy", policy)
    result = run(*arguments, code=1)
    assert f"chmod 600 {tmp_path / 'budget'}" in result.output.replace("\n", "")


@pytest.mark.slow
def test_client_logs_once_whether_it_has_a_policy(policy: Path, tmp_path: Path, unused_port: int) -> None:
    (tmp_path / "ward.py").write_text("def data():\n    return 1\n")
    arguments = ("client", "run", "--population", "p", "--data", f"{tmp_path}/ward.py:data", "--once")
    arguments += ("--url", f"http://127.0.0.1:{unused_port}")
    assert run(*arguments, code=3).output.count("the coordinator decides") == 1
    policy.write_text("minimum = 3\n")
    assert "the coordinator decides" not in run(*arguments, "--policy", policy, code=3).output
