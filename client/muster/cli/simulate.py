"""`muster simulate`: a plan's whole protocol in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from .loading import load_function
from .options import Data, console, quiet_tensorflow, write_json
from .options import Json as JsonOption


def simulate(
    plan: Annotated[Path, typer.Argument(help="The plan's file.", exists=True, dir_okay=False)],
    *,
    data: Data,
    rounds: Annotated[int, typer.Option(help="Rounds to commit.", min=1)] = 3,
    out: Annotated[Optional[Path], typer.Option(help="Folder for checkpoints, results and metrics.csv.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed and data give the same bytes.")] = 0,
    goal: Annotated[Optional[int], typer.Option(help="Updates to a round; all clients if not given.", min=1)] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a plan over local data sets, with the coordinator's own code and HTTP layer, and no network.

    The function of --data gives a sequence or mapping of client data sets, or a TFF ClientData; where it takes an argument, that is
    the round's number.
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

    muster.simulation.run(
        Plan.load(plan), load_function(data), rounds=rounds, seed=seed, out=out, goal=goal, progress=progress
    )
    if out is not None and not as_json:
        screen.print(f"Wrote {out}/checkpoints, {out}/results and {out}/metrics.csv", soft_wrap=True)
