"""Puts the commands together."""

from __future__ import annotations

import typer

import muster
from muster.cli import audit, bundle, client, enrol, key, load, simulate, smoke, state, task, up
from muster.cli.annotations import evaluate
from muster.cli.failures import Commands
from muster.cli.plan import commands

app = typer.Typer(
    cls=Commands,
    name="muster",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Federated learning over HTTP, with clients that open every connection themselves.",
    epilog="Exit codes: 0 done, 1 failed or differs, 2 wrong usage, 3 coordinator can't be reached, 130 Ctrl-C.",
)
app.command("up")(up.up)
app.add_typer(commands.app, name="plan")
app.add_typer(task.app, name="task")
app.add_typer(client.app, name="client")
app.add_typer(enrol.app, name="enrol")
app.add_typer(state.app, name="state")
app.add_typer(key.app, name="key")
app.command("audit")(audit.audit)
app.command("simulate", cls=simulate.SimulateCommand)(simulate.simulate)
app.command("load")(load.load)
app.command("smoke")(smoke.smoke)
app.command("bundle")(bundle.bundle)

# The demo has options of its own, which its module reads: it is not imported for anybody else's sake.
_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command("demo", context_settings=_PASSED_ON, add_help_option=False)
def demo(context: typer.Context) -> None:
    """Train on real digits: a coordinator and ten client processes, some of which are killed. `--help` for its options."""
    from muster.cli.demo import demo as command

    inner = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    inner.command()(command)
    evaluate(inner)
    # Not standalone, it returns the exit code that it would have ended with; or nothing.
    raise typer.Exit(inner(context.args, prog_name="muster demo", standalone_mode=False) or 0)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    *,
    version: bool = typer.Option(False, "--version", help="Show the version and exit."),
) -> None:
    """Federated learning over HTTP, with clients that open every connection themselves."""
    if version:
        typer.echo(f"muster {muster.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


evaluate(app)
