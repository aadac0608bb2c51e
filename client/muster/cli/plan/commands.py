"""`muster plan`: compile a computation, check it against TFF; showing and signing plans are modules of their own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from muster.cli.failures import FAILED
from muster.cli.loading import load_computation, load_function
from muster.cli.options import Data
from muster.cli.options import Json as JsonOption
from muster.cli.plan import check_text, show, signing
from muster.cli.plan.text import warn_of_clear_sums
from muster.cli.warning_lines import warnings_as_lines
from muster.terminal import console, quiet_tensorflow, size, write_json

if TYPE_CHECKING:
    from muster.author import PlanCheck
    from muster.wire.manifest import Release

SAME_BUT_RANDOM = 4  # the exit code
_UNSPECIFIC = ("process", "computation", "build", "main", "next")  # usual names of a file's only computation

app = typer.Typer(no_args_is_help=True, help="Compile a TFF computation to a plan, look into it, sign it.")

Computation = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:COMPUTATION",
        help="A TFF process or computation, or a function without arguments that builds one.",
    ),
]
_CLEAR_SUMS = "--allow-clear-secure-sums"
ClearSums = Annotated[
    bool,
    typer.Option(
        _CLEAR_SUMS,
        help="Let a computation that asks for secure sums have them summed in the clear: there is no secure aggregation.",
    ),
]
InitialState = Annotated[
    Optional[str],
    typer.Option(
        "--initial-state",
        metavar="FILE|MODULE:FUNCTION",
        help="The state before the first round: a checkpoint (.safetensors or .npz), a run's folder (its last checkpoint), or a "
        "function that returns it.",
    ),
]


@app.command("build")
def build(
    computation: Computation,
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write the plan.", dir_okay=False)
    ],
    name: Annotated[
        Optional[str],
        typer.Option(help="The plan's name. By default the computation's, or its file's where that is just `process`."),
    ] = None,
    initial_state: InitialState = None,
    seed: Annotated[
        Optional[int], typer.Option(help="Seed of the first weights: building again then yields the same plan.")
    ] = None,
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
    loaded = _load_in_tff(computation, seed=seed)
    from muster.author import SecureSumsError, build_plan

    try:
        with warnings_as_lines():
            plan = build_plan(
                loaded,
                name=name or _name_of(computation),
                initial_state=_load_state(initial_state),
                allow_clear_secure_sums=allow_clear_secure_sums,
                release=release,
                seed=seed,
            )
    except SecureSumsError as error:
        raise error.for_option(_CLEAR_SUMS) from None
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


app.command("show")(show.show)
app.command("keygen")(signing.keygen)
app.command("sign")(signing.sign)
app.command("verify")(signing.verify)


@app.command("check")
def check(
    computation: Computation,
    *,
    data: Data,
    rounds: Annotated[int, typer.Option(help="Rounds to compare.", min=1)] = 3,
    tolerance: Annotated[float, typer.Option(help="The largest relative difference that passes.", min=0.0)] = 1e-5,
    initial_state: InitialState = None,
    allow_clear_secure_sums: ClearSums = False,
    as_json: JsonOption = False,
) -> None:
    """Run a computation in TFF itself and as a plan, side by side.

    Exit codes: 0 if they are the same; 1 if they differ; 4 if they are the same but for random draws and clock reads,
    which are listed.

    The function of --data returns a sequence or mapping of client data sets, or a TFF ClientData. Its optional argument
    is the round's number.
    """
    loaded = _load_in_tff(computation)
    from muster.author import SecureSumsError, check_plan

    try:
        with warnings_as_lines():
            found = check_plan(
                loaded,
                load_function(data),
                rounds=rounds,
                initial_state=_load_state(initial_state),
                allow_clear_secure_sums=allow_clear_secure_sums,
                tolerance=tolerance,
            )
    except SecureSumsError as error:
        raise error.for_option(_CLEAR_SUMS) from None
    if as_json:
        write_json(_finite(check_text.to_dict(found)))
    else:
        check_text.show(found)
    code = _exit_code(found)
    if code:
        raise typer.Exit(code)


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


def _name_of(reference: str) -> str:
    """Returns the default name of a plan: the attribute's, or the module's if the attribute's is unspecific."""
    where, _, attribute = reference.rpartition(":")
    last = attribute.rpartition(".")[2]
    module = Path(where).stem if where.endswith(".py") else where.rpartition(".")[2]
    return module if last in _UNSPECIFIC and module else last


def _exit_code(found: PlanCheck) -> int:
    from muster.author import Verdict

    return {Verdict.SAME: 0, Verdict.SAME_BUT_RANDOM: SAME_BUT_RANDOM, Verdict.DIFFERENT: FAILED}[found.verdict]


def _load_state(reference: Optional[str]) -> Any:
    """Returns the first state that `--initial-state` names: a path, or the return value of a function."""
    if reference is None:
        return None
    path = Path(reference)
    if path.exists():
        return path
    if ":" not in reference:
        raise typer.BadParameter(
            f"there is no file {reference}; give a checkpoint, a run's folder or module:function",
            param_hint="--initial-state",
        )
    return load_computation(reference)


def _load_in_tff(reference: str, *, seed: Optional[int] = None) -> Any:
    quiet_tensorflow()
    from muster.author import tff_worker

    # Before the user's module, whose import may run something: the process that TFF then starts would hold our output open.
    tff_worker.start()
    if seed is not None:
        tff_worker.seed_keras(seed)
    return load_computation(reference)


def _finite(value: Any) -> Any:
    """JSON has no infinity: text instead."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
