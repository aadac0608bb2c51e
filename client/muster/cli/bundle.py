"""`muster bundle`: builds the functions' deployable bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from muster.cli.options import Json as JsonOption
from muster.terminal import console, size, write_json


def bundle(
    *,
    out: Annotated[Path, typer.Option(help="Folder to write the bundles to.", file_okay=False)] = Path("dist/bundles"),
    source: Annotated[
        Optional[Path],
        typer.Option(help="Checkout to build from.", exists=True, file_okay=False, show_default="this installation"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Build one zip per function, for deployment to a cloud. Equal source gives equal bytes.

    For plans whose fold needs TensorFlow, deploy `aggregator-tensorflow` instead of `aggregator`.
    """
    from rich.table import Table

    from muster.bundles import build

    bundles = build(source, out=out)
    table = Table(box=None, pad_edge=False)
    for title in ("bundle", "own code", "files", "sha256"):
        table.add_column(title, justify="right" if title in ("own code", "files") else "left")
    for item in bundles:
        if as_json:
            write_json(
                {
                    "event": "bundle",
                    "name": item.name,
                    "path": str(item.path),
                    "code_bytes": item.code_bytes,
                    "files": item.files,
                    "sha256": item.sha256,
                }
            )
        table.add_row(item.name, size(item.code_bytes), str(item.files), item.sha256[:16])
    if not as_json:
        console().print(table)
        console().print(f"Written to {out}", markup=False, soft_wrap=True)
