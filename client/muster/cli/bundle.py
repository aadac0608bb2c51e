"""`muster bundle`: the functions as they are deployed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from muster.cli.options import Json as JsonOption
from muster.terminal import console, size, write_json


def bundle(
    *,
    out: Annotated[Path, typer.Option(help="The folder to write to.", file_okay=False)] = Path("dist/bundles"),
    source: Annotated[
        Optional[Path],
        typer.Option(help="A checkout to build from, in place of this Muster.", exists=True, file_okay=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a zip for each function: what a cloud deploys. The same source gives the same bytes.

    `aggregator-tensorflow` is the aggregator for plans whose fold needs TensorFlow; deploy it in place of `aggregator`.
    """
    from rich.table import Table

    from muster.bundles import build

    built = build(source, out=out)
    table = Table(box=None, pad_edge=False)
    for title in ("bundle", "own code", "files", "sha256"):
        table.add_column(title, justify="right" if title in ("own code", "files") else "left")
    for each in built:
        if as_json:
            write_json(
                {
                    "event": "bundle",
                    "name": each.name,
                    "path": str(each.path),
                    "code_bytes": each.code_bytes,
                    "files": each.files,
                    "sha256": each.sha256,
                }
            )
        table.add_row(each.name, size(each.code_bytes), str(each.files), each.sha256[:16])
    if not as_json:
        console().print(table)
        console().print(f"In {out}", markup=False, soft_wrap=True)
