"""`muster plan keygen`, `sign`, `verify` and `show`: signatures and dry runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.plans import sum_plan
from typer.testing import CliRunner

from muster.cli.app import app
from muster.wire.manifest import FoldKind, Release
from muster.wire.plan import Plan, part_of
from muster.wire.signatures import SigningKey

DIGITS = Path(__file__).parents[3] / "client/muster/demo/digits.plan"


def run(*arguments: Any, code: int = 0, **more: Any) -> Any:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], **more)
    assert result.exit_code == code, (result.output, result.output, result.exception)
    return result


def made(path: Path) -> str:
    signer: str = json.loads(run("plan", "keygen", path, "--json").stdout)["signer"]
    return signer


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    sum_plan().save(tmp_path / "a.plan")
    return tmp_path / "a.plan"


def test_signed_plan_is_verified_and_shown_with_its_signers(plan: Path, tmp_path: Path) -> None:
    signer = made(tmp_path / "key")
    assert "not signed" in run("plan", "show", plan).stdout
    run("plan", "sign", plan, "--key", tmp_path / "key")
    assert signer in run("plan", "verify", plan, "--signer", signer).stdout
    other = made(tmp_path / "other")
    both = {"MUSTER_TRUSTED_SIGNERS": f"{other},{signer}"}
    assert json.loads(run("plan", "verify", plan, "--json", env=both).stdout)["signer"] == signer
    assert f"signed by {signer}" in run("plan", "show", plan).stdout.replace("\n", "")
    assert json.loads(run("plan", "show", plan, "--json").stdout)["signers"] == [signer]


def test_plan_of_an_untrusted_signer_is_refused(plan: Path, tmp_path: Path) -> None:
    assert "is not signed" in run("plan", "verify", plan, "--signer", made(tmp_path / "key"), code=1).output
    assert "is not a signer" in run("plan", "verify", plan, "--signer", "me", code=2).output
    assert "public key to trust" in run("plan", "verify", plan, code=2).output


def test_signing_key_is_never_overwritten(tmp_path: Path) -> None:
    made(tmp_path / "key")
    assert "File exists" in run("plan", "keygen", tmp_path / "key", code=1).output


def test_dry_run_shows_the_effect_on_a_device() -> None:
    shown = run("plan", "show", DIGITS, "--client").stdout
    for text in (
        "signed by ed25519:",
        "Files: none. Network: none",
        "arithmetic",
        "Reads of your data",
        "What leaves a device",
    ):
        assert text in shown
    document = json.loads(run("plan", "show", DIGITS, "--client", "--json").stdout)
    assert document["would_run"]
    assert document["operations"]["arithmetic"]
    assert {item["dtype"] for item in document["leaves"]} == {"float32", "int64"}
    assert document["update_bytes"] == 9676


def with_release(plan: Plan, release: Release) -> Plan:
    return Plan(plan.manifest.model_copy(update={"release": release}), plan.parts)


def with_folds(plan: Plan, *kinds: FoldKind) -> Plan:
    rules = plan.manifest.folds
    changed = (
        *(rule.model_copy(update={"kind": kind}) for rule, kind in zip(rules, kinds, strict=False)),
        *rules[len(kinds) :],
    )
    return Plan(plan.manifest.model_copy(update={"folds": changed}), plan.parts)


def shown(plan: Plan, path: Path) -> tuple[str, dict[str, Any]]:
    plan.save(path)
    return run("plan", "show", path, "--client").stdout, json.loads(
        run("plan", "show", path, "--client", "--json").stdout
    )


@pytest.mark.parametrize("kind", [FoldKind.MAXIMUM, FoldKind.MINIMUM])
def test_dry_run_warns_of_maxima_and_minima(tmp_path: Path, kind: FoldKind) -> None:
    text, document = shown(with_folds(sum_plan(), kind), tmp_path / "a.plan")
    assert "each number of these results is the unchanged value of some client" in text
    assert (document["folds_are_sums"], document["result_shows_single_values"]) == (False, True)
    assert not document["parts_of_single_updates_may_be_kept"]
    assert kind.value in document["folds"].values()


def test_dry_run_warns_of_folds_with_tensorflow(tmp_path: Path) -> None:
    text, document = shown(with_folds(sum_plan(), FoldKind.TENSORFLOW, FoldKind.MAXIMUM), tmp_path / "a.plan")
    assert "the result may contain parts of a single update" in text
    assert "the unchanged value of some client" in text
    assert document["parts_of_single_updates_may_be_kept"]
    assert not document["folds_are_sums"]


def test_dry_run_of_sums_has_no_warning(tmp_path: Path) -> None:
    text, document = shown(sum_plan(), tmp_path / "a.plan")
    assert "own value" not in text
    assert document["folds_are_sums"]
    assert not document["result_shows_single_values"]


def test_dry_run_shows_how_long_an_update_is_readable(tmp_path: Path) -> None:
    text, document = shown(sum_plan(), tmp_path / "a.plan")
    assert "alone until the round closes" in text
    assert "max_update_age" in text
    assert document["waits_alone_until"] == "the round closes"


def test_dry_run_shows_the_floor_of_the_author(tmp_path: Path) -> None:
    text, document = shown(sum_plan(), tmp_path / "a.plan")
    assert "The plan binds no minimum" in text
    assert document["release"] is None
    text, document = shown(
        with_release(sum_plan(), Release(minimum=20, max_rounds=9, separation_seconds=60)), tmp_path / "b.plan"
    )
    assert "20 or more updates in each result; at most 9 rounds for each task; 60 seconds or more" in text
    assert document["release"] == {"minimum": 20, "max_rounds": 9, "separation_seconds": 60.0}


def rebound(plan: Plan) -> Plan:
    """Returns a plan whose broadcast is not bound to a placeholder."""
    work = plan.manifest.stages.work
    first, *others = work.inputs["broadcast"]
    inputs = {**work.inputs, "broadcast": (first.model_copy(update={"tensor": "subcomputation/[/]:0"}), *others)}
    stages = plan.manifest.stages.model_copy(update={"work": work.model_copy(update={"inputs": inputs})})
    return Plan(plan.manifest.model_copy(update={"stages": stages}), plan.parts)


def test_plan_with_an_invalid_binding_is_refused(tmp_path: Path) -> None:
    text, document = shown(rebound(Plan.load(DIGITS)), tmp_path / "a.plan")
    assert "A client would refuse this plan." in text
    assert not document["would_run"]
    assert "no such placeholder" in document["refused"]
    signer = made(tmp_path / "key")
    assert "no such placeholder" in run("plan", "sign", tmp_path / "a.plan", "--key", tmp_path / "key", code=1).output
    signed = Plan.load(tmp_path / "a.plan").signed(SigningKey.load(tmp_path / "key"))
    signed.save(tmp_path / "signed.plan")
    assert "no such placeholder" in run("plan", "verify", tmp_path / "signed.plan", "--signer", signer, code=1).output


def test_plan_with_an_invalid_graph_is_shown_as_refused(tmp_path: Path) -> None:
    plan = sum_plan()
    part = part_of(b"no graph")
    stage = plan.manifest.stages.work.model_copy(update={"graph": part})
    stages = plan.manifest.stages.model_copy(update={"work": stage})
    parts = {**plan.parts, part.sha256: b"no graph"}
    del parts[plan.manifest.stages.work.graph.sha256]
    broken = Plan(plan.manifest.model_copy(update={"stages": stages}), parts)
    text, document = shown(broken, tmp_path / "a.plan")
    assert "its graph can't be read" in text
    assert document["operations"] == {}


def test_plan_by_address_needs_a_url() -> None:
    assert "needs --url" in run("plan", "show", "0" * 64, code=2, env={"MUSTER_URL": ""}).output
    assert "there is no file" in run("plan", "show", "nothing.plan", code=2).output
