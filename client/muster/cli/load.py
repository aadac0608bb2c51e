"""`muster load`: puts synthetic clients on a coordinator and shows what it serves."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from muster.cli.failures import FAILED
from muster.cli.options import EnrolmentKey, OperatorUrl, PlanKey, Token, enrolment_key_of
from muster.cli.options import Json as JsonOption
from muster.terminal import console, quiet_tensorflow, write_json


def _option(*names: str, panel: str, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, **more)


_client_option = partial(_option, panel="Clients")
_round_option = partial(_option, panel="Rounds")
_place_option = partial(_option, panel="Where")
_ARRIVALS_HELP = "Open loop: how clients arrive. A file has a time in seconds from the round's opening in each line."
_STRAGGLERS_HELP = "Fraction of clients whose work takes FACTOR times as long, such as 0.05:10."

PlanFile = Annotated[
    Optional[Path],
    typer.Argument(help="File of the plan.", exists=True, dir_okay=False, show_default="one that sums ten integers"),
]
Clients = Annotated[int, _client_option(help="Clients of each round.", min=1)]
Concurrency = Annotated[
    Optional[int],
    _client_option(
        help="Closed loop: clients at once. Open loop: most requests at once.", min=1, show_default="32; open loop 256"
    ),
]
Arrivals = Annotated[
    Optional[str],
    _client_option(metavar="uniform|poisson|burst|FILE", help=_ARRIVALS_HELP, show_default="closed loop"),
]
Rate = Annotated[
    Optional[float], _client_option(help="Open loop: clients per second.", show_default="all within a minute")
]
Dropout = Annotated[float, _client_option(help="Fraction of clients that vanish after their check-in.")]
Stragglers = Annotated[Optional[str], _client_option(metavar="FRACTION:FACTOR", help=_STRAGGLERS_HELP)]
Work = Annotated[
    Optional[float],
    _client_option(help="Seconds from an assignment to its upload.", min=0.0, show_default="0; with stragglers 1"),
]
Seed = Annotated[int, _client_option(help="Seed of arrivals and of who straggles.")]
Rounds = Annotated[int, _round_option(help="Rounds; abandoned ones count.", min=1)]
Goal = Annotated[
    Optional[int],
    _round_option(help="Updates that close a round.", min=1, show_default="all clients that do not drop out"),
]
OverSelection = Annotated[
    Optional[float],
    _round_option(help="Slots per update of the goal.", show_default="1; without --goal one per client"),
]
Minimum = Annotated[int, _round_option(help="A round with fewer updates is abandoned at its deadline.")]
RoundSeconds = Annotated[
    Optional[float],
    _round_option(help="Seconds from a round's opening to its deadline.", show_default="enough for all clients"),
]
AssignmentSeconds = Annotated[float, _round_option(help="Seconds for which an assignment is valid.")]
Served = Annotated[bool, _place_option("--served", help="Start a coordinator with separate processes and sockets.")]
Workers = Annotated[Optional[int], _place_option(help="Its web processes.", min=1, show_default="one per core")]
# Not from MUSTER_URL: a load must not reach a deployment because a shell happens to name it.
Url = Annotated[Optional[str], _place_option(help="URL of a deployment. The load's task stays there.")]
Task = Annotated[
    Optional[str],
    _place_option(help="Name of the load's task and population.", show_default="load; with --url a new name"),
]


def load(
    context: typer.Context,
    plan: PlanFile = None,
    *,
    clients: Clients = 1000,
    concurrency: Concurrency = None,
    arrivals: Arrivals = None,
    rate: Rate = None,
    dropout: Dropout = 0.0,
    stragglers: Stragglers = None,
    work: Work = None,
    seed: Seed = 0,
    rounds: Rounds = 1,
    goal: Goal = None,
    over_selection: OverSelection = None,
    minimum: Minimum = 1,
    round_seconds: RoundSeconds = None,
    assignment_seconds: AssignmentSeconds = 300.0,
    served: Served = False,
    workers: Workers = None,
    url: Url = None,
    operator_url: OperatorUrl = None,
    token: Token = None,
    key: PlanKey = None,
    enrolment_key: EnrolmentKey = None,
    task: Task = None,
    as_json: JsonOption = False,
) -> None:
    """Load a coordinator with synthetic clients, and show its times and its capacity.

    No client trains: each uploads the same update of ones, so that every round's sum can be
    checked. In a closed loop, the next client arrives when one is done; with --arrivals or --rate,
    clients arrive on a schedule (open loop).

    By default the coordinator's HTTP application runs in this process, without sockets, and idle
    time is skipped. --served starts a separate coordinator; --url loads a deployment.

    Exits with 1 if a sum is wrong or a round is abandoned.
    """
    quiet_tensorflow()
    _check_place(context, url=url, served=served)
    from muster.cli.load_progress import LoadProgress, show
    from muster.load.run import Access, LoadShape, run_load
    from muster.wire.plan import Plan
    from muster.wire.problems import ProblemError
    from muster.wire.signatures import SigningKey

    if arrivals is None and rate is not None:
        arrivals = "uniform"
    is_named = arrivals in (None, "uniform", "poisson", "burst")
    file = None if is_named else Path(str(arrivals))
    if file is not None and not file.is_file():
        raise typer.BadParameter(f"--arrivals is uniform, poisson, burst or a file; {arrivals} is none of them")
    fraction, factor = _fraction_and_factor(stragglers)
    try:
        shape = LoadShape(
            clients=clients,
            rounds=rounds,
            concurrency=concurrency,
            arrivals=arrivals if is_named else "file",
            rate=rate,
            file=file,
            dropout=dropout,
            stragglers=fraction,
            straggle=factor,
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
    with LoadProgress(clients=clients) as line:
        result = run_load(
            shape,
            plan=None if plan is None else Plan.load(plan),
            url=url,
            access=access,
            served=served,
            workers=workers,
            task=task,
            progress=line.report,
            stage=line.begin,
        )
    if as_json:
        write_json(result.to_dict())
    else:
        show(console(), result)
    if result.exact is False or not all(attempt.committed for attempt in result.rounds):
        raise typer.Exit(FAILED)


def _check_place(context: typer.Context, *, url: Optional[str], served: bool) -> None:
    """Raises `typer.BadParameter` if an option is for another place than the load's."""
    if url is not None and served:
        raise typer.BadParameter("--url and --served exclude each other: a deployment, or a new coordinator")
    deployment, process = url is not None, url is None and not served
    misplaced = {
        "workers": "" if served else "is for the coordinator that --served starts",
        "operator_url": "" if deployment else "is for a deployment: give --url too",
        **dict.fromkeys(
            ("token", "key", "enrolment_key"),
            "is for --url and --served: in this process no credentials are needed" if process else "",
        ),
    }
    for name, reason in misplaced.items():
        # The environment may name credentials for other commands.
        source = context.get_parameter_source(name)
        if reason and source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"--{name.replace('_', '-')} {reason}")


def _fraction_and_factor(text: Optional[str]) -> tuple[float, float]:
    if text is None:
        return 0.0, 1.0
    fraction, _, factor = text.partition(":")
    try:
        return float(fraction), float(factor)
    except ValueError:
        raise typer.BadParameter(f"--stragglers is FRACTION:FACTOR, such as 0.05:10, not {text!r}") from None
