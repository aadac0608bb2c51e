"""`muster enrol`: tokens that make somebody a client, made at an operator's desk and taken back at the coordinator."""

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

app = typer.Typer(no_args_is_help=True, help="Give clients tokens that show who they are, and take them back.")
_SECONDS = {"m": 60, "h": 3600, "d": 86400}
_LONGEST = 3650 * 86400  # seconds
_TOKEN_DOTS = 2


@app.command("key")
def key(
    *,
    out: Annotated[Path, typer.Option(help="The file to write; it must not be there.", dir_okay=False)] = Path(
        "enrolment.key"
    ),
    as_json: JsonOption = False,
) -> None:
    """Make the key that signs tokens: a file for you to keep, and a public key for the coordinator's settings."""
    from muster.wire.enrolment import PrivateKey

    made = PrivateKey.generate()
    _write(out, made.pem())
    setting = f"enrolment:{made.public}"
    if as_json:
        write_json({"key": str(out), "public": made.public, "MUSTER_CLIENTS": setting})
        return
    console().print(
        f"{out} signs enrolments: whoever has it can enrol anybody. Keep it off the coordinator, and a copy of it safe.\n"
        f"The coordinator needs its public key alone:\n\n  MUSTER_CLIENTS={setting}\n\n"
        f"Next: muster enrol issue --key {out} --population POPULATION --name NAME",
        markup=False,
        soft_wrap=True,
    )


@app.command("issue")
def issue(
    *,
    population: Annotated[str, typer.Option(help="The only population that the token is good for.")],
    name: Annotated[
        str, typer.Option(help="Who the client is; a renewed token has the same name, and counts as the same client.")
    ],
    expires: Annotated[str, typer.Option(help="How long it is good for: 90d, 12h or 30m.")] = "90d",
    key_file: Annotated[
        Path, typer.Option("--key", help="What `muster enrol key` wrote.", exists=True, dir_okay=False)
    ] = Path("enrolment.key"),
    out: Annotated[
        Optional[Path],
        typer.Option(help="A file for the token, instead of stdout; it must not be there.", dir_okay=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token for one client. Without --json the token alone goes to stdout, and what to know about it to stderr."""
    from muster.wire.enrolment import Enrolment, EnrolmentError, PrivateKey

    now = time.time()
    try:
        enrolment = Enrolment(population, name, issued_at=now, expires_at=now + _duration(expires))
        token = PrivateKey.read(key_file.read_bytes()).issue(enrolment)
    except EnrolmentError as error:
        raise LoadingError(str(error)) from error
    ends = datetime.fromtimestamp(int(enrolment.expires_at), timezone.utc)
    if out is not None:
        _write(out, f"{token}\n".encode())
    if as_json:
        shown = {"id": enrolment.id, "population": population, "name": name, "expires_at": ends.isoformat()}
        write_json({**shown, **({"file": str(out)} if out else {"token": token})})
        return
    if out is None:
        sys.stdout.write(f"{token}\n")
    sys.stderr.write(
        f"{name} is a client of {population} until {ends:%Y-%m-%d %H:%M} UTC, by the token {enrolment.id}: note that id, which revokes it.\n"
    )


@app.command("revoke")
def revoke(
    enrolment: Annotated[str, typer.Argument(help="The token's id, or the token itself.")],
    *,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: JsonOption = False,
) -> None:
    """Have a token be good no more: half a minute later at the latest, no instance takes it for a check-in."""
    from muster.operator import Operator

    identifier, ends = _id_of(enrolment)
    with Operator(url, token=token) as operator:
        revoked = operator.revoke_enrolment(identifier, expires_at=ends)
    if as_json:
        write_json([each.to_dict() for each in revoked])
    else:
        typer.echo(f"{identifier} is revoked; with it {len(revoked)} are.")


@app.command("revoked")
def list_revoked(*, url: Url = DEFAULT_URL, token: Token = None, as_json: JsonOption = False) -> None:
    """List the tokens that are revoked and have not expired yet."""
    from muster.operator import Operator

    with Operator(url, token=token) as operator:
        found = operator.revoked_enrolments()
    if as_json:
        write_json([each.to_dict() for each in found])
        return
    for each in found:
        typer.echo(_line(each))
    if not found:
        typer.echo("No token is revoked.")


def _line(view: RevocationView) -> str:
    ends = "unknown" if view.expires_at is None else f"{view.expires_at:%Y-%m-%d %H:%M}"
    return f"{view.id}  revoked {view.revoked_at:%Y-%m-%d %H:%M}, expires {ends}"


def _duration(text: str) -> float:
    found = re.fullmatch(r"([1-9]\d{0,5})([mhd])", text)
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    if not 0 < seconds <= _LONGEST:
        raise typer.BadParameter(
            f"{text!r} is no time such as 90d, 12h or 30m, of ten years at most", param_hint="--expires"
        )
    return float(seconds)


def _id_of(given: str) -> tuple[str, Optional[datetime]]:
    """The id of a token that is given by it or as it is, and when that expires, if it says so."""
    if given.count(".") != _TOKEN_DOTS:
        return given, None
    import jwt

    try:
        # Who can revoke by an id can revoke any; whether the signature is good does not matter here.
        claims = jwt.decode(given, options={"verify_signature": False})
        return str(claims["jti"]), datetime.fromtimestamp(claims["exp"], timezone.utc)
    except (jwt.InvalidTokenError, KeyError, TypeError, ValueError) as error:
        raise LoadingError("this is neither a token of `muster enrol issue` nor the id of one") from error


def _write(path: Path, data: bytes) -> None:
    """A new file for its owner's eyes alone, whole or not at all."""
    handle, staged = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}-")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.link(staged, path)
    except FileExistsError:
        raise LoadingError(f"{path} is there already; it is not overwritten") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(staged).unlink()
