"""`muster plan`: compile a computation, check it against TFF; showing and signing plans are modules of their own."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from . import plan_show, plan_signing
from .failures import FAILED
from .loading import clients_by_round, load_computation, load_function
from .options import Data, console, quiet_tensorflow, size, write_json
from .options import Json as JsonOption
from .plan_words import titled, warn_of_clear_sums

if TYPE_CHECKING:
    from muster.wire.manifest import Release

app = typer.Typer(no_args_is_help=True, help="Compile a TFF computation to a plan, look into it, sign it.")

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
    minimum: Annotated[
        Optional[int],
        typer.Option(
            min=1,
            help="Fewest updates in any result of this plan. No task can go below it, and the plan's address covers it.",
            show_default="no floor",
        ),
    ] = None,
    max_rounds: Annotated[
        Optional[int],
        typer.Option(min=1, help="Most rounds that one task of this plan may commit.", show_default="any number"),
    ] = None,
    separation_seconds: Annotated[
        Optional[float],
        typer.Option(min=0.0, help="Least time between two contributions of one client.", show_default="0"),
    ] = None,
    key: Annotated[
        Optional[Path], typer.Option("--key", metavar="FILE", help="Sign the plan with this key.", exists=True)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compile a TFF computation to a plan's file."""
    from muster.wire.signatures import SigningKey

    release = release_of(minimum=minimum, max_rounds=max_rounds, separation_seconds=separation_seconds)
    # Before the seconds that compiling takes: a key that can't be read is known at once.
    signing = None if key is None else SigningKey.load(key)
    loaded = _load_in_tff(computation)
    from muster.author import build_plan

    plan = build_plan(
        loaded,
        name=name or computation.rpartition(":")[2].rpartition(".")[2],
        allow_clear_secure_sums=allow_clear_secure_sums,
        release=release,
    )
    if signing is not None:
        plan = plan.signed(signing)
    plan.save(output)
    if as_json:
        write_json(
            {"plan": plan.sha256, "name": plan.manifest.name, "file": str(output), "bytes": output.stat().st_size}
        )
        return
    warn_of_clear_sums(plan)
    console().print(
        f"Wrote {output}: plan {plan.manifest.name}, {plan.sha256[:12]}, {size(output.stat().st_size)}\n"
        f"Next: muster task create --plan {output} --population …",
        soft_wrap=True,
    )


app.command("show")(plan_show.show)
app.command("keygen")(plan_signing.keygen)
app.command("sign")(plan_signing.sign)
app.command("verify")(plan_signing.verify)


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
        table = titled("Largest relative difference to TFF", "round", "state", "at", "result", "at")
        for each in found:
            state, result = each.state, each.result
            table.add_row(str(each.round), f"{state.relative:.1e}", state.path, f"{result.relative:.1e}", result.path)
        screen = console()
        screen.print(table)
        verdict = f"[green]Same[/]: at most {worst:.1e}" if same else f"[bold red]Different[/]: up to {worst:.1e}"
        screen.print(f"{verdict} (tolerance {tolerance:.0e})")
    if not same:
        raise typer.Exit(FAILED)


def release_of(
    *, minimum: Optional[int], max_rounds: Optional[int], separation_seconds: Optional[float]
) -> Optional[Release]:
    """Returns the floor that a plan's author sets for every task of it; None if no option sets one.

    Raises:
      typer.BadParameter: the separation is not a finite number.
    """
    from muster.wire.manifest import Release

    if minimum is None and max_rounds is None and separation_seconds is None:
        return None
    if separation_seconds is not None and not math.isfinite(separation_seconds):
        raise typer.BadParameter("must be a finite number of seconds", param_hint="--separation-seconds")
    return Release(minimum=minimum or 1, max_rounds=max_rounds, separation_seconds=separation_seconds)


def _load_in_tff(reference: str) -> Any:
    quiet_tensorflow()
    from muster.author import native

    # Before the user's module, whose import may run something: the process that TFF then starts would hold our output open.
    native.start()
    return load_computation(reference)


def _finite(value: Any) -> Any:
    """JSON has no infinity: text instead."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
