"""`muster key`: the keys of a deployment."""

from __future__ import annotations

import re
import secrets
import sys
from datetime import datetime, timezone
from typing import Annotated, Optional

import typer

from .options import Json, write_json

_BYTES = 32

app = typer.Typer(no_args_is_help=True, help="The keys that a deployment signs with (MUSTER_SECRET).")


@app.command("new")
def new(
    *,
    name: Annotated[
        Optional[str], typer.Option("--id", help="What to call it: a-z, 0-9, '.', '_', '-'; today's date if left out.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print a fresh key as `id:hex`, to put before the ones in MUSTER_SECRET, with a comma between."""
    called = datetime.now(timezone.utc).strftime("%Y-%m-%d") if name is None else name
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,31}", called):
        raise typer.BadParameter("must be of a-z, 0-9, '.', '_' and '-', and have at most 32", param_hint="--id")
    made = secrets.token_hex(_BYTES)
    if as_json:
        write_json({"id": called, "key": f"{called}:{made}"})
    else:
        typer.echo(f"{called}:{made}")


@app.command("list")
def list_keys(
    *,
    secret: Annotated[
        str,
        typer.Option(
            envvar="MUSTER_SECRET", help="The keys; better set in the environment, where nobody else sees it."
        ),
    ],
    as_json: Json = False,
) -> None:
    """Say which keys MUSTER_SECRET holds, by id and by the fingerprint that logs and tokens have; the first signs."""
    from muster.serving import functions_folder

    folder = str(functions_folder())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    from coordinator.domain.keys import KeyRing, KeyRingError

    try:
        ring = KeyRing.parse(secret)
    except KeyRingError as error:
        raise typer.BadParameter(str(error), param_hint="MUSTER_SECRET") from error
    for number, key in enumerate(ring):
        does = "verifies" if number else "signs"
        if as_json:
            write_json({"id": key.id, "fingerprint": key.fingerprint, "does": does})
        else:
            typer.echo(f"{key.fingerprint}  {does:8}  {key.id}".rstrip())
