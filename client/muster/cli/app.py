"""The application `muster`: all commands, each in a module of its name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
import typer.main
from typer.core import TyperCommand

import muster
from muster.cli import (
    audit,
    bundle,
    checkpoint,
    client,
    demo,
    enrol,
    key,
    load,
    population,
    simulate,
    smoke,
    state,
    up,
)
from muster.cli.annotations import evaluate
from muster.cli.failures import Commands
from muster.cli.plan import commands as plan
from muster.cli.schema_help import SchemaCommand
from muster.cli.task import commands as task

app = typer.Typer(
    cls=Commands,
    name="muster",
    rich_markup_mode="markdown",  # joins the lines of a docstring's paragraph
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Federated learning over HTTP: run a coordinator, create tasks and run clients.",
    epilog="Exit codes: 0 success, 1 failure or difference, 2 wrong usage, 3 coordinator unreachable, 130 Ctrl-C.",
)
app.command("up")(up.up)
app.add_typer(plan.app, name="plan")
app.add_typer(task.app, name="task")
app.add_typer(checkpoint.app, name="checkpoint")
app.add_typer(population.app, name="population")
app.add_typer(client.app, name="client")
app.add_typer(enrol.app, name="enrol")
app.add_typer(state.app, name="state")
app.add_typer(key.app, name="key")
app.command("audit")(audit.audit)
app.command("simulate", cls=simulate.SimulateCommand)(simulate.simulate)
app.command("load")(load.load)
app.command("smoke")(smoke.smoke)
app.command("bundle")(bundle.bundle)
app.command("demo")(demo.demo)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    *,
    version: bool = typer.Option(False, "--version", help="Show the version and exit."),
) -> None:
    """Federated learning over HTTP: run a coordinator, create tasks and run clients."""
    if version:
        typer.echo(f"muster {muster.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def leaf_commands() -> Iterator[tuple[str, TyperCommand]]:
    """Yields every command with its full name, such as `task create`, in the order of `--help`.

    Options that set a field of a model have their help already.
    """
    pending: list[tuple[str, Any]] = [("", typer.main.get_command(app))]
    while pending:
        name, command = pending.pop(0)
        if hasattr(command, "commands"):
            pending[:0] = [(f"{name} {inner}".strip(), item) for inner, item in command.commands.items()]
            continue
        if isinstance(command, SchemaCommand):
            command.describe_options()
        yield name, command


evaluate(app)
