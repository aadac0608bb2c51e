"""`muster population`: lists populations with the outcomes of their check-ins."""

from __future__ import annotations

import typer

from muster.cli.options import DEFAULT_URL, Token, Url
from muster.cli.options import Json as JsonOption
from muster.terminal import console, write_json

app = typer.Typer(no_args_is_help=True, help="List populations.")


@app.command("list")
def list_populations(*, url: Url = DEFAULT_URL, token: Token = None, as_json: JsonOption = False) -> None:
    """List populations with their tasks and the check-ins of the last day."""
    from rich.table import Table

    from muster.cli.round_text import counted
    from muster.operator import Operator

    with Operator(url, token=token) as operator:
        populations = operator.populations()
    if as_json:
        write_json([view.to_dict() for view in populations])
        return
    if not populations:
        typer.echo("There are no populations: no task exists, and no client has checked in during the last day.")
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("population", "clients (about)", "check-ins of the last day", "tasks"):
        table.add_column(column, overflow="fold")
    for view in populations:
        tasks = ", ".join(view.tasks) or "none: check the name"
        table.add_row(view.population, str(view.clients), counted(view.checkins) or "none", tasks)
    console().print(table)
