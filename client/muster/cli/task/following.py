"""`muster task list`, `show`, `watch` and `best`: reads tasks and their rounds."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from muster.cli.failures import FAILED
from muster.cli.options import DEFAULT_URL, Token, Url
from muster.cli.options import Json as JsonOption
from muster.cli.task.arguments import Name
from muster.cli.task.text import show_task
from muster.terminal import console, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster.operator import Operator
    from muster.wire.messages import RoundView, TaskView

_MAX_ATTEMPTS = 5  # abandoned attempts that `show` lists


def list_tasks(
    *,
    archived: Annotated[
        bool, typer.Option("--archived", help="List archived tasks too. By default they are left out.")
    ] = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: JsonOption = False,
) -> None:
    """List all tasks."""
    from muster.operator import Operator

    with Operator(url, token=token) as operator:
        listed = operator.tasks(archived=archived)
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

    from muster.cli.round_text import short_rounds_of

    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("task", "kind", "population", "plan", "status", "rounds", "current"):
        table.add_column(column, overflow="fold")
    for view in views:
        current = "" if view.current is None else f"{view.current.round}: {view.current.phase.value}"
        spec = view.spec
        done = short_rounds_of(view)
        table.add_row(spec.name, spec.kind.value, spec.population, view.plan_name, view.status.value, done, current)
    if views:
        console().print(table)
    else:
        typer.echo("There are no tasks. `muster task create` creates one.")


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
    show_task(view)
    for attempt in abandoned:
        console().print(ended_round(attempt), markup=False, soft_wrap=True)


def watch(
    name: Name,
    *,
    every: Annotated[
        Optional[float],
        typer.Option(help="Seconds between two polls.", min=0.1, show_default="the coordinator's advice, 1 to 10"),
    ] = None,
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


def best(
    name: Name,
    *,
    metric: Annotated[str, typer.Option(help="Path of the metric, such as `client_work/train/loss`.")],
    higher: Annotated[
        bool, typer.Option("--higher", help="Take the highest value. By default the lowest is the best.")
    ] = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: JsonOption = False,
) -> None:
    """Show the committed round with the best value of a metric."""
    from muster.cli.round_text import ended_round
    from muster.operator import Operator

    with Operator(url, token=token) as operator:
        view = operator.best(name, metric=metric, better="higher" if higher else "lower")
    if as_json:
        write_json(view.to_dict())
    else:
        console().print(ended_round(view), markup=False, soft_wrap=True)


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
