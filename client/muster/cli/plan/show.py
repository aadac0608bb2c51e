"""`muster plan show`: what a plan is made of, and with `--client` what it would do on a device, before it does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from muster.cli.failures import FAILED
from muster.cli.options import Json, Url
from muster.cli.plan import policy as device_policy
from muster.cli.plan.text import leaving, signers_in_words, titled, warn_of_clear_sums
from muster.terminal import console, size, write_json

if TYPE_CHECKING:
    from muster.cli.plan.dry_run import DryRun
    from muster.client import ClientPolicy
    from muster.wire.plan import Plan


def show(
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="The plan's file; or its address, to ask --url for it.")],
    *,
    client: Annotated[
        bool,
        typer.Option("--client", help="Show its effect on a device: operations, data, and what leaves."),
    ] = False,
    policy: Annotated[
        Optional[Path],
        typer.Option(
            "--policy",
            metavar="FILE",
            help="With --client: whether a device with this policy would accept it, rule by rule; exit 1 if not.",
        ),
    ] = None,
    url: Url = "",
    as_json: Json = False,
) -> None:
    """Show what a plan does: its stages, what leaves a device, how updates are folded, who signed it."""
    if policy is not None and not client:
        raise typer.BadParameter("a policy is for a device: add --client", param_hint="--policy")
    rules = device_policy.policy_of(policy)
    found, count = _read(plan, url)
    if client:
        from muster.cli.plan.dry_run import dry_run, write

        summary = dry_run(found)
        verdict = None if rules is None else _judge(rules, summary)
        if as_json:
            write_json({**summary.to_dict(), **({} if verdict is None else {"policy": verdict.to_dict()})})
        else:
            write(summary, console())
            if verdict is not None:
                device_policy.write(verdict, console())
        if verdict is not None and not verdict.accepted:
            raise typer.Exit(FAILED)
        return
    manifest = found.manifest
    if as_json:
        signers = [item.signer for item in found.signatures]
        document = {"plan": found.sha256, "bytes": count, "signers": signers, "manifest": manifest.to_dict()}
        write_json(document)
        return
    screen = console()
    screen.print(f"[bold]{manifest.name}[/]  {found.sha256}\nmade by {manifest.made_by}", soft_wrap=True)
    for line in signers_in_words(found):
        screen.print(line, soft_wrap=True)
    warn_of_clear_sums(found)
    stages = titled("Stages", "stage", "graph", "takes", "gives")
    for stage_name in type(manifest.stages).model_fields:
        stage = getattr(manifest.stages, stage_name)
        stages.add_row(stage_name, size(stage.graph.size), _values(stage.inputs), _values(stage.outputs))
    screen.print(stages)
    screen.print(leaving(manifest))
    folds = titled("How updates are folded", "accumulator", "fold")
    for rule in manifest.folds:
        folds.add_row(rule.path, rule.kind.value)
    screen.print(folds)
    screen.print(
        "The fold needs TensorFlow." if manifest.folds_with_tensorflow else "The fold is numpy alone, in place.",
        soft_wrap=True,
    )


def _read(reference: str, url: str) -> tuple[Plan, int]:
    """The plan in a file, or, by its address, the copy that a coordinator gives a device; and the file's bytes."""
    from muster.wire.plan import Plan

    path = Path(reference)
    is_address = len(reference) == 64 and set(reference) <= set("0123456789abcdef")  # noqa: PLR2004  SHA-256 in hex
    if path.is_file() or not is_address:
        if not path.is_file():
            raise typer.BadParameter(f"there is no file {reference}", param_hint="PLAN")
        return Plan.load(path), path.stat().st_size
    if not url:
        raise typer.BadParameter("a plan by its address needs --url, the coordinator that has it", param_hint="--url")
    from muster.client import Transport

    transport = Transport(url)
    try:
        data = transport.download(f"/v1/plans/{reference}")
    finally:
        transport.close()
    return Plan.decode(data, expected=reference), len(data)


def _judge(policy: ClientPolicy, summary: DryRun) -> device_policy.PlanVerdict:
    return device_policy.judge_plan(
        policy,
        summary.plan,
        download_bytes=summary.download_bytes + summary.broadcast_bytes,
        update_bytes=summary.update_bytes,
    )


def _values(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} ({len(bindings)})" for name, bindings in values.items() if bindings) or "nothing"
