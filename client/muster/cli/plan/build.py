"""`muster plan build`: compiles a computation to a plan."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from muster.cli.options import Json as JsonOption
from muster.cli.plan.compiling import (
    CLEAR_SUMS_OPTION,
    ClearSums,
    Computation,
    InitialState,
    load_in_tff,
    load_state,
)
from muster.cli.plan.text import warn_of_clear_sums
from muster.cli.warning_lines import warnings_as_lines
from muster.terminal import console, size, write_json

if TYPE_CHECKING:
    from muster.wire.manifest import Release

_UNSPECIFIC = ("process", "computation", "build", "main", "next")  # usual names of a file's only computation


def build(
    computation: Computation,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Plan to write.", dir_okay=False)],
    name: Annotated[
        Optional[str],
        typer.Option(help="Name of the plan.", show_default="the computation's, or its module's if unspecific"),
    ] = None,
    initial_state: InitialState = None,
    seed: Annotated[
        Optional[int],
        typer.Option(help="Seed of the initial weights. Equal seeds yield equal plans.", show_default="random"),
    ] = None,
    allow_clear_secure_sums: ClearSums = False,
    minimum: Annotated[Optional[int], typer.Option(min=1, show_default="no floor")] = None,
    max_rounds: Annotated[Optional[int], typer.Option(min=1)] = None,
    separation_seconds: Annotated[Optional[float], typer.Option(min=0.0)] = None,
    key: Annotated[
        Optional[Path],
        typer.Option(
            "--key", metavar="FILE", help="Private key to sign the plan with.", exists=True, show_default="not signed"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compile a TFF computation to a plan.

    The options --minimum, --max-rounds and --separation-seconds are a floor for every task of the
    plan. The plan's address and its signatures cover it.
    """
    from muster.wire.signatures import SigningKey

    release = release_of(minimum=minimum, max_rounds=max_rounds, separation_seconds=separation_seconds)
    # Loaded before the compilation, so that an unreadable key is reported at once.
    signing_key = None if key is None else SigningKey.load(key)
    loaded = load_in_tff(computation, seed=seed)
    from muster.author import SecureSumsError, build_plan

    try:
        with warnings_as_lines():
            plan = build_plan(
                loaded,
                name=name or _name_of(computation),
                initial_state=load_state(initial_state),
                allow_clear_secure_sums=allow_clear_secure_sums,
                release=release,
                seed=seed,
            )
    except SecureSumsError as error:
        raise error.for_option(CLEAR_SUMS_OPTION) from None
    if signing_key is not None:
        plan = plan.signed(signing_key)
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


def release_of(
    *, minimum: Optional[int], max_rounds: Optional[int], separation_seconds: Optional[float]
) -> Optional[Release]:
    """Returns the floor for the plan's tasks that the options set, or None if they set none.

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
    """Returns a plan's default name: its attribute's, or its module's if that is unspecific."""
    where, _, attribute = reference.rpartition(":")
    last = attribute.rpartition(".")[2]
    module = Path(where).stem if where.endswith(".py") else where.rpartition(".")[2]
    return module if last in _UNSPECIFIC and module else last
