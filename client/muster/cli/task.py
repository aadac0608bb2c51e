"""`muster task`: creates, follows and changes tasks."""

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
from muster.cli.schema_help import documented_by
from muster.terminal import console, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster.operator import Operator
    from muster.wire.messages import RoundView, TaskPolicy, TaskView
    from muster.wire.plan import Plan

app = typer.Typer(no_args_is_help=True, help="Create, follow and change tasks.")
Name = Annotated[str, typer.Argument(help="Name of the task.")]
_MAX_ATTEMPTS = 5  # abandoned attempts that `show` lists


@app.command("create", cls=documented_by("muster.wire.messages:TaskPolicy"))
def create(
    *,
    plan: Annotated[str, typer.Option(help="Plan: a file, or the SHA-256 of a plan that the coordinator stores.")],
    population: Annotated[str, typer.Option(help="Population whose clients do the work.")],
    name: Annotated[Optional[str], typer.Option(help="Name of the task.", show_default="the plan's name")] = None,
    rounds: Optional[int] = None,
    goal: Optional[int] = None,
    minimum: Optional[int] = None,
    let_single_updates_out: Annotated[
        bool,
        typer.Option(
            "--let-single-updates-out",
            help="Allow a minimum of 1, with which a result may be the update of one client. By default it is refused.",
        ),
    ] = False,
    over_selection: Optional[float] = None,
    round_seconds: Optional[float] = None,
    assignment_seconds: Optional[float] = None,
    chunk: Optional[int] = None,
    shards: Optional[int] = None,
    interval_seconds: Optional[float] = None,
    starts_at: Annotated[Optional[datetime], typer.Option(help="The option takes local time.")] = None,
    separation_seconds: Optional[float] = None,
    allow_non_finite: Annotated[Optional[bool], typer.Option("--allow-non-finite")] = None,
    max_update_norm: Optional[float] = None,
    clip: Annotated[Optional[bool], typer.Option("--clip")] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: JsonOption = False,
) -> None:
    """Create a task: store its plan and open its first round."""
    from muster.operator import Operator
    from muster.wire.messages import TaskPolicy

    options = {
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
    policy = TaskPolicy.from_dict({field: value for field, value in options.items() if value is not None})
    if policy.minimum == 1 and not let_single_updates_out:
        raise typer.BadParameter(
            "a result of one update is that client's update; choose a minimum of 2 or more, "
            "or add --let-single-updates-out",
            param_hint="--minimum" if minimum is not None else "--goal",
        )
    subject = _plan(plan)
    if name is None:
        if isinstance(subject, str):
            raise typer.BadParameter("a task for a plan given by its SHA-256 needs a name", param_hint="--name")
        name = _slug(subject.manifest.name)
    with Operator(url, token=token) as operator:
        view = operator.create_task(name, population=population, plan=subject, policy=policy)
    if as_json:
        write_json(view.to_dict())
        return
    _show(view)
    typer.echo(_needs(view.spec.policy, by_default=goal is None))
    url_option = "" if url == DEFAULT_URL else f" --url {url}"
    console().print(f"Next: muster task watch {view.spec.name}{url_option}", soft_wrap=True)


@app.command("list")
def list_tasks(*, url: Url = DEFAULT_URL, token: Token = None, as_json: JsonOption = False) -> None:
    """List all tasks."""
    from muster.operator import Operator

    with Operator(url, token=token) as operator:
        listed = operator.tasks()
    if as_json:
        write_json([view.to_dict() for view in listed.tasks])
    else:
        _show_tasks(listed.tasks)
    if listed.unreadable:
        names = ", ".join(listed.unreadable)
        reason = "which a newer version of Muster wrote and this coordinator can't read"
        typer.echo(f"Not shown: {names}, {reason}.", err=True)


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
        typer.echo("There are no tasks. `muster task create` creates one.")


@app.command("show")
def show(name: Name, *, url: Url = DEFAULT_URL, token: Token = None, as_json: JsonOption = False) -> None:
    """Show a task, its current round and the last abandoned attempts at it."""
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
    """Follow a task until it ends. Exits with 1 if it was cancelled.

    A terminal shows a live view. Elsewhere each ended round is one line, with --json of JSON.
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
    """Pause a task: no new assignments and no new rounds.

    Updates of outstanding assignments are accepted.
    """
    _change("pause", name, url=url, token=token, as_json=as_json)


@app.command("resume")
def resume(name: Name, *, url: Url = DEFAULT_URL, token: Token = None, as_json: JsonOption = False) -> None:
    """Resume a paused task."""
    _change("resume", name, url=url, token=token, as_json=as_json)


@app.command("cancel")
def cancel(name: Name, *, url: Url = DEFAULT_URL, token: Token = None, as_json: JsonOption = False) -> None:
    """Cancel a task permanently. Its checkpoints are kept."""
    _change("cancel", name, url=url, token=token, as_json=as_json)


@app.command("rollback")
def rollback(
    name: Name,
    *,
    version: Annotated[int, typer.Option(help="Version of the checkpoint; 0 is the initial state.", min=0)],
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: JsonOption = False,
) -> None:
    """Continue a task from an earlier checkpoint. A paused task stays paused."""
    _change("rollback", name, url=url, token=token, as_json=as_json, version=version)


def _change(action: str, name: str, *, url: str, token: Optional[str], as_json: bool, **parameters: Any) -> None:
    from muster.operator import Operator

    with Operator(url, token=token) as operator:
        view: TaskView = getattr(operator, action)(name, **parameters)
    if as_json:
        write_json(view.to_dict())
    else:
        _show(view)


def _needs(policy: TaskPolicy, *, by_default: bool) -> str:
    """Returns a note on the number of clients that a round waits for."""
    default = ", the default: --goal sets it" if by_default else ""
    seconds = f"{policy.round_seconds:g} s"
    if policy.minimum == policy.goal:
        at_deadline = f"with fewer after {seconds} it is tried again."
    else:
        at_deadline = f"after {seconds} {policy.minimum} are enough (minimum); with fewer it is tried again."
    return f"A round needs {policy.goal} clients (goal{default}); {at_deadline}"


def _show(view: TaskView) -> None:
    from muster.cli.round_text import ended_round, open_round, waiting_for, warnings_of
    from muster.wire.messages import Phase

    screen = console()
    spec, policy = view.spec, view.spec.policy
    screen.print(
        f"[bold]{spec.name}[/]: {view.status.value}, {view.checkpoint} of {policy.rounds} rounds\n"
        f"plan {view.plan_name} ({spec.plan[:12]}), population {spec.population}, goal {policy.goal}, "
        f"minimum {policy.minimum}",
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
    return [attempt for attempt in page.rounds if attempt.round == current.round and attempt.phase is Phase.ABANDONED]


def _plan(reference: str) -> Plan | str:
    """Returns the plan in a file, or the address that `reference` is."""
    from muster.wire.plan import Plan

    if re.fullmatch(r"[0-9a-f]{64}", reference):
        return reference
    if not Path(reference).is_file():
        raise LoadingError(f"There is no plan file {reference}; `muster plan build` writes one")
    return Plan.load(reference)


def _slug(name: str) -> str:
    """Returns a valid task name from a plan's: lower case, with dashes for other characters."""
    slug = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_")
    return (slug if slug[:1].isalpha() else f"task-{slug}")[:63].rstrip("-")
