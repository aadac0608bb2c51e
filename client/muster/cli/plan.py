"""`muster plan`: compile a computation, look at a plan, check it against TFF."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from .failures import FAILED
from .loading import clients_by_round, load_computation, load_function
from .options import Data, console, quiet_tensorflow, size, write_json
from .options import Json as JsonOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from muster.wire.plan import Plan

app = typer.Typer(no_args_is_help=True, help="Compile a TFF computation to a plan, and look into it.")

Computation = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:COMPUTATION",
        help="A TFF process or computation, or a function without arguments that builds one.",
    ),
]
ClearSums = Annotated[
    bool,
    typer.Option(
        "--allow-clear-secure-sums",
        help="Let a computation that asks for secure sums have them summed in the clear: there is no secure aggregation.",
    ),
]


@app.command("build")
def build(
    computation: Computation,
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write the plan.", dir_okay=False)
    ],
    name: Annotated[Optional[str], typer.Option(help="The plan's name; the computation's if not given.")] = None,
    allow_clear_secure_sums: ClearSums = False,
    as_json: JsonOption = False,
) -> None:
    """Compile a TFF computation to a plan's file."""
    loaded = _load_in_tff(computation)
    from muster.author import build_plan

    plan = build_plan(
        loaded,
        name=name or computation.rpartition(":")[2].rpartition(".")[2],
        allow_clear_secure_sums=allow_clear_secure_sums,
    )
    plan.save(output)
    if as_json:
        write_json(
            {"plan": plan.sha256, "name": plan.manifest.name, "file": str(output), "bytes": output.stat().st_size}
        )
        return
    _warn_of_clear_sums(plan)
    console().print(
        f"Wrote {output}: plan {plan.manifest.name}, {plan.sha256[:12]}, {size(output.stat().st_size)}\n"
        f"Next: muster task create --plan {output} --population …",
        soft_wrap=True,
    )


@app.command("show")
def show(
    file: Annotated[Path, typer.Argument(help="The plan's file.", exists=True, dir_okay=False)],
    *,
    as_json: JsonOption = False,
) -> None:
    """Show what a plan does: its stages, what leaves a device, how updates are folded."""
    from muster.wire.plan import Plan

    plan = Plan.load(file)
    manifest = plan.manifest
    if as_json:
        write_json({"plan": plan.sha256, "bytes": file.stat().st_size, "manifest": manifest.to_dict()})
        return
    screen = console()
    screen.print(f"[bold]{manifest.name}[/]  {plan.sha256}\nmade by {manifest.made_by}", soft_wrap=True)
    _warn_of_clear_sums(plan)
    stages = _table("Stages", "stage", "graph", "takes", "gives")
    for stage_name in type(manifest.stages).model_fields:
        stage = getattr(manifest.stages, stage_name)
        stages.add_row(stage_name, size(stage.graph.size), _values(stage.inputs), _values(stage.outputs))
    screen.print(stages)
    sums = {item.path for item in manifest.clear_sums}
    leaving = _table(f"What leaves a device: {_total(manifest.update)}", "tensor", "dtype", "shape", "size", "as")
    for spec in manifest.update:
        kind = "[bold red]secure sum, in the clear[/]" if spec.path in sums else "update"
        leaving.add_row(spec.path, spec.dtype.value, _shape(spec.shape), _total([spec]), kind)
    screen.print(leaving)
    folds = _table("How updates are folded", "accumulator", "fold")
    for rule in manifest.folds:
        folds.add_row(rule.path, rule.kind.value)
    screen.print(folds)
    screen.print(
        "The fold needs TensorFlow." if manifest.folds_with_tensorflow else "The fold is numpy alone, in place.",
        soft_wrap=True,
    )


@app.command("check")
def check(
    computation: Computation,
    *,
    data: Data,
    rounds: Annotated[int, typer.Option(help="Rounds to compare.", min=1)] = 3,
    tolerance: Annotated[float, typer.Option(help="The largest relative difference that passes.", min=0.0)] = 1e-5,
    allow_clear_secure_sums: ClearSums = False,
    as_json: JsonOption = False,
) -> None:
    """Run a computation in TFF itself and as a plan, side by side; exit 1 if they differ.

    The function of --data gives a sequence or mapping of client data sets, or a TFF ClientData; where it takes an argument, that is
    the round's number.
    """
    loaded = _load_in_tff(computation)
    from muster.author import check_plan

    clients = clients_by_round(load_function(data))
    found = check_plan(loaded, clients, rounds=rounds, allow_clear_secure_sums=allow_clear_secure_sums)
    worst = max((max(each.state.relative, each.result.relative) for each in found), default=0.0)
    same = worst <= tolerance
    if as_json:
        listed = [_finite(dataclasses.asdict(each)) for each in found]
        write_json({"same": same, "tolerance": tolerance, "worst": _finite(worst), "rounds": listed})
    else:
        table = _table("Largest relative difference to TFF", "round", "state", "at", "result", "at")
        for each in found:
            state, result = each.state, each.result
            table.add_row(str(each.round), f"{state.relative:.1e}", state.path, f"{result.relative:.1e}", result.path)
        screen = console()
        screen.print(table)
        verdict = f"[green]Same[/]: at most {worst:.1e}" if same else f"[bold red]Different[/]: up to {worst:.1e}"
        screen.print(f"{verdict} (tolerance {tolerance:.0e})")
    if not same:
        raise typer.Exit(FAILED)


def _load_in_tff(reference: str) -> Any:
    quiet_tensorflow()
    from muster.author import native

    # Before the user's module, whose import may run something: the process that TFF then starts would hold our output open.
    native.start()
    return load_computation(reference)


def _warn_of_clear_sums(plan: Plan) -> None:
    if plan.manifest.sums_in_the_clear:
        count = len(plan.manifest.clear_sums)
        console().print(
            f"[bold red]SUMS IN THE CLEAR[/]: {count} tensors that the computation wants summed securely are not; "
            "the coordinator's functions see each client's.",
            soft_wrap=True,
        )


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _values(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} ({len(bindings)})" for name, bindings in values.items() if bindings) or "nothing"


def _shape(shape: Optional[tuple[Optional[int], ...]]) -> str:
    return "any" if shape is None else "[" + ", ".join("?" if each is None else str(each) for each in shape) + "]"


def _total(specs: Sequence[Any]) -> str:
    known = sum(
        math.prod(spec.shape) * spec.dtype.numpy.itemsize
        for spec in specs
        if spec.shape is not None and None not in spec.shape and spec.dtype.value != "string"
    )
    unknown = any(spec.shape is None or None in spec.shape or spec.dtype.value == "string" for spec in specs)
    return f"{size(known)} and more" if unknown and known else "varies" if unknown else size(known)


def _finite(value: Any) -> Any:
    """JSON has no infinity: text instead."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
