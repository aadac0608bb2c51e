"""`muster up`: the coordinator on this machine."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from muster.cli.options import Emulators
from muster.cli.options import Json as JsonOption
from muster.terminal import console, write_json

if TYPE_CHECKING:
    from muster.local.process import Died


def up(
    *,
    host: Annotated[
        str, typer.Option(help="The address to listen on; 0.0.0.0 for every one of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on; 0 for a free one.", min=0, max=65535)] = 8080,
    data_dir: Annotated[
        Path,
        typer.Option(
            help="The folder of all that lasts; the same folder goes on where it was.", envvar="MUSTER_DATA_DIR"
        ),
    ] = Path("muster-data"),
    workers: Annotated[int, typer.Option(help="Processes that serve requests.", min=1)] = 2,
    threads: Annotated[int, typer.Option(help="Requests that each of them serves at once.", min=1)] = 16,
    tick: Annotated[float, typer.Option(help="Seconds from one repair of what got lost to the next.", min=0.1)] = 5.0,
    emulators: Emulators = False,
    as_json: JsonOption = False,
) -> None:
    """Run the coordinator here: all its functions at one address, on an embedded store, until Ctrl-C.

    With --emulators state and blobs are in the emulators of Firestore and Cloud Storage, which keep nothing beyond the end.
    """
    from muster.local.coordinator import LocalCoordinator
    from muster.wire.signatures import parse_signers

    screen = console()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    def died(event: Died) -> None:
        if as_json:
            write_json({"event": "died", "process": event.name, "code": event.code, "log": str(event.log)})
        else:
            again = f"it starts again in {event.pause:.1f} s; its log is {event.log}"
            screen.print(f"[bold red]The {event.name} process died (code {event.code})[/]: {again}", soft_wrap=True)

    clients = os.environ.get("MUSTER_CLIENTS", "open").partition(":")[0]
    coordinator = LocalCoordinator(
        data_dir,
        host=host,
        port=port,
        workers=workers,
        threads=threads,
        tick_seconds=tick,
        on_died=died,
        emulators=emulators,
    )
    if as_json:
        coordinator.start()
        write_json(
            {
                "event": "started",
                "url": coordinator.url,
                "data_dir": str(coordinator.data_dir),
                "pids": coordinator.pids,
                "clients": clients,
                **({"emulators": coordinator.emulated} if emulators else {}),
            }
        )
    else:
        with screen.status("Starting the coordinator; TensorFlow takes some seconds"):
            coordinator.start()
        where = "" if coordinator.url.endswith(":8080") else f" --url {coordinator.url}"
        kept = f"State and logs: {coordinator.data_dir}"
        again = "`muster up` with the same folder goes on."
        if emulators:
            listening = ", ".join(f"{name} at {address}" for name, address in coordinator.emulated.items())
            kept = f"State and blobs: emulators ({listening}); logs: {coordinator.logs}"
            again = "the emulators end with it, and keep nothing."
        signers = parse_signers(os.environ.get("MUSTER_TRUSTED_SIGNERS", ""))
        trust = (
            f"Plans: signed by {', '.join(signers)}."
            if signers
            else "Plans: anybody's (MUSTER_TRUSTED_SIGNERS is not set)."
        )
        screen.print(
            f"[bold]Muster is up[/] at {coordinator.url}\n"
            f"{kept}\n"
            f"{trust}\n\n"
            f"Next, in other terminals:\n"
            f"  muster task create --plan my.plan --population devices{where}\n"
            f"  muster client run --population devices --data my_module:my_data{where}\n\n"
            f"Ctrl-C ends it; {again}",
            soft_wrap=True,
        )
        if os.environ.get("MUSTER_OPERATORS", "open") == "open":
            screen.print(
                "[bold red]Operators are not authenticated[/] (MUSTER_OPERATORS is open): whoever reaches this address may make, change "
                "and read every task. `muster key operator` makes a key.",
                soft_wrap=True,
            )
        if clients == "open":
            screen.print(
                "[bold red]Clients are not authenticated[/] (MUSTER_CLIENTS is open): each is who it says, and one device can be a "
                "thousand. For development only; `muster enrol key` is a way out of it.",
                soft_wrap=True,
            )
    try:
        stop.wait()
    finally:
        coordinator.stop()
    if as_json:
        write_json({"event": "stopped"})
    else:
        screen.print("Stopped.")
