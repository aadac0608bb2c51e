"""`muster task`: what an operator does with tasks."""

from __future__ import annotations

import re
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from muster.cli.failures import FAILED, LoadingError
from muster.cli.options import DEFAULT_URL, Token, Url
from muster.cli.options import Json as JsonOption
from muster.terminal import console, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster.operator import Operator
    from muster.wire.messages import RoundView, TaskPolicy, TaskView
    from muster.wire.plan import Plan

app = typer.Typer(no_args_is_help=True, help="Make tasks, follow them, and change their course.")
Name = Annotated[str, typer.Argument(help="The task's name.")]
_MAX_ATTEMPTS = 5  # abandoned ones that `show` lists


@app.command("create")
def create(
    *,
    plan: Annotated[str, typer.Option(help="The plan's file, or the SHA-256 of one that the coordinator has.")],
    population: Annotated[str, typer.Option(help="The clients that do the work.")],
    name: Annotated[Optional[str], typer.Option(help="The task's name; made of the plan's if not given.")] = None,
    rounds: Annotated[Optional[int], typer.Option(help="Rounds to commit.", show_default="10")] = None,
    goal: Annotated[Optional[int], typer.Option(help="Updates that close a round.", show_default="10")] = None,
    minimum: Annotated[
        Optional[int],
        typer.Option(
            help="Fewest updates in a result. With fewer at its deadline a round is abandoned and tried again.",
            show_default="the goal",
        ),
    ] = None,
    let_single_updates_out: Annotated[
        bool,
        typer.Option(
            "--let-single-updates-out", help="Allow a minimum of 1, where a result may be one client's update."
        ),
    ] = False,
    over_selection: Annotated[
        Optional[float], typer.Option(help="Assignments for each update of the goal.", show_default="1.0")
    ] = None,
    round_seconds: Annotated[
        Optional[float], typer.Option(help="From a round's opening to its deadline.", show_default="600")
    ] = None,
    assignment_seconds: Annotated[
        Optional[float], typer.Option(help="Time that a client has for its work and upload.", show_default="300")
    ] = None,
    chunk: Annotated[
        Optional[int], typer.Option(help="Updates that are folded into one partial.", show_default="32")
    ] = None,
    shards: Annotated[
        Optional[int], typer.Option(help="Groups that are counted apart.", show_default="by size")
    ] = None,
    interval_seconds: Annotated[
        Optional[float], typer.Option(help="At least so long from one round's opening to the next.", show_default="0")
    ] = None,
    starts_at: Annotated[
        Optional[datetime], typer.Option(help="When the first round opens, local time.", show_default="now")
    ] = None,
    separation_seconds: Annotated[
        Optional[float],
        typer.Option(
            help="Least time between two contributions of a client, over all tasks of the population that set it.",
            show_default="0",
        ),
    ] = None,
    allow_non_finite: Annotated[
        Optional[bool], typer.Option("--allow-non-finite", help="Let updates hold NaN and infinity.")
    ] = None,
    max_update_norm: Annotated[
        Optional[float], typer.Option(help="Drop updates of a larger L2 norm.", show_default="any")
    ] = None,
    clip: Annotated[
        Optional[bool], typer.Option("--clip", help="Scale larger updates down to --max-update-norm instead.")
    ] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: JsonOption = False,
) -> None:
    """Make a task: store its plan, and open its first round."""
    from muster.operator import Operator
    from muster.wire.messages import TaskPolicy

    given = {
        "rounds": rounds,
        "goal": goal,
        "minimum": minimum,
        "over_selection": over_selection,
        "round_seconds": round_seconds,
        "assignment_seconds": assignment_seconds,
        "chunk": chunk,
        "shards": shards,
        "interval_seconds": interval_seconds,
        "starts_at": None if starts_at is None else starts_at.astimezone(),
        "separation_seconds": separation_seconds,
        "allow_non_finite": allow_non_finite,
        "max_update_norm": max_update_norm,
        "clip": clip,
    }
    policy = TaskPolicy.from_dict({field: value for field, value in given.items() if value is not None})
    if policy.minimum == 1 and not let_single_updates_out:
        raise typer.BadParameter(
            "a result over one update is that client's update; choose a minimum of 2 or more, "
            "or pass --let-single-updates-out as well",
            param_hint="--minimum" if minimum is not None else "--goal",
        )
    subject = _plan(plan)
    if name is None:
        if isinstance(subject, str):
            raise typer.BadParameter("a plan given by its hash needs a name for its task", param_hint="--name")
        name = _slug(subject.manifest.name)
    with Operator(url, token=token) as operator:
        view = operator.create_task(name, population=population, plan=subject, policy=policy)
    if as_json:
        write_json(view.to_dict())
        return
    _show(view)
    typer.echo(_needs(view.spec.policy, by_default=goal is None))
    where = "" if url == DEFAULT_URL else f" --url {url}"
    console().print(f"Next: muster task watch {view.spec.name}{where}", soft_wrap=True)


@app.command("list")
def list_tasks(*, url: Url = DEFAULT_URL, token: Token = None, as_json: JsonOption = False) -> None:
    """List all tasks."""
    from muster.operator import Operator

    with Operator(url, token=token) as operator:
        found = operator.tasks()
    if as_json:
        write_json([view.to_dict() for view in found.tasks])
    else:
        _show_tasks(found.tasks)
    if found.unreadable:
        names = ", ".join(found.unreadable)
        why = "which the coordinator can't read: a newer version of Muster wrote it, most likely, and can"
        typer.echo(f"Not shown: {names}, {why}.", err=True)


def _show_tasks(views: Sequence[TaskView]) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("task", "population", "plan", "status", "rounds", "current"):
        table.add_column(column, overflow="fold")
    for view in views:
        current = "" if view.current is None else f"{view.current.round}: {view.current.phase.value}"
        spec = view.spec
        done = f"{view.checkpoint}/{spec.policy.rounds}"
        table.add_row(spec.name, spec.population, view.plan_name, view.status.value, done, current)
    if views:
        console().print(table)
    else:
        typer.echo("There are no tasks. `muster task create` makes one.")


@app.command("show")
def show(name: Name, *, url: Url = DEFAULT_URL, token: Token = None, as_json: JsonOption = False) -> None:
    """Show a task with its current round, and the last attempts at it that were abandoned."""
    from muster.cli.round_text import ended_round
    from muster.operator import Operator

    with Operator(url, token=token) as operator:
        view = operator.task(name)
        abandoned = [] if as_json else _abandoned(operator, view)
    if as_json:
        write_json(view.to_dict())
        return
    _show(view)
    for attempt in abandoned:
        console().print(ended_round(attempt), markup=False, soft_wrap=True)


@app.command("watch")
def watch(
    name: Name,
    *,
    every: Annotated[float, typer.Option(help="Seconds between two polls.", min=0.1)] = 1.0,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: JsonOption = False,
) -> None:
    """Follow a task until it is done; exit 1 if it was cancelled.

    A terminal shows a live view. Elsewhere each round that ends is one line, written at once. With --json each line is
    JSON.
    """
    from muster.cli.watching import follow_json, follow_lines, follow_live
    from muster.operator import Operator
    from muster.wire.messages import TaskStatus

    follow = follow_json if as_json else follow_live if sys.stdout.isatty() else follow_lines
    with Operator(url, token=token) as operator:
        last = follow(operator, name, every=every)
    if last.status is TaskStatus.CANCELLED:
        raise typer.Exit(FAILED)


@app.command("pause")
def pause(name: Name, *, url: Url = DEFAULT_URL, token: Token = None, as_json: JsonOption = False) -> None:
    """Give no new assignments and open no new rounds; updates under way are taken."""
    _change("pause", name, url=url, token=token, as_json=as_json)


@app.command("resume")
def resume(name: Name, *, url: Url = DEFAULT_URL, token: Token = None, as_json: JsonOption = False) -> None:
    """Go on after a pause."""
    _change("resume", name, url=url, token=token, as_json=as_json)


@app.command("cancel")
def cancel(name: Name, *, url: Url = DEFAULT_URL, token: Token = None, as_json: JsonOption = False) -> None:
    """End a task for good; its checkpoints stay."""
    _change("cancel", name, url=url, token=token, as_json=as_json)


@app.command("rollback")
def rollback(
    name: Name,
    *,
    version: Annotated[int, typer.Option(help="The checkpoint to go back to; 0 is the initial state.", min=0)],
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: JsonOption = False,
) -> None:
    """Go back to an earlier checkpoint and continue from there. A paused task stays paused until you resume it."""
    _change("rollback", name, url=url, token=token, as_json=as_json, version=version)


def _change(what: str, name: str, *, url: str, token: Optional[str], as_json: bool, **more: Any) -> None:
    from muster.operator import Operator

    with Operator(url, token=token) as operator:
        view: TaskView = getattr(operator, what)(name, **more)
    if as_json:
        write_json(view.to_dict())
    else:
        _show(view)


def _needs(policy: TaskPolicy, *, by_default: bool) -> str:
    """Returns the number of clients that a round needs, since it does not progress until they check in."""
    default = ", the default: --goal sets it" if by_default else ""
    seconds = f"{policy.round_seconds:g} s"
    if policy.minimum == policy.goal:
        late = f"with fewer after {seconds} it is tried again."
    else:
        late = f"after {seconds} {policy.minimum} are enough (minimum); with fewer it is tried again."
    return f"A round needs {policy.goal} clients (goal{default}); {late}"


def _show(view: TaskView) -> None:
    from muster.cli.round_text import ended_round, open_round, waiting_for, warnings_of
    from muster.wire.messages import Phase

    screen = console()
    spec, policy = view.spec, view.spec.policy
    screen.print(
        f"[bold]{spec.name}[/]: {view.status.value}, {view.checkpoint} of {policy.rounds} rounds\n"
        f"plan {view.plan_name} ({spec.plan[:12]}), population {spec.population}, goal {policy.goal}, minimum {policy.minimum}",
        soft_wrap=True,
    )
    for warning in warnings_of(view):
        screen.print(warning, style="bold red", markup=False, soft_wrap=True)
    if view.current is not None:
        ended = view.current.phase in (Phase.COMMITTED, Phase.ABANDONED)
        screen.print((ended_round if ended else open_round)(view.current), markup=False, soft_wrap=True)
    waiting = waiting_for(view)
    if waiting is not None:
        screen.print(waiting, markup=False, soft_wrap=True)
    if view.note:
        screen.print(view.note, style="yellow", markup=False, soft_wrap=True)


def _abandoned(operator: Operator, view: TaskView) -> list[RoundView]:
    """Returns the last abandoned attempts at the task's current round, oldest first."""
    from muster.wire.messages import Phase

    current = view.current
    if current is None or not current.epoch:
        return []
    first = current.epoch - _MAX_ATTEMPTS
    after = f"{current.round:06d}-{first - 1:04d}" if first > 0 else f"{current.round - 1:06d}-9999"
    page = operator.rounds_page(view.spec.name, after=after, limit=_MAX_ATTEMPTS)
    return [each for each in page.rounds if each.round == current.round and each.phase is Phase.ABANDONED]


def _plan(given: str) -> Plan | str:
    from muster.wire.plan import Plan

    if re.fullmatch(r"[0-9a-f]{64}", given):
        return given
    if not Path(given).is_file():
        raise LoadingError(f"There is no plan file {given}; `muster plan build` writes one")
    return Plan.load(given)


def _slug(name: str) -> str:
    """A task's name of a plan's: lower case, dashes for what a name may not hold."""
    slug = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_")
    return (slug if slug[:1].isalpha() else f"task-{slug}")[:63].rstrip("-")
