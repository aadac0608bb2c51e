"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from muster.wire.enrolment import PrivateKey

DEFAULT_URL = "http://127.0.0.1:8080"

Url = Annotated[str, typer.Option("--url", envvar="MUSTER_URL", help="URL of the coordinator.")]
Token = Annotated[
    Optional[str],
    typer.Option(
        "--token",
        envvar="MUSTER_OPERATOR_TOKEN",
        help="Operator's key or OpenID Connect token. Prefer the environment variable: other users of this machine can "
        "see a command's options. By default none is sent.",
    ),
]
OperatorUrl = Annotated[
    Optional[str],
    typer.Option(
        "--operator-url",
        envvar="MUSTER_OPERATOR_URL",
        help="URL of the operator API, if it differs from the client API's.",
        show_default="--url",
    ),
]
PlanKey = Annotated[
    Optional[Path],
    typer.Option(
        "--key",
        help="Private key of `muster plan keygen` to sign the plan with, for coordinators that require signatures. "
        "By default the plan is not signed.",
        exists=True,
        dir_okay=False,
    ),
]
EnrolmentKey = Annotated[
    Optional[Path],
    typer.Option(
        "--enrolment-key",
        help="Private key of `muster enrol key` to enroll the clients with, for coordinators that require tokens. "
        "By default clients send no token.",
        exists=True,
        dir_okay=False,
    ),
]
Emulators = Annotated[
    bool,
    typer.Option(
        "--emulators",
        help="Store state and blobs in the emulators of Firestore (gcloud) and Cloud Storage (fake-gcs-server). "
        "By default they are stored in SQLite and files.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON, for scripts. By default write text.")]
Signers = Annotated[
    Optional[list[str]],
    typer.Option(
        "--signer",
        metavar="ed25519:KEY",
        envvar="MUSTER_TRUSTED_SIGNERS",
        help="Public key to trust: only plans signed with one of these keys are accepted. Repeat the option or "
        "separate keys by commas. By default every plan is accepted.",
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="MODULE:FUNCTION",
        help="Function that returns the data, as `module:function` or `file.py:function`.",
    ),
]


def signers_of(keys: Optional[list[str]]) -> tuple[str, ...]:
    """Returns the public keys of `--signer` or its environment variable.

    Raises:
      typer.BadParameter: one of them is not a valid key.
    """
    from muster.wire.signatures import parse_signers

    try:
        return parse_signers(keys or ())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--signer") from error


def enrolment_key_of(path: Optional[Path]) -> Optional[PrivateKey]:
    """Returns the key of `--enrolment-key`, or None without one.

    Raises:
      typer.BadParameter: the file is not a valid key.
    """
    if path is None:
        return None
    from muster.wire.enrolment import EnrolmentError, PrivateKey

    try:
        return PrivateKey.read(path.read_bytes())
    except EnrolmentError as error:
        raise typer.BadParameter(str(error), param_hint="--enrolment-key") from error
