"""`muster plan show`: shows the contents of a plan or, with `--client`, its effect on a device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from muster.cli.failures import FAILED
from muster.cli.options import Json
from muster.cli.plan import policy as device_policy
from muster.cli.plan.text import describe_signers, titled_table, uploads_table, warn_of_clear_sums
from muster.terminal import console, size, write_json

if TYPE_CHECKING:
    from muster.cli.plan.dry_run import DryRun
    from muster.client import ClientPolicy
    from muster.wire.plan import Plan


def show(
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="Plan: a file, or an address to download from --url.")],
    *,
    client: Annotated[
        bool,
        typer.Option(
            "--client",
            help="Show the effect on a device: operations, data, uploads. By default show the contents of the plan.",
        ),
    ] = False,
    policy: Annotated[
        Optional[Path],
        typer.Option(
            "--policy",
            metavar="FILE",
            help="With --client: policy of a device to check the plan against. Exits with 1 if it refuses the plan.",
            show_default="none",
        ),
    ] = None,
    url: Annotated[
        str, typer.Option("--url", envvar="MUSTER_URL", help="URL of the coordinator.", show_default="none")
    ] = "",
    as_json: Json = False,
) -> None:
    """Show a plan: its stages, the tensors that leave a device, the folds and the signers."""
    if policy is not None and not client:
        raise typer.BadParameter("a policy is for a device: add --client", param_hint="--policy")
    rules = device_policy.policy_of(policy)
    loaded = _read(plan, url)
    if client:
        from muster.cli.plan.dry_run import dry_run, write

        summary = dry_run(loaded.plan)
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
    manifest = loaded.plan.manifest
    if as_json:
        signers = [item.signer for item in loaded.plan.signatures]
        document = {
            "plan": loaded.plan.sha256,
            "bytes": loaded.size,
            "signers": signers,
            "manifest": manifest.to_dict(),
        }
        write_json(document)
        return
    screen = console()
    screen.print(f"[bold]{manifest.name}[/]  {loaded.plan.sha256}\nmade by {manifest.made_by}", soft_wrap=True)
    for line in describe_signers(loaded.plan):
        screen.print(line, soft_wrap=True)
    warn_of_clear_sums(loaded.plan)
    stages = titled_table("Stages", "stage", "graph", "inputs", "outputs")
    for stage_name in type(manifest.stages).model_fields:
        stage = getattr(manifest.stages, stage_name)
        stages.add_row(stage_name, size(stage.graph.size), _values(stage.inputs), _values(stage.outputs))
    screen.print(stages)
    screen.print(uploads_table(manifest))
    folds = titled_table("Folds", "accumulator", "fold")
    for rule in manifest.folds:
        folds.add_row(rule.path, rule.kind.value)
    screen.print(folds)
    screen.print(
        "The fold needs TensorFlow." if manifest.folds_with_tensorflow else "The fold uses numpy only, in place.",
        soft_wrap=True,
    )


@dataclass(frozen=True)
class _LoadedPlan:
    """Plan with the size of its file in bytes."""

    plan: Plan
    size: int


def _read(reference: str, url: str) -> _LoadedPlan:
    """Reads a plan from a file or, by its address, downloads a coordinator's copy for devices."""
    from muster.wire.plan import Plan

    path = Path(reference)
    is_address = len(reference) == 64 and set(reference) <= set("0123456789abcdef")  # noqa: PLR2004  SHA-256 in hex
    if path.is_file() or not is_address:
        if not path.is_file():
            raise typer.BadParameter(f"there is no file {reference}", param_hint="PLAN")
        return _LoadedPlan(Plan.load(path), path.stat().st_size)
    if not url:
        raise typer.BadParameter(
            "a plan by its address needs --url of the coordinator that stores it", param_hint="--url"
        )
    from muster.client import Transport

    transport = Transport(url)
    try:
        data = transport.download(f"/v1/plans/{reference}")
    finally:
        transport.close()
    return _LoadedPlan(Plan.decode(data, expected=reference), len(data))


def _judge(policy: ClientPolicy, summary: DryRun) -> device_policy.PlanVerdict:
    return device_policy.judge_plan(
        policy,
        summary.plan,
        download_bytes=summary.download_bytes + summary.broadcast_bytes,
        update_bytes=summary.update_bytes,
    )


def _values(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} ({len(bindings)})" for name, bindings in values.items() if bindings) or "nothing"
