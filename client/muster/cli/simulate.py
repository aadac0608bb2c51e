"""`muster simulate`: a plan's whole protocol in this process; or, with `--no-train`, a load of synthetic clients."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from .loading import load_function
from .options import Json as JsonOption
from .options import console, quiet_tensorflow, write_json

_LOAD = "With --no-train"


def simulate(
    plan: Annotated[
        Optional[Path], typer.Argument(help="The plan's file; --no-train has a small one.", exists=True, dir_okay=False)
    ] = None,
    *,
    data: Annotated[
        Optional[str],
        typer.Option(metavar="MODULE:FUNCTION", help="What gives the data: module:function or file.py:function."),
    ] = None,
    rounds: Annotated[Optional[int], typer.Option(help="Rounds to commit; 3, or 1 with --no-train.", min=1)] = None,
    out: Annotated[Optional[Path], typer.Option(help="Folder for checkpoints, results and metrics.csv.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed and data give the same bytes.")] = 0,
    goal: Annotated[Optional[int], typer.Option(help="Updates to a round; all clients if not given.", min=1)] = None,
    no_train: Annotated[
        bool,
        typer.Option("--no-train", help="Synthetic updates of ones, as fast as it goes; shows where the time goes."),
    ] = False,
    clients: Annotated[int, typer.Option(help="Clients of each round.", min=1, rich_help_panel=_LOAD)] = 1000,
    concurrency: Annotated[
        int, typer.Option(help="Closed loop: clients at it at a time.", min=1, rich_help_panel=_LOAD)
    ] = 32,
    arrivals: Annotated[
        Optional[str],
        typer.Option(
            metavar="uniform|poisson|burst|FILE",
            help="Open loop: how clients come; or a file of times, seconds from a round's opening.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    rate: Annotated[
        Optional[float],
        typer.Option(help="Open loop: clients a second; all in a minute if not given.", rich_help_panel=_LOAD),
    ] = None,
    dropout: Annotated[
        float, typer.Option(help="Part of clients that vanish after their check-in.", rich_help_panel=_LOAD)
    ] = 0.0,
    stragglers: Annotated[
        Optional[str],
        typer.Option(
            metavar="PART:FACTOR", help="Part of clients that take so many times as long.", rich_help_panel=_LOAD
        ),
    ] = None,
    work: Annotated[
        Optional[float],
        typer.Option(help="Seconds of a client's work; 0, or 1 with stragglers.", min=0.0, rich_help_panel=_LOAD),
    ] = None,
    assignment_seconds: Annotated[
        float, typer.Option(help="How long an assignment is good for.", rich_help_panel=_LOAD)
    ] = 300.0,
    served: Annotated[
        bool,
        typer.Option("--served", help="A coordinator of its own, with processes and sockets.", rich_help_panel=_LOAD),
    ] = False,
    workers: Annotated[
        Optional[int],
        typer.Option(help="Its web processes; one for each core if not given.", min=1, rich_help_panel=_LOAD),
    ] = None,
    url: Annotated[
        Optional[str], typer.Option(help="A deployment; the task that is made there stays.", rich_help_panel=_LOAD)
    ] = None,
    task: Annotated[str, typer.Option(help="The task's name, and its population's.", rich_help_panel=_LOAD)] = "load",
    as_json: JsonOption = False,
) -> None:
    """Run a plan over local data sets, with the coordinator's own code and HTTP layer, and no network.

    The function of --data gives a sequence or mapping of client data sets, or a TFF ClientData; where it takes an argument, that is
    the round's number.

    With --no-train nobody works: synthetic clients load the coordinator's HTTP application, here without sockets and with waits that
    are skipped, on one of its own (--served), or on any (--url).
    """
    quiet_tensorflow()
    if not no_train:
        if plan is None or data is None:
            raise typer.BadParameter("give a plan and --data; or --no-train for a load of synthetic clients")
        _train(plan, data, rounds=rounds or 3, out=out, seed=seed, goal=goal, as_json=as_json)
        return
    if data is not None or out is not None or goal is not None:
        raise typer.BadParameter("--no-train takes neither --data nor --out nor --goal")
    from muster.simulation.load_shape import LoadShape

    late = _part_and_factor(stragglers)
    known = arrivals in (None, "uniform", "poisson", "burst")
    file = None if known else Path(str(arrivals))
    if file is not None and not file.is_file():
        raise typer.BadParameter(f"--arrivals is uniform, poisson, burst or a file; {arrivals} is none of them")
    try:
        shape = LoadShape(
            clients=clients,
            rounds=rounds or 1,
            concurrency=concurrency,
            arrivals=("uniform" if rate and arrivals is None else arrivals) if known else "file",
            rate=rate,
            file=file,
            dropout=dropout,
            stragglers=late[0],
            straggle=late[1],
            work=work if work is not None else float(stragglers is not None),
            assignment_seconds=assignment_seconds,
            seed=seed,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    _load(shape, plan, url=url, served=served, workers=workers, task=task, as_json=as_json)


def _train(
    plan: Path, data: str, *, rounds: int, out: Optional[Path], seed: int, goal: Optional[int], as_json: bool
) -> None:
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


def _load(
    shape: Any,
    plan: Optional[Path],
    *,
    url: Optional[str],
    served: bool,
    workers: Optional[int],
    task: str,
    as_json: bool,
) -> None:
    from muster.simulation.load import run_load
    from muster.wire.plan import Plan

    from .load_screen import bar, show

    screen = console()
    with bar(screen, clients=shape.clients, rounds=shape.rounds, quiet=as_json) as progress:
        result = run_load(
            shape,
            plan=None if plan is None else Plan.load(plan),
            url=url,
            served=served,
            workers=workers,
            task=task,
            progress=progress,
        )
    if as_json:
        write_json(result.to_dict())
    else:
        show(screen, result)
    if result.exact is False:
        raise typer.Exit(1)


def _part_and_factor(text: Optional[str]) -> tuple[float, float]:
    if text is None:
        return 0.0, 1.0
    part, _, factor = text.partition(":")
    try:
        return float(part), float(factor)
    except ValueError:
        raise typer.BadParameter(f"--stragglers is PART:FACTOR, such as 0.05:10, not {text!r}") from None
