"""`muster demo`: trains on real digits over client processes, some of which are killed."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Optional

import typer

from muster.cli.failures import FAILED
from muster.cli.options import Emulators
from muster.terminal import console

_TARGET = 0.9  # accuracy
_MIN_ROUNDS, _MIN_CLIENTS = 12, 10  # with fewer, no accuracy is expected


def demo(
    *,
    clients: Annotated[int, typer.Option(help="Number of client processes.", min=2, max=500)] = 10,
    rounds: Annotated[int, typer.Option(help="Number of rounds.", min=2)] = 12,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("muster-demo"),
    seed: Annotated[int, typer.Option(help="Seed of the data's split and of the initial weights.", min=0)] = 0,
    target: Annotated[
        Optional[float],
        typer.Option(
            help="Accuracy to reach; below it the exit code is 1.",
            show_default=f"{_TARGET} with at least {_MIN_ROUNDS} rounds and {_MIN_CLIENTS} clients, else none",
            min=0.0,
            max=1.0,
        ),
    ] = None,
    published: Annotated[
        bool,
        typer.Option(
            "--published",
            help="Use the compiled and signed plan that is part of Muster. By default it is used only where TFF is "
            "not installed.",
        ),
    ] = False,
    emulators: Emulators = False,
) -> None:
    """Train on scikit-learn's digits with a coordinator and client processes on this machine.

    Compiles a FedAvg process of TFF, or uses a compiled and signed plan where TFF is not installed.
    Kills one client in the middle of a round and later the coordinator, and completes the training.
    Writes metrics.csv, accuracy.png, the checkpoints and the final weights.
    """
    from muster.cli import main
    from muster.demo.progress import ProgressDisplay
    from muster.demo.report import paragraph
    from muster.demo.run import Options, run_demo
    from muster.private_files import owner_only

    # SIGTERM cleans up as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ProgressDisplay(console()) as screen, owner_only():
        story = run_demo(
            Options(clients=clients, rounds=rounds, out=out, seed=seed, published=published, emulators=emulators),
            screen,
            command=main,
        )
        seconds = screen.elapsed
    screen.console.print()
    screen.console.print(paragraph(story, seconds=seconds, folder=out), markup=False)
    wanted = target if target is not None else _TARGET if rounds >= _MIN_ROUNDS and clients >= _MIN_CLIENTS else None
    if wanted is not None and story.accuracy < wanted:
        screen.console.print(f"The accuracy is below the {wanted:.0%} that were expected.", style="bold red")
        raise typer.Exit(FAILED)
