"""Runs the same work on Flower, by a script that prints one line of JSON per case.

The script is not part of Muster: `MUSTER_PEER_FLOWER` names it. It accepts cases as
CLIENTS:MB:ROUNDS, and creates its own environment, or uses that in `PEER_VENV`.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_LIMIT = "900"  # seconds for a case


@dataclass(frozen=True)
class FlowerResult:
    """Result of a case on Flower.

    Seconds of all rounds but the first; CPU seconds of its server per client-round; its peak in MB.
    """

    clients: int
    megabytes: float
    seconds: list[float]
    cpu: float
    peak_mb: float
    version: str


def script() -> Path:
    """Returns the path of the script. Ends the benchmark if there is none."""
    path = Path(os.environ.get("MUSTER_PEER_FLOWER", ""))
    if not path.is_file():
        raise SystemExit(
            "There is no script to measure Flower with: give its path in MUSTER_PEER_FLOWER, or leave PEERS out"
        )
    return path


def measure(cases: Sequence[str]) -> Iterator[FlowerResult]:
    """Runs the cases, and yields each result when it is ready."""
    command, environment = ["bash", str(script()), *cases], {"LIMIT_S": _LIMIT, **os.environ}
    running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=environment)  # noqa: S603  named by the caller
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
        raise SystemExit(f"{script()} ended with code {running.returncode}")
