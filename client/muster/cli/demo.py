"""`muster demo`: the main job, from a TFF computation to a trained model, with kills on the way."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Optional

import typer

from muster.cli.failures import FAILED
from muster.cli.options import Emulators
from muster.terminal import console

_TARGET = 0.9  # accuracy
_ENOUGH, _MANY = 12, 10  # rounds and clients from which on the target is expected


def demo(
    *,
    clients: Annotated[int, typer.Option(help="Client processes.", min=2, max=500)] = 10,
    rounds: Annotated[int, typer.Option(help="Rounds to train.", min=2)] = 12,
    out: Annotated[Path, typer.Option(help="The folder to leave everything in.")] = Path("muster-demo"),
    seed: Annotated[int, typer.Option(help="Draws the split and the initial weights.", min=0)] = 0,
    target: Annotated[
        Optional[float],
        typer.Option(
            help=f"The accuracy below which the exit code is 1; {_TARGET} with {_ENOUGH} rounds and {_MANY} clients or more.",
            min=0.0,
            max=1.0,
        ),
    ] = None,
    published: Annotated[
        bool,
        typer.Option(
            "--published", help="Take the signed plan that travels with Muster; so where TFF is not installed."
        ),
    ] = False,
    emulators: Emulators = False,
) -> None:
    """Train on scikit-learn's digits over client processes of this machine.

    Compiles a TFF FedAvg process (where there is no TFF, takes the compiled and signed one that travels with Muster), starts the coordinator and the clients, kills a client in mid-round and later the whole
    coordinator, and goes on. Leaves metrics.csv, accuracy.png, the checkpoints and the final weights.
    """
    from muster.cli import main
    from muster.demo.progress import ProgressDisplay
    from muster.demo.report import paragraph
    from muster.demo.run import Options, run_demo
    from muster.private_files import owner_only

    # A stop from outside cleans up as Ctrl-C does.
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
    wanted = target if target is not None else _TARGET if rounds >= _ENOUGH and clients >= _MANY else None
    if wanted is not None and story.accuracy < wanted:
        screen.console.print(f"The accuracy is below the {wanted:.0%} that were expected.", style="bold red")
        raise typer.Exit(FAILED)
