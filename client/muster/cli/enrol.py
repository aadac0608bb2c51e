"""`muster enrol`: issues and revokes the tokens that enroll clients."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from muster.cli.failures import LoadingError
from muster.cli.options import DEFAULT_URL, Token, Url
from muster.cli.options import Json as JsonOption
from muster.terminal import console, write_json

if TYPE_CHECKING:
    from muster.wire.messages import RevocationView

app = typer.Typer(no_args_is_help=True, help="Issue and revoke enrolment tokens of clients.")
_SECONDS = {"m": 60, "h": 3600, "d": 86400}
_MAX_VALIDITY = 3650 * 86400  # seconds
_TOKEN_DOTS = 2  # RFC 7515 §7.1


@app.command("key")
def key(
    *,
    out: Annotated[Path, typer.Option(help="File to write. It must not exist.", dir_okay=False)] = Path(
        "enrolment.key"
    ),
    as_json: JsonOption = False,
) -> None:
    """Create a key that signs enrolment tokens.

    Writes the private key to a file, and prints the public key as a setting of the coordinator.
    """
    from muster.wire.enrolment import PrivateKey

    private_key = PrivateKey.generate()
    _write(out, private_key.pem())
    setting = f"enrolment:{private_key.public}"
    if as_json:
        write_json({"key": str(out), "public": private_key.public, "MUSTER_CLIENTS": setting})
        return
    console().print(
        f"{out} is the private key: it can enroll any client. Store it away from the coordinator, with a backup.\n"
        f"The coordinator needs the public key:\n\n  MUSTER_CLIENTS={setting}\n\n"
        f"Next: muster enrol issue --key {out} --population POPULATION --name NAME",
        markup=False,
        soft_wrap=True,
    )


@app.command("issue")
def issue(
    *,
    population: Annotated[str, typer.Option(help="Population that the token admits to.")],
    name: Annotated[
        str, typer.Option(help="Identity of the client. A renewed token with the same name is the same client.")
    ],
    expires: Annotated[str, typer.Option(help="Validity of the token, such as 90d, 12h or 30m.")] = "90d",
    key_file: Annotated[
        Path, typer.Option("--key", help="Private key of `muster enrol key`.", exists=True, dir_okay=False)
    ] = Path("enrolment.key"),
    out: Annotated[
        Optional[Path],
        typer.Option(help="File to write the token to. It must not exist.", dir_okay=False, show_default="stdout"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Issue an enrolment token for one client.

    Without --json, writes the token to stdout, and its id and expiry to stderr.
    """
    from muster.wire.enrolment import Enrolment, EnrolmentError, PrivateKey

    now = time.time()
    try:
        enrolment = Enrolment(population, name, issued_at=now, expires_at=now + _duration(expires))
        token = PrivateKey.read(key_file.read_bytes()).issue(enrolment)
    except EnrolmentError as error:
        raise LoadingError(str(error)) from error
    expires_at = datetime.fromtimestamp(int(enrolment.expires_at), timezone.utc)
    if out is not None:
        _write(out, f"{token}\n".encode())
    if as_json:
        document = {"id": enrolment.id, "population": population, "name": name, "expires_at": expires_at.isoformat()}
        write_json({**document, **({"file": str(out)} if out else {"token": token})})
        return
    if out is None:
        sys.stdout.write(f"{token}\n")
    sys.stderr.write(
        f"{name} is a client of {population} until {expires_at:%Y-%m-%d %H:%M} UTC. The token's id is {enrolment.id}: "
        "note it, to revoke the token.\n"
    )


@app.command("revoke")
def revoke(
    enrolment: Annotated[str, typer.Argument(help="Id of the token, or the token itself.")],
    *,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke an enrolment token. Idempotent.

    All instances refuse it at check-in within half a minute.
    """
    from muster.operator import Operator

    identifier, expires_at = _id_of(enrolment)
    with Operator(url, token=token) as operator:
        revoked = operator.revoke_enrolment(identifier, expires_at=expires_at)
    if as_json:
        write_json([view.to_dict() for view in revoked])
    else:
        typer.echo(f"Revoked {identifier}; {len(revoked)} tokens are revoked in total.")


@app.command("revoked")
def list_revoked(*, url: Url = DEFAULT_URL, token: Token = None, as_json: JsonOption = False) -> None:
    """List the revoked tokens that have not expired yet."""
    from muster.operator import Operator

    with Operator(url, token=token) as operator:
        revoked = operator.revoked_enrolments()
    if as_json:
        write_json([view.to_dict() for view in revoked])
        return
    for view in revoked:
        typer.echo(_line(view))
    if not revoked:
        typer.echo("No token is revoked.")


def _line(view: RevocationView) -> str:
    ends = "unknown" if view.expires_at is None else f"{view.expires_at:%Y-%m-%d %H:%M}"
    return f"{view.id}  revoked {view.revoked_at:%Y-%m-%d %H:%M}, expires {ends}"


def _duration(text: str) -> float:
    match = re.fullmatch(r"([1-9]\d{0,5})([mhd])", text)
    seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
    if not 0 < seconds <= _MAX_VALIDITY:
        raise typer.BadParameter(
            f"{text!r} is not a duration such as 90d, 12h or 30m of at most ten years", param_hint="--expires"
        )
    return float(seconds)


def _id_of(reference: str) -> tuple[str, Optional[datetime]]:
    """Returns the id of a token that is given by its id or as itself, and its expiry if known."""
    if reference.count(".") != _TOKEN_DOTS:
        return reference, None
    import jwt

    try:
        # An operator may revoke any id, so the signature need not be valid.
        claims = jwt.decode(reference, options={"verify_signature": False})
        return str(claims["jti"]), datetime.fromtimestamp(claims["exp"], timezone.utc)
    except (jwt.InvalidTokenError, KeyError, TypeError, ValueError) as error:
        raise LoadingError("the argument is neither an enrolment token nor the id of one") from error


def _write(path: Path, data: bytes) -> None:
    """Creates a file with mode 0600, atomically."""
    handle, staged = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}-")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.link(staged, path)
    except FileExistsError:
        raise LoadingError(f"{path} exists already and is not overwritten") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(staged).unlink()
