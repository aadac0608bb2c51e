"""`muster plan keygen`, `sign` and `verify`: signs plans and verifies signatures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from muster.cli.options import Json, signers_of
from muster.terminal import write_json

PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="Plan to read.", exists=True, dir_okay=False)]


def keygen(
    file: Annotated[Path, typer.Argument(help="File to write the private key to. It must not exist.")],
    *,
    as_json: Json = False,
) -> None:
    """Create an Ed25519 key that signs plans, and print its public key."""
    from muster.wire.signatures import SigningKey

    key = SigningKey.generate()
    key.save(file)
    if as_json:
        write_json({"file": str(file), "signer": key.signer})
    else:
        typer.echo(
            f"{key.signer}\nThe private key is in {file}: keep it secret. Trust the public key above with --signer."
        )


def sign(
    file: PlanFile,
    *,
    key: Annotated[
        Path,
        typer.Option("--key", metavar="FILE", help="Private key of `muster plan keygen`.", exists=True, dir_okay=False),
    ],
    as_json: Json = False,
) -> None:
    """Check a plan's graphs, and add a signature to its file.

    The plan's address does not change.
    """
    from muster.runtime.graph_check import check_plan_graphs
    from muster.wire.plan import Plan
    from muster.wire.signatures import SigningKey

    signing_key = SigningKey.load(key)
    unsigned = Plan.load(file)
    check_plan_graphs(unsigned)
    plan = unsigned.signed(signing_key)
    plan.save(file)
    if as_json:
        write_json({"plan": plan.sha256, "signers": [item.signer for item in plan.signatures]})
    else:
        typer.echo(f"Signed {file}, plan {plan.sha256[:12]}, as {signing_key.signer}")


def verify(
    file: PlanFile,
    *,
    signer: Annotated[
        Optional[list[str]],
        typer.Option(
            "--signer",
            metavar="ed25519:KEY",
            envvar="MUSTER_TRUSTED_SIGNERS",
            help="Public key to trust. Repeat the option or separate keys by commas.",
            show_default="none; at least one key is needed",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a plan's integrity, signatures and operations. Exits with 1 if a check fails.

    One of the keys of --signer must have signed the plan.
    """
    from muster.runtime.graph_check import check_plan_graphs
    from muster.wire.plan import Plan

    trusted = signers_of(signer)
    if not trusted:
        raise typer.BadParameter("pass the public key to trust: --signer ed25519:…", param_hint="--signer")
    plan = Plan.load(file)
    signer_found = plan.check_signed(trusted)
    check_plan_graphs(plan)
    if as_json:
        write_json({"plan": plan.sha256, "signer": signer_found})
    else:
        typer.echo(f"Plan {plan.manifest.name}, {plan.sha256[:12]}, is signed by {signer_found}")
