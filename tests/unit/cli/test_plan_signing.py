"""`muster plan keygen|sign|verify|show`: who signed a plan, and what it would do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.plans import sum_plan
from typer.testing import CliRunner

from muster.cli.app import app

DIGITS = Path(__file__).parents[3] / "client/muster/demo/digits.plan"


def run(*arguments: Any, code: int = 0, **more: Any) -> Any:
    result = CliRunner().invoke(app, [str(each) for each in arguments], **more)
    assert result.exit_code == code, (result.output, result.output, result.exception)
    return result


def made(path: Path) -> str:
    signer: str = json.loads(run("plan", "keygen", path, "--json").stdout)["signer"]
    return signer


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    sum_plan().save(tmp_path / "a.plan")
    return tmp_path / "a.plan"


def test_a_signed_plan_is_verified_and_shown_with_its_signers(plan: Path, tmp_path: Path) -> None:
    signer = made(tmp_path / "key")
    assert "not signed" in run("plan", "show", plan).stdout
    run("plan", "sign", plan, "--key", tmp_path / "key")
    assert signer in run("plan", "verify", plan, "--signer", signer).stdout
    other = made(tmp_path / "other")
    both = {"MUSTER_TRUSTED_SIGNERS": f"{other},{signer}"}
    assert json.loads(run("plan", "verify", plan, "--json", env=both).stdout)["signer"] == signer
    assert f"signed by {signer}" in run("plan", "show", plan).stdout.replace("\n", "")
    assert json.loads(run("plan", "show", plan, "--json").stdout)["signers"] == [signer]


def test_a_plan_that_is_not_signed_by_whom_one_trusts_fails(plan: Path, tmp_path: Path) -> None:
    assert "is not signed" in run("plan", "verify", plan, "--signer", made(tmp_path / "key"), code=1).output
    assert "is no signer" in run("plan", "verify", plan, "--signer", "me", code=2).output
    assert "whom you trust" in run("plan", "verify", plan, code=2).output


def test_a_key_is_never_written_over(tmp_path: Path) -> None:
    made(tmp_path / "key")
    assert "File exists" in run("plan", "keygen", tmp_path / "key", code=1).output


def test_a_dry_run_shows_what_a_device_would_do() -> None:
    shown = run("plan", "show", DIGITS, "--client").stdout
    for text in (
        "signed by ed25519:",
        "Files: none. Network: none",
        "arithmetic",
        "Reads of your data",
        "What leaves a device",
    ):
        assert text in shown
    found = json.loads(run("plan", "show", DIGITS, "--client", "--json").stdout)
    assert found["would_run"]
    assert found["operations"]["arithmetic"]
    assert {item["dtype"] for item in found["leaves"]} == {"float32", "int64"}
    assert found["update_bytes"] == 9676


def test_a_plan_by_its_address_needs_a_coordinator() -> None:
    assert "needs --url" in run("plan", "show", "0" * 64, code=2, env={"MUSTER_URL": ""}).output
    assert "there is no file" in run("plan", "show", "nothing.plan", code=2).output
