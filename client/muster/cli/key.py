"""`muster key`: creates the keys of a deployment and of its operators."""

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
_PREFIX = "muster-operator-"  # recognizable for readers and for secret scanners

app = typer.Typer(no_args_is_help=True, help="Create the keys of a deployment (MUSTER_SECRET) and of its operators.")


class Role(str, Enum):
    """Role of an operator."""

    OPERATOR = "operator"
    VIEWER = "viewer"


@app.command("new")
def new(
    *,
    name: Annotated[
        Optional[str],
        typer.Option(
            "--id", help="Id of the key: at most 32 of a-z, 0-9, '.', '_' and '-'.", show_default="today's date"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Create a key, and print it as `id:hex`.

    Insert it before the other keys in MUSTER_SECRET, separated by a comma.
    """
    key_id = datetime.now(timezone.utc).strftime("%Y-%m-%d") if name is None else name
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,31}", key_id):
        raise typer.BadParameter("must have at most 32 characters of a-z, 0-9, '.', '_' and '-'", param_hint="--id")
    secret = secrets.token_hex(_BYTES)
    if as_json:
        write_json({"id": key_id, "key": f"{key_id}:{secret}"})
    else:
        typer.echo(f"{key_id}:{secret}")


@app.command("list")
def list_keys(
    *,
    secret: Annotated[
        str,
        typer.Option(
            envvar="MUSTER_SECRET",
            help="Keys of the deployment. Prefer the environment variable: other users can see a command's options.",
        ),
    ],
    as_json: Json = False,
) -> None:
    """List the keys of MUSTER_SECRET with their ids and fingerprints. The first one signs.

    Logs and tokens show the same fingerprints.
    """
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
    name: Annotated[str, typer.Option(help="Name of the operator, as shown in the audit log.")],
    role: Annotated[
        Role, typer.Option(help="Role: `operator` may change everything, `viewer` may only read.")
    ] = Role.OPERATOR,
    as_json: Json = False,
) -> None:
    """Create a key for an operator, and print it once.

    The coordinator stores only its hash, in MUSTER_OPERATORS.
    """
    if not _NAME.fullmatch(name):
        raise typer.BadParameter("must have at most 64 letters, digits, '.', '_', '@' and '-'", param_hint="--name")
    key = _PREFIX + secrets.token_urlsafe(_BYTES)
    entry = f"{name}:{role.value}:{hashlib.sha256(key.encode()).hexdigest()}"
    if as_json:
        write_json({"name": name, "role": role.value, "key": key, "entry": entry})
        return
    console().print(
        f"The key, which is not shown again:\n  {key}\n"
        f"{name} sets it as MUSTER_OPERATOR_TOKEN.\n\n"
        f"The coordinator's setting, with the entries of other operators separated by commas:\n"
        f"  MUSTER_OPERATORS=keys:{entry}",
        markup=False,
        soft_wrap=True,
    )
