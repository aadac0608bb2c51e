"""`muster up`: runs a coordinator on this machine."""

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
    from rich.console import Console

    from muster.local import LocalCoordinator
    from muster.local.process import Died


def up(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all interfaces.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for a free one.", min=0, max=65535)] = 8080,
    data_dir: Annotated[
        Path,
        typer.Option(
            help="Folder of all persistent data. A restart with the same folder resumes all tasks.",
            envvar="MUSTER_DATA_DIR",
        ),
    ] = Path("muster-data"),
    workers: Annotated[int, typer.Option(help="Number of processes that serve requests.", min=1)] = 2,
    threads: Annotated[int, typer.Option(help="Number of concurrent requests of each process.", min=1)] = 16,
    tick: Annotated[float, typer.Option(help="Seconds between two ticks, which repeat lost work.", min=0.1)] = 5.0,
    emulators: Emulators = False,
    as_json: JsonOption = False,
) -> None:
    """Run a coordinator on this machine, with an embedded store, until Ctrl-C.

    All functions are served at one address. With --emulators, nothing is stored beyond the end of
    the command.
    """
    from muster.local import LocalCoordinator

    screen = console()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    def report_death(event: Died) -> None:
        if as_json:
            write_json({"event": "died", "process": event.name, "code": event.code, "log": str(event.log)})
        else:
            restart = f"it restarts in {event.pause:.1f} s; its log is {event.log}"
            screen.print(f"[bold red]The {event.name} process died (code {event.code})[/]: {restart}", soft_wrap=True)

    coordinator = LocalCoordinator(
        data_dir,
        host=host,
        port=port,
        workers=workers,
        threads=threads,
        tick_seconds=tick,
        on_died=report_death,
        emulators=emulators,
    )
    if as_json:
        coordinator.start()
        _write_started(coordinator, emulators=emulators)
    else:
        with screen.status("Starting the coordinator; TensorFlow needs some seconds"):
            coordinator.start()
        _print_started(coordinator, screen, emulators=emulators)
    try:
        stop.wait()
    finally:
        coordinator.stop()
    if as_json:
        write_json({"event": "stopped"})
    else:
        screen.print("Stopped.")


def _client_authentication() -> str:
    return os.environ.get("MUSTER_CLIENTS", "open").partition(":")[0]


def _write_started(coordinator: LocalCoordinator, *, emulators: bool) -> None:
    write_json(
        {
            "event": "started",
            "url": coordinator.url,
            "data_dir": str(coordinator.data_dir),
            "pids": coordinator.pids,
            "clients": _client_authentication(),
            **({"emulators": coordinator.emulated} if emulators else {}),
        }
    )


def _print_started(coordinator: LocalCoordinator, screen: Console, *, emulators: bool) -> None:
    """Prints the address, the place of the data, the next commands and warnings."""
    from muster.wire.signatures import parse_signers

    url_option = "" if coordinator.url.endswith(":8080") else f" --url {coordinator.url}"
    storage = f"State and logs: {coordinator.data_dir}"
    restart = "`muster up` with the same folder resumes."
    if emulators:
        listening = ", ".join(f"{name} at {address}" for name, address in coordinator.emulated.items())
        storage = f"State and blobs: emulators ({listening}); logs: {coordinator.logs}"
        restart = "the emulators end with it, and store nothing."
    signers = parse_signers(os.environ.get("MUSTER_TRUSTED_SIGNERS", ""))
    trust = f"signed by {', '.join(signers)}" if signers else "of any author (MUSTER_TRUSTED_SIGNERS is not set)"
    screen.print(
        f"[bold]Muster is up[/] at {coordinator.url}\n"
        f"{storage}\n"
        f"Plans: {trust}.\n\n"
        f"Next, in other terminals:\n"
        f"  muster task create --plan my.plan --population devices{url_option}\n"
        f"  muster client run --population devices --data my_module:my_data{url_option}\n\n"
        f"Ctrl-C ends it; {restart}",
        soft_wrap=True,
    )
    if os.environ.get("MUSTER_OPERATORS", "open") == "open":
        screen.print(
            "[bold red]Operators are not authenticated[/] (MUSTER_OPERATORS is open): any caller of this address can "
            "create, change and read every task. `muster key operator` creates a key.",
            soft_wrap=True,
        )
    if _client_authentication() == "open":
        screen.print(
            "[bold red]Clients are not authenticated[/] (MUSTER_CLIENTS is open): identities are self-asserted, and "
            "one device can pose as a thousand clients. For development only; `muster enrol key` creates a key for "
            "tokens.",
            soft_wrap=True,
        )
