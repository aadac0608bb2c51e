"""`muster simulate`: a plan's whole protocol in this process; or, with `--no-train`, a load of synthetic clients."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from muster.cli.failures import FAILED
from muster.cli.loading import load_function
from muster.cli.options import EnrolmentKey, OperatorUrl, PlanKey, Token, enrolment_key_of
from muster.cli.options import Json as JsonOption
from muster.cli.warning_lines import warnings_as_lines
from muster.terminal import console, quiet_tensorflow, write_json

if TYPE_CHECKING:
    from muster.load.run import Access, LoadShape

_LOAD, _ROUND, _WHERE = "With --no-train: clients", "With --no-train: rounds", "With --no-train: where"
_ONLY_LOAD = (
    *("clients", "concurrency", "arrivals", "rate", "dropout", "stragglers", "work", "over_selection", "minimum"),
    *("round_seconds", "assignment_seconds", "served", "workers", "url", "operator_url", "token", "key"),
    *("enrolment_key", "task"),
)


def simulate(
    context: typer.Context,
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
    seed: Annotated[
        int,
        typer.Option(help="The same plan, seed and data yield the same bytes. Every client draws independent numbers."),
    ] = 0,
    goal: Annotated[
        Optional[int],
        typer.Option(help="Updates to a round; all clients (that do not drop out) if not given.", min=1),
    ] = None,
    no_train: Annotated[
        bool,
        typer.Option("--no-train", help="Synthetic updates of ones, as fast as it goes; shows where the time goes."),
    ] = False,
    clients: Annotated[int, typer.Option(help="Clients of each round.", min=1, rich_help_panel=_LOAD)] = 1000,
    concurrency: Annotated[
        Optional[int],
        typer.Option(
            help="Closed loop: clients at it at a time; 32 if not given. Open loop: requests at once, at most; 256.",
            min=1,
            rich_help_panel=_LOAD,
        ),
    ] = None,
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
    over_selection: Annotated[
        Optional[float],
        typer.Option(
            help="Slots for each update of the goal; without --goal one for each client.", rich_help_panel=_ROUND
        ),
    ] = None,
    minimum: Annotated[
        int, typer.Option(help="A round of fewer updates is abandoned at its deadline.", rich_help_panel=_ROUND)
    ] = 1,
    round_seconds: Annotated[
        Optional[float],
        typer.Option(help="From a round's opening to its deadline; long enough if not given.", rich_help_panel=_ROUND),
    ] = None,
    assignment_seconds: Annotated[
        float, typer.Option(help="How long an assignment is good for.", rich_help_panel=_ROUND)
    ] = 300.0,
    served: Annotated[
        bool,
        typer.Option("--served", help="A coordinator of its own, with processes and sockets.", rich_help_panel=_WHERE),
    ] = False,
    workers: Annotated[
        Optional[int],
        typer.Option(help="Its web processes; one for each core if not given.", min=1, rich_help_panel=_WHERE),
    ] = None,
    # Not from MUSTER_URL: nobody should load a deployment because a shell happens to name it.
    url: Annotated[
        Optional[str],
        typer.Option(help="A deployment's address; the task that is made there stays.", rich_help_panel=_WHERE),
    ] = None,
    operator_url: OperatorUrl = None,
    token: Token = None,
    key: PlanKey = None,
    enrolment_key: EnrolmentKey = None,
    task: Annotated[
        Optional[str],
        typer.Option(
            help="The task's name, and its population's; with --url a new one if not given.", rich_help_panel=_WHERE
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a plan over local data sets, with the coordinator's own code and HTTP layer, and no network.

    The function of --data returns a sequence or mapping of client data sets, or a TFF ClientData. Its optional argument
    is the round's number.

    With --no-train no client trains: synthetic clients load the coordinator's HTTP application, without sockets and
    with waits skipped by default, as a separate server with --served, or at an address with --url. Exits with 1 if a
    sum is wrong or a round is abandoned.
    """
    quiet_tensorflow()
    asked = _asked(context)
    if not no_train:
        if plan is None or data is None:
            raise typer.BadParameter("give a plan and --data; or --no-train for a load of synthetic clients")
        _refuse(asked & set(_ONLY_LOAD), "is for a load of synthetic clients: give --no-train, or leave it out")
        _train(plan, data, rounds=rounds or 3, out=out, seed=seed, goal=goal, as_json=as_json)
        return
    _refuse(asked & {"data", "out"}, "is not for --no-train, where nobody trains")
    _check_place(asked, url=url, served=served)
    from muster.load.run import Access, LoadShape
    from muster.wire.problems import ProblemError
    from muster.wire.signatures import SigningKey

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
            arrivals=("uniform" if rate is not None and arrivals is None else arrivals) if known else "file",
            rate=rate,
            file=file,
            dropout=dropout,
            stragglers=late[0],
            straggle=late[1],
            work=work if work is not None else float(stragglers is not None),
            assignment_seconds=assignment_seconds,
            goal=goal,
            over_selection=over_selection,
            minimum=minimum,
            round_seconds=round_seconds,
            seed=seed,
        )
        shape.policy()
    except ProblemError as error:
        raise typer.BadParameter(error.detail) from error
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    access = Access(
        operator_url=operator_url,
        token=token,
        signing_key=None if key is None else SigningKey.load(key),
        enrolment_key=enrolment_key_of(enrolment_key),
    )
    _load(shape, plan, url=url, access=access, served=served, workers=workers, task=task, as_json=as_json)


def _asked(context: typer.Context) -> set[str]:
    """The parameters that the command line itself names: the environment may hold what is meant for other commands."""
    return {name for name in context.params if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"}


def _refuse(found: set[str], why: str) -> None:
    if found:
        raise typer.BadParameter(f"{', '.join(map(_option, sorted(found)))} {why}")


def _check_place(asked: set[str], *, url: Optional[str], served: bool) -> None:
    if url is not None and served:
        raise typer.BadParameter("--url and --served exclude each other: a deployment, or a coordinator of its own")
    if not served:
        _refuse(asked & {"workers"}, "is for the coordinator that --served starts")
    if url is None:
        _refuse(asked & {"operator_url"}, "is for a deployment: give --url too")
        if not served:
            _refuse(
                asked & {"token", "key", "enrolment_key"},
                "is for --url and --served: in this process nobody asks for it",
            )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


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

    with warnings_as_lines():
        found = muster.simulation.run(
            Plan.load(plan), load_function(data), rounds=rounds, seed=seed, out=out, goal=goal, progress=progress
        )
    for stage, operations in found.unseeded.items():
        sys.stderr.write(
            f"Note: {', '.join(operations)} in {stage} reads the clock or the system's entropy, which no seed reaches: what depends "
            "on it differs from run to run.\n"
        )
    if out is not None and not as_json:
        screen.print(f"Wrote {out}/checkpoints, {out}/results and {out}/metrics.csv", soft_wrap=True)


def _load(
    shape: LoadShape,
    plan: Optional[Path],
    *,
    url: Optional[str],
    access: Access,
    served: bool,
    workers: Optional[int],
    task: Optional[str],
    as_json: bool,
) -> None:
    from muster.cli.load_progress import LoadProgress, show
    from muster.load.run import run_load
    from muster.wire.plan import Plan

    with LoadProgress(clients=shape.clients) as standing:
        result = run_load(
            shape,
            plan=None if plan is None else Plan.load(plan),
            url=url,
            access=access,
            served=served,
            workers=workers,
            task=task,
            progress=standing.tell,
            stage=standing.begin,
        )
    if as_json:
        write_json(result.to_dict())
    else:
        show(console(), result)
    if result.exact is False or not all(each.committed for each in result.rounds):
        raise typer.Exit(FAILED)


def _part_and_factor(text: Optional[str]) -> tuple[float, float]:
    if text is None:
        return 0.0, 1.0
    part, _, factor = text.partition(":")
    try:
        return float(part), float(factor)
    except ValueError:
        raise typer.BadParameter(f"--stragglers is PART:FACTOR, such as 0.05:10, not {text!r}") from None
