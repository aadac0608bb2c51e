"""Runs the clients of the matrix: `member.py URL PREFIX FOLDER`.

The clients of each case contribute to every round over HTTP, and store their updates in the folder.
Only the data comes from the checkout: `muster` is the installed wheel.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Optional

from cases import CASES, CLIENTS, ROUNDS

import muster
from muster.client import MusterClient
from muster.runtime import Runtime
from muster.wire.tensors import encode


class Kept:
    """Runtime that stores each update in a file."""

    def __init__(self, plan: Any, folder: Path, name: str) -> None:
        self._runtime = Runtime(plan)
        self._folder, self._name, self._round = folder, name, 0

    def work(self, data: Any, broadcast: Any, *, seconds: Optional[float] = None) -> Any:
        """Computes an update as `Runtime.work` does, and stores it."""
        update = self._runtime.work(data, broadcast, seconds=seconds)
        self._round += 1
        (self._folder / f"{self._name}-{self._round}.safetensors").write_bytes(encode(update))
        return update


def main(url: str, prefix: str, folder: Path) -> int:
    """Runs all clients. Returns 1 if one of them misses a round."""
    if "site-packages" not in muster.__file__:
        sys.stdout.write(f"muster is {muster.__file__}, not the installed wheel\n")
        return 1
    for case in CASES:
        members = [
            MusterClient(
                url,
                f"{prefix}-{case.name}",
                lambda case=case, client=client: case.data(client),
                client_id=f"client-{client}",
                runtime_factory=lambda plan, case=case, client=client: Kept(
                    plan, folder, f"{case.name}-update-{client}"
                ),
                on_event=lambda event: print(event, flush=True),  # noqa: T201  the log of this process
            )
            for client in range(CLIENTS)
        ]
        for _ in range(ROUNDS):
            for member in members:
                if member.run(rounds=1).contributed != 1:
                    return 1
        for member in members:
            member.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
