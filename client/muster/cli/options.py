"""Options that several commands share, and how results are written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from muster.wire.enrolment import PrivateKey
    from muster.wire.messages import RoundView

DEFAULT_URL = "http://127.0.0.1:8080"

Url = Annotated[str, typer.Option("--url", envvar="MUSTER_URL", help="The coordinator's address.")]
Token = Annotated[
    Optional[str],
    typer.Option(
        "--token",
        envvar="MUSTER_OPERATOR_TOKEN",
        help="The operator's key or OpenID Connect token; rather in the environment, since others can see a command's options.",
        show_default=False,
    ),
]
OperatorUrl = Annotated[
    Optional[str],
    typer.Option(
        "--operator-url",
        envvar="MUSTER_OPERATOR_URL",
        help="The operator API's address, if it has one of its own.",
        show_default="--url",
    ),
]
PlanKey = Annotated[
    Optional[Path],
    typer.Option(
        "--key",
        help="Sign the plan with this key, of `muster plan keygen`: where only signed plans are taken.",
        exists=True,
        dir_okay=False,
    ),
]
EnrolmentKey = Annotated[
    Optional[Path],
    typer.Option(
        "--enrolment-key",
        help="Enrol the clients with this key, of `muster enrol key`: where clients need a token.",
        exists=True,
        dir_okay=False,
    ),
]
Emulators = Annotated[
    bool,
    typer.Option(
        "--emulators",
        help="Keep state and blobs in the emulators of Firestore (gcloud's) and Cloud Storage (fake-gcs-server).",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON, for scripts.")]
Signers = Annotated[
    Optional[list[str]],
    typer.Option(
        "--signer",
        metavar="ed25519:KEY",
        envvar="MUSTER_TRUSTED_SIGNERS",
        help="Trust plans that this key has signed, and no others. Repeatable; or several with commas between.",
    ),
]
Data = Annotated[
    str,
    typer.Option("--data", metavar="MODULE:FUNCTION", help="What gives the data: module:function or file.py:function."),
]


def signers_of(given: Optional[list[str]]) -> tuple[str, ...]:
    """The keys that `--signer` or the environment names.

    Raises:
      typer.BadParameter: one is no key.
    """
    from muster.wire.signatures import parse_signers

    try:
        return parse_signers(given or ())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--signer") from error


def enrolment_key_of(path: Optional[Path]) -> Optional[PrivateKey]:
    """The key that `--enrolment-key` names; None without one.

    Raises:
      typer.BadParameter: it is no key.
    """
    if path is None:
        return None
    from muster.wire.enrolment import EnrolmentError, PrivateKey

    try:
        return PrivateKey.read(path.read_bytes())
    except EnrolmentError as error:
        raise typer.BadParameter(str(error), param_hint="--enrolment-key") from error


def updates_of(view: RoundView) -> str:
    """Returns a round's number of updates as text: `3 of 10 updates`. A small round shows it once it has ended."""
    if view.reported is None:
        return f"goal of {view.goal} updates (counted when the round has ended)"
    return f"{view.reported} of {view.goal} updates"
