"""`muster checkpoint`: lists the checkpoints of a task with their lineage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

from muster.cli.options import DEFAULT_URL, Token, Url
from muster.cli.options import Json as JsonOption
from muster.terminal import console, size, write_json

if TYPE_CHECKING:
    from muster.wire.messages import BaseView, CheckpointView

app = typer.Typer(no_args_is_help=True, help="List the checkpoints of a task.")


@app.command("list")
def list_checkpoints(
    name: Annotated[str, typer.Argument(help="Name of the task.")],
    *,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: JsonOption = False,
) -> None:
    """List a task's checkpoints with the state that each was made from."""
    from rich.table import Table

    from muster.operator import Operator

    with Operator(url, token=token) as operator:
        checkpoints = operator.checkpoints(name)
    if as_json:
        write_json([view.to_dict() for view in checkpoints])
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("version", "made from", "round of line", "size", "time", "tags"):
        table.add_column(column, overflow="fold")
    for view in checkpoints:
        table.add_row(
            str(view.version),
            base_text(view.parent, task=name),
            str(view.line),
            size(view.size) if view.stored else "deleted",
            f"{view.created_at.astimezone():%Y-%m-%d %H:%M:%S}",
            _notes(view),
        )
    console().print(table)


def base_text(base: Optional[BaseView], *, task: str) -> str:
    """Returns a base as text: `3` of the task itself, `digits@3`, or a state's short hash."""
    if base is None:
        return "the plan"
    if base.state is not None:
        text = f"state {base.state[:12]}"
    else:
        text = str(base.version) if base.task in (None, task) else f"{base.task}@{base.version}"
    return f"{text} ({', '.join(base.leaves)})" if base.leaves else text


def _notes(view: CheckpointView) -> str:
    return ", ".join([*view.tags, *([f"request {view.request}"] if view.request else [])])
