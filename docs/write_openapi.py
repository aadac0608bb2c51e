"""Writes docs/openapi.json from the route tables: `make openapi`."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from muster_coordinator import bootstrap
from muster_coordinator.http import openapi
from muster_coordinator.http.functions import description
from muster_coordinator.settings import Settings

FILE = Path(__file__).resolve().parent / "openapi.json"


def main() -> None:
    """Writes the file."""
    with TemporaryDirectory() as folder:
        root = Path(folder).as_posix()
        settings = Settings(
            state=f"sqlite://{root}/state.db",
            blobs=f"file://{root}/blobs",
            queue=f"local://{root}/queue.db",
            secret="0" * 64,
        )
        FILE.write_bytes(openapi.encode(description(bootstrap.application(settings))))


if __name__ == "__main__":
    main()
