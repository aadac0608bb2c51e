"""Flower on the same work, by a script of its own that prints one line of JSON for each case.

The script is not part of Muster: `MUSTER_PEER_FLOWER` names it. It takes cases as CLIENTS:MB:ROUNDS and makes, or finds in `PEER_VENV`, its own
environment.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_LIMIT = "900"  # seconds for a case
_DEFAULT = Path(__file__).resolve().parents[3] / "shared" / "peers" / "flower" / "run.sh"  # beside a checkout


@dataclass(frozen=True)
class FlowerResult:
    """A case of Flower's. Seconds of its rounds but the first; CPU seconds of its server for a client-round; its peak in MB."""

    clients: int
    megabytes: float
    seconds: list[float]
    cpu: float
    peak_mb: float
    version: str


def script() -> Path | None:
    """Where the script is; None if it is not here."""
    named = os.environ.get("MUSTER_PEER_FLOWER")
    found = Path(named) if named else _DEFAULT
    if named and not found.is_file():
        raise SystemExit(
            f"MUSTER_PEER_FLOWER names {named}, which is no file: give the path of the script that measures Flower"
        )
    return found if found.is_file() else None


def measure(cases: Sequence[str]) -> Iterator[FlowerResult]:
    """Runs the cases, and gives each when it is done."""
    found = script()
    if found is None:
        raise SystemExit(
            "There is no script to measure Flower with: give its path in MUSTER_PEER_FLOWER, or leave PEERS out"
        )
    command, environment = ["bash", str(found), *cases], {"LIMIT_S": _LIMIT, **os.environ}
    running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=environment)  # noqa: S603  named by whoever runs this
    with running as process:
        for text in process.stdout or ():
            line = json.loads(text) if text.startswith("{") else {}
            if "round_s" in line:
                yield FlowerResult(
                    line["clients"],
                    line["model_mb"],
                    line["round_s"][1:],
                    line["server_cpu_s_per_client_round"],
                    line["server_peak_rss_mb"],
                    line["version"],
                )
    if running.returncode:
        raise SystemExit(f"{found} ended with code {running.returncode}")
