"""`muster simulate`: runs a plan's whole protocol over local data, in this process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from typer.core import TyperCommand

from muster.cli.loading import load_function
from muster.cli.options import Data
from muster.cli.options import Json as JsonOption
from muster.cli.warning_lines import warnings_as_lines
from muster.terminal import console, quiet_tensorflow, write_json


class SimulateCommand(TyperCommand):
    """The command; it refers callers of its former option `--no-train` to `muster load`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the arguments. Raises `typer.BadParameter` for `--no-train`."""
        if "--no-train" in args:
            raise typer.BadParameter("to load a coordinator with synthetic clients, run `muster load`", ctx=ctx)
        return super().parse_args(ctx, args)


def simulate(
    plan: Annotated[Path, typer.Argument(help="File of the plan.", exists=True, dir_okay=False)],
    *,
    data: Data,
    rounds: Annotated[int, typer.Option(help="Rounds to commit.", min=1)] = 3,
    out: Annotated[Optional[Path], typer.Option(help="Folder for checkpoints, results and metrics.csv.")] = None,
    seed: Annotated[
        int,
        typer.Option(help="Seed: the same plan, data and seed yield the same bytes. Clients draw independent numbers."),
    ] = 0,
    goal: Annotated[Optional[int], typer.Option(help="Updates per round.", min=1, show_default="all clients")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a plan over local data, with the coordinator's code and HTTP layer, without a network.

    The function of --data returns a sequence or mapping of client data sets, or a TFF ClientData.
    Its optional argument is the round's number.
    """
    quiet_tensorflow()
    import muster.simulation
    from muster.wire.plan import Plan

    screen = console()

    def progress(view: Any) -> None:
        if as_json:
            write_json(view.to_dict())
        else:
            metrics = "  ".join(f"{name} {value:.6g}" for name, value in view.metrics.items())
            screen.print(f"round {view.round}: {view.folded} updates  {metrics}", soft_wrap=True)

    with warnings_as_lines():
        result = muster.simulation.run(
            Plan.load(plan), load_function(data), rounds=rounds, seed=seed, out=out, goal=goal, progress=progress
        )
    for stage, operations in result.unseeded.items():
        sys.stderr.write(
            f"Note: {', '.join(operations)} in {stage} reads the clock or the system's entropy, which no seed reaches: "
            "what depends on it differs from run to run.\n"
        )
    if out is not None and not as_json:
        screen.print(f"Wrote {out}/checkpoints, {out}/results and {out}/metrics.csv", soft_wrap=True)
