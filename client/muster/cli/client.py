"""`muster client`: runs a client."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Callable, Optional, Union

import typer

from muster.cli.client_log import ClientLog, write_event
from muster.cli.failures import FAILED, UNREACHABLE
from muster.cli.interrupts import interruptible
from muster.cli.loading import load_function
from muster.cli.options import DEFAULT_URL, Data, Signers, Url, signers_of
from muster.cli.options import Json as JsonOption
from muster.cli.plan.policy import policy_of
from muster.cli.schema_help import documented_by
from muster.cli.token_files import checked_token, token_reader
from muster.terminal import quiet_tensorflow, write_json

app = typer.Typer(no_args_is_help=True, help="Run a client that checks in, works and uploads.")


@app.callback()
def client() -> None:
    """Run a client that checks in, works and uploads."""


@app.command("run", cls=documented_by("muster.client:ClientPolicy"))
def run(
    *,
    population: Annotated[str, typer.Option(help="Population to check in to.")],
    data: Data,
    url: Url = DEFAULT_URL,
    client_id: Annotated[
        Optional[str],
        typer.Option(help="Name of this client. A round accepts one contribution per name.", show_default="random"),
    ] = None,
    token: Annotated[
        Optional[str],
        typer.Option(
            envvar="MUSTER_CLIENT_TOKEN",
            help="Bearer token of this client. Prefer the environment variable or --token-file. By default none is "
            "sent.",
        ),
    ] = None,
    token_file: Annotated[
        Optional[Path],
        typer.Option(help="File with the token, read at each check-in.", dir_okay=False, show_default="none"),
    ] = None,
    attribute: Annotated[
        Optional[list[str]],
        typer.Option(
            help="Attribute that this client states for the eligibility rules of tasks: KEY=TEXT, or KEY:=VALUE for a "
            "JSON number or boolean. Repeatable. By default none is sent.",
            metavar="KEY=TEXT",
            show_default="none",
        ),
    ] = None,
    rounds: Annotated[
        Optional[int], typer.Option(help="Number of contributions after which to stop.", min=1, show_default="no limit")
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Check in once, without waiting. By default repeat until Ctrl-C.")
    ] = False,
    cache: Annotated[
        Optional[Path], typer.Option(help="Folder that caches plans and the last broadcasts.", show_default="no cache")
    ] = None,
    threads: Annotated[int, typer.Option(help="Number of TensorFlow's threads.", min=1)] = 1,
    signer: Signers = None,
    policy: Annotated[
        Optional[Path],
        typer.Option(
            help="The data owner's policy, a TOML file. Of a rule and an option the stricter one applies.",
            metavar="FILE",
            show_default="none",
        ),
    ] = None,
    max_download_bytes: Annotated[Optional[int], typer.Option(min=0, show_default="no limit")] = None,
    max_update_bytes: Annotated[Optional[int], typer.Option(min=0, show_default="no limit")] = None,
    max_seconds: Annotated[Optional[float], typer.Option(min=0.0, show_default="until the assignment expires")] = None,
    quiet_errors: Annotated[
        bool,
        typer.Option(
            "--quiet-errors",
            help="Print only the kind of an error of the data or the computation, since its text may quote data. "
            "By default print the text too.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check in, work on local data and upload, repeatedly, until Ctrl-C.

    The function of --data is called for each assignment and returns this client's data. It may
    take one argument with the attributes `task`, `round`, `plan`, `kind` and `selector`. It runs in
    a separate thread, so open database connections inside it.

    The client retries after outages and after responses of other servers than a coordinator. It
    stops when a coordinator refuses it, and on Ctrl-C or SIGTERM: it gives its assignment back and
    ends within a second.
    """
    from muster.client.identity import check_attributes, check_client_id, check_population

    _check(check_population, population, "--population")
    attributes = _attributes_of(attribute or [])
    _check(check_attributes, attributes, "--attribute")
    if client_id is not None:
        _check(check_client_id, client_id, "--client-id")
    trusted = signers_of(signer)
    rules = policy_of(policy)
    quiet_tensorflow(threads=threads)
    function = load_function(data)
    # Loaded before the first check-in, so that no assignment expires while TensorFlow loads.
    import muster.runtime.stages  # noqa: F401
    from muster.client import Failed, Limits, MusterClient, Unreached

    bearer: Union[str, Callable[[], str], None] = None
    if token_file is not None:
        bearer = token_reader(token_file)
    elif token is not None:
        bearer = checked_token(token, where="--token or MUSTER_CLIENT_TOKEN")
    log = ClientLog(population, quiet_errors=quiet_errors)
    limits = Limits(max_download_bytes=max_download_bytes, max_update_bytes=max_update_bytes, max_seconds=max_seconds)
    write = (lambda event: write_event(event, quiet_errors=quiet_errors)) if as_json else log.write
    client = MusterClient(
        url,
        population,
        function,
        client_id=client_id,
        token=bearer,
        cache=cache,
        on_event=write,
        trusted_signers=trusted,
        limits=limits,
        policy=rules,
        attributes=attributes,
    )
    with interruptible(stuck=lambda: client.working), client:
        if once:
            for note in client.notes:
                write(note)
            outcome = client.run_once()
            if isinstance(outcome, Unreached):
                raise typer.Exit(UNREACHABLE)
            raise typer.Exit(FAILED if isinstance(outcome, Failed) else 0)
        if not as_json:
            log.line(f"Checking in to {population} at {url}; Ctrl-C ends it.")
        summary = client.run(rounds=rounds)
    if as_json:
        write_json({"event": "Summary", **dataclasses.asdict(summary)})
    else:
        log.line(f"Contributed {summary.contributed}, missed {summary.missed}, failed {summary.failed}.")


def _attributes_of(options: list[str]) -> dict[str, Any]:
    """Returns the attributes that the `KEY=TEXT` and `KEY:=VALUE` options state."""
    attributes: dict[str, Any] = {}
    for option in options:
        key, equals, text = option.partition("=")
        is_json = key.endswith(":")
        key = key.removesuffix(":")
        if not equals or not key or key in attributes:
            reason = "is given twice" if key in attributes else "is not KEY=TEXT or KEY:=VALUE"
            raise typer.BadParameter(f"{option!r} {reason}", param_hint="--attribute")
        try:
            attributes[key] = json.loads(text) if is_json else text
        except ValueError as error:
            reason = "is not a JSON number or boolean after :="
            raise typer.BadParameter(f"{option!r} {reason}", param_hint="--attribute") from error
    return attributes


def _check(check: Callable[[Any], Any], value: Any, option: str) -> None:
    try:
        check(value)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error
