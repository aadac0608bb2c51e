"""`muster client`: the client as a process."""

from __future__ import annotations

import dataclasses
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Callable, Optional

import typer

from .failures import FAILED, UNREACHABLE, LoadingError
from .loading import load_function
from .options import DEFAULT_URL, Data, Signers, Url, quiet_tensorflow, signers_of, size, write_json
from .options import Json as JsonOption
from .plan_policy import policy_of

if TYPE_CHECKING:
    from muster.client import Event

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
        Optional[float], typer.Option(help="The longest that the work of one assignment may take.", min=0.0)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check in, work on the local data, upload; again and again, until Ctrl-C.

    The function of --data gives this client's data, anew for each assignment. It may take one argument, which says what the data is
    for: `task`, `round` and `plan`.
    """
    trusted = signers_of(signer)
    rules = policy_of(policy)
    quiet_tensorflow(threads=threads)
    function = load_function(data)
    # Before the first check-in: an assignment should not run out over the seconds that TensorFlow takes to load.
    import muster.runtime.stages  # noqa: F401
    from muster.client import Failed, Limits, MusterClient, Unreached

    # A stopped container gets SIGTERM; an assignment is then given back as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tell = _tell_json if as_json else _tell
    limits = Limits(max_download_bytes=max_download_bytes, max_update_bytes=max_update_bytes, max_seconds=max_seconds)
    with MusterClient(
        url,
        population,
        function,
        client_id=client_id,
        token=token if token_file is None else _reader(token_file),
        cache=cache,
        on_event=tell,
        trusted_signers=trusted,
        limits=limits,
        policy=rules,
    ) as member:
        if once:
            for note in member.notes:
                tell(note)
            outcome = member.run_once()
            if isinstance(outcome, Unreached):
                raise typer.Exit(UNREACHABLE)
            raise typer.Exit(FAILED if isinstance(outcome, Failed) else 0)
        if not as_json:
            typer.echo(f"Checking in to {population} at {url}; Ctrl-C ends it.")
        summary = member.run(rounds=rounds)
    if as_json:
        write_json({"event": "Summary", **dataclasses.asdict(summary)})
    else:
        typer.echo(f"Contributed {summary.contributed}, missed {summary.missed}, failed {summary.failed}.")


def _reader(path: Path) -> Callable[[], str]:
    """What reads the token; the first time here, so that a wrong path shows before anything else happens."""

    def read() -> str:
        text = path.read_text().strip()
        if not text or not text.isprintable() or " " in text:
            raise LoadingError(f"{path} holds no token: it should be one line without spaces")
        return text

    read()
    return read


def _tell_json(event: Event) -> None:
    write_json({"event": type(event).__name__, **{name: _plain(value) for name, value in vars(event).items()}})


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _tell(event: Event) -> None:
    text = describe(event)
    if text is not None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def describe(event: Event) -> Optional[str]:
    """An event in a line, or None where it is not worth one."""
    from muster.client import (
        Assigned,
        Computed,
        Contributed,
        Failed,
        Ineligible,
        Missed,
        PolicyNote,
        Sending,
        Unreached,
        Waited,
    )

    if isinstance(event, PolicyNote):
        return event.detail
    if isinstance(event, Assigned):
        clear = "; its secure sums are summed in the clear, not securely" if event.sums_in_the_clear else ""
        return f"{event.task} round {event.round}: assigned{clear}"
    if isinstance(event, Computed):
        return f"{event.task} round {event.round}: computed {size(event.update_bytes)} in {event.seconds:.2f} s"
    if isinstance(event, Sending):
        return f"{event.task} round {event.round}: sent {size(event.sent)} of {size(event.update_bytes)}"
    if isinstance(event, Contributed):
        return f"{event.task} round {event.round}: accepted"
    if isinstance(event, Waited):
        return f"no work ({event.reason.value}); next check-in in {event.retry_after:.1f} s"
    if isinstance(event, Ineligible):
        return f"{event.detail}; again in {event.retry_after:.0f} s"
    if isinstance(event, (Missed, Failed)):
        what = "missed" if isinstance(event, Missed) else f"failed ({event.reason.value})"
        return f"{event.task} round {event.round}: {what}: {event.detail}"
    if isinstance(event, Unreached):
        return f"{event.detail}; again in {event.retry_after:.1f} s"
    return None
