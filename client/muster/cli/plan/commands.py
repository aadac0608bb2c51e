"""`muster plan`: its commands, each in a module of its name."""

from __future__ import annotations

import typer

from muster.cli.plan import build, check, show, signing
from muster.cli.schema_help import documented_by

app = typer.Typer(no_args_is_help=True, help="Compile, check, show, sign and verify plans.")
app.command("build", cls=documented_by("muster.wire.manifest:Release"))(build.build)
app.command("check")(check.check)
app.command("show")(show.show)
app.command("keygen")(signing.keygen)
app.command("sign")(signing.sign)
app.command("verify")(signing.verify)
