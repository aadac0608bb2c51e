"""`muster plan keygen`, `sign` and `verify`: who vouches for a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from muster.cli.options import Json, Signers, signers_of
from muster.terminal import write_json

PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="The plan's file.", exists=True, dir_okay=False)]


def keygen(
    file: Annotated[Path, typer.Argument(help="Where to write the private key; it must not be there yet.")],
    *,
    as_json: Json = False,
) -> None:
    """Make a key to sign plans with (Ed25519), and print its public half, which others trust."""
    from muster.wire.signatures import SigningKey

    key = SigningKey.generate()
    key.save(file)
    if as_json:
        write_json({"file": str(file), "signer": key.signer})
    else:
        typer.echo(
            f"{key.signer}\nThe private key is in {file}: keep it to yourself. Trust the line above with --signer."
        )


def sign(
    file: PlanFile,
    *,
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="The private key.", exists=True, dir_okay=False)],
    as_json: Json = False,
) -> None:
    """Check a plan's graphs and add a signature to its file. The plan's address stays the same."""
    from muster.runtime.graph_check import check_plan_graphs
    from muster.wire.plan import Plan
    from muster.wire.signatures import SigningKey

    signing = SigningKey.load(key)
    unsigned = Plan.load(file)
    check_plan_graphs(unsigned)
    plan = unsigned.signed(signing)
    plan.save(file)
    if as_json:
        write_json({"plan": plan.sha256, "signers": [item.signer for item in plan.signatures]})
    else:
        typer.echo(f"Signed {file}, plan {plan.sha256[:12]}, as {signing.signer}")


def verify(file: PlanFile, *, signer: Signers = None, as_json: Json = False) -> None:
    """Check that a plan's file is whole, signed by a signer, and free of forbidden operations; exit 1 if not."""
    from muster.runtime.graph_check import check_plan_graphs
    from muster.wire.plan import Plan

    trusted = signers_of(signer)
    if not trusted:
        raise typer.BadParameter("say whom you trust: --signer ed25519:…", param_hint="--signer")
    plan = Plan.load(file)
    found = plan.check_signed(trusted)
    check_plan_graphs(plan)
    if as_json:
        write_json({"plan": plan.sha256, "signer": found})
    else:
        typer.echo(f"Plan {plan.manifest.name}, {plan.sha256[:12]}, is signed by {found}")
