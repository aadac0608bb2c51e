"""`muster key`: the keys of a deployment, and those of its operators, of which it keeps hashes alone."""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import datetime, timezone
from enum import Enum
from typing import Annotated, Optional

import typer

from muster.cli.options import Json
from muster.terminal import console, write_json

_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_PREFIX = "muster-operator-"  # tells a reader, and a scanner for lost secrets, what it is

app = typer.Typer(
    no_args_is_help=True, help="Keys that a deployment signs with (MUSTER_SECRET), and its operators' own."
)


class Role(str, Enum):
    """What an operator may do."""

    OPERATOR = "operator"
    VIEWER = "viewer"


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
    from muster_coordinator.domain.keys import KeyRing, KeyRingError

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


@app.command("operator")
def operator(
    *,
    name: Annotated[str, typer.Option(help="Who the key is for; the audit log shows it.")],
    role: Annotated[Role, typer.Option(help="What they may do: change everything, or look alone.")] = Role.OPERATOR,
    as_json: Json = False,
) -> None:
    """Make a key for an operator. It is shown once: the coordinator gets a hash of it, in MUSTER_OPERATORS."""
    if not _NAME.fullmatch(name):
        raise typer.BadParameter("letters, digits, '.', '_', '@' and '-', at most 64", param_hint="--name")
    key = _PREFIX + secrets.token_urlsafe(_BYTES)
    entry = f"{name}:{role.value}:{hashlib.sha256(key.encode()).hexdigest()}"
    if as_json:
        write_json({"name": name, "role": role.value, "key": key, "entry": entry})
        return
    console().print(
        f"The key, shown this once:\n  {key}\n"
        f"{name} keeps it, and gives it to `muster` in MUSTER_OPERATOR_TOKEN.\n\n"
        f"The coordinator's setting, with the entries of others behind a comma:\n  MUSTER_OPERATORS=keys:{entry}",
        markup=False,
        soft_wrap=True,
    )
