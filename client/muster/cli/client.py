"""`muster client`: the client as a process."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Callable, Optional, Union

import typer

from muster.cli.client_log import ClientLog, write_event
from muster.cli.failures import FAILED, UNREACHABLE
from muster.cli.interrupts import interruptible
from muster.cli.loading import load_function
from muster.cli.options import DEFAULT_URL, Data, Signers, Url, signers_of
from muster.cli.options import Json as JsonOption
from muster.cli.plan.policy import policy_of
from muster.cli.token_files import checked_token, token_reader
from muster.terminal import quiet_tensorflow, write_json

app = typer.Typer(no_args_is_help=True, help="Run a client: check in, work, upload.")


@app.callback()
def client() -> None:
    """Run a client: check in, work, upload."""


@app.command("run")
def run(
    *,
    population: Annotated[str, typer.Option(help="The population to check in to.")],
    data: Data,
    url: Url = DEFAULT_URL,
    client_id: Annotated[
        Optional[str],
        typer.Option(help="This client's name; one contribution a round is taken from it. Random if not given."),
    ] = None,
    token: Annotated[
        Optional[str],
        typer.Option(
            envvar="MUSTER_CLIENT_TOKEN", help="What shows who this client is; better in the environment, or in a file."
        ),
    ] = None,
    token_file: Annotated[
        Optional[Path], typer.Option(help="A file that holds the token; read anew for each check-in.", dir_okay=False)
    ] = None,
    rounds: Annotated[Optional[int], typer.Option(help="Stop after so many contributions.", min=1)] = None,
    once: Annotated[bool, typer.Option("--once", help="One check-in and what it leads to, without waiting.")] = False,
    cache: Annotated[Optional[Path], typer.Option(help="A folder to keep plans and the last broadcasts in.")] = None,
    threads: Annotated[int, typer.Option(help="Threads that TensorFlow computes with.", min=1)] = 1,
    signer: Signers = None,
    policy: Annotated[
        Optional[Path],
        typer.Option(
            help="The data owner's rules, in TOML: which plans, how many updates together, how often. Of a rule and an option the "
            "stricter holds.",
            metavar="FILE",
        ),
    ] = None,
    max_download_bytes: Annotated[
        Optional[int], typer.Option(help="The most bytes of plan and broadcast together.", min=0)
    ] = None,
    max_update_bytes: Annotated[Optional[int], typer.Option(help="The most bytes of an update.", min=0)] = None,
    max_seconds: Annotated[
        Optional[float],
        typer.Option(
            help="Longest time of the work of one assignment; never longer than the assignment is valid.",
            min=0.0,
        ),
    ] = None,
    quiet_errors: Annotated[
        bool,
        typer.Option(
            "--quiet-errors",
            help="Print the kind of an error of the data or the computation alone: its text may quote data.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check in, work on the local data and upload, repeatedly, until Ctrl-C.

    The function of --data is called for each assignment and returns this client's data. It may take one argument with
    the attributes `task`, `round` and `plan`. It is called in a separate thread: open database connections inside it.

    The client retries through every outage and every answer that is not a coordinator's. It ends when a coordinator
    refuses it, and on Ctrl-C or SIGTERM: within a second, after it has given its assignment back.
    """
    from muster.client.identity import check_client_id, check_population

    _checked(check_population, population, "--population")
    if client_id is not None:
        _checked(check_client_id, client_id, "--client-id")
    trusted = signers_of(signer)
    rules = policy_of(policy)
    quiet_tensorflow(threads=threads)
    function = load_function(data)
    # Before the first check-in: an assignment should not run out over the seconds that TensorFlow takes to load.
    import muster.runtime.stages  # noqa: F401
    from muster.client import Failed, Limits, MusterClient, Unreached

    shown: Union[str, Callable[[], str], None] = None
    if token_file is not None:
        shown = token_reader(token_file)
    elif token is not None:
        shown = checked_token(token, where="--token or MUSTER_CLIENT_TOKEN")
    log = ClientLog(population, quiet_errors=quiet_errors)
    limits = Limits(max_download_bytes=max_download_bytes, max_update_bytes=max_update_bytes, max_seconds=max_seconds)
    tell = (lambda event: write_event(event, quiet_errors=quiet_errors)) if as_json else log.write
    member = MusterClient(
        url,
        population,
        function,
        client_id=client_id,
        token=shown,
        cache=cache,
        on_event=tell,
        trusted_signers=trusted,
        limits=limits,
        policy=rules,
    )
    with interruptible(stuck=lambda: member.working), member:
        if once:
            for note in member.notes:
                tell(note)
            outcome = member.run_once()
            if isinstance(outcome, Unreached):
                raise typer.Exit(UNREACHABLE)
            raise typer.Exit(FAILED if isinstance(outcome, Failed) else 0)
        if not as_json:
            log.line(f"Checking in to {population} at {url}; Ctrl-C ends it.")
        summary = member.run(rounds=rounds)
    if as_json:
        write_json({"event": "Summary", **dataclasses.asdict(summary)})
    else:
        log.line(f"Contributed {summary.contributed}, missed {summary.missed}, failed {summary.failed}.")


def _checked(check: Callable[[str], str], value: str, option: str) -> None:
    try:
        check(value)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
