"""What a cold start loads: each function as functions-framework starts it, in a process of its own, on a warm disk.

In an instance of the cloud Google's libraries come on top, with the first request; docs/operations.md has those figures from the bundles'
own test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FUNCTION = """
import json, sys, time
start = time.perf_counter()
from functions_framework import create_app
create_app(target={name!r}, source={source!r}, signature_type="http")
print(json.dumps([time.perf_counter() - start, "tensorflow" in sys.modules]))
"""
_MODULE = """
import json, sys, time
start = time.perf_counter()
import {name}
print(json.dumps([time.perf_counter() - start, "tensorflow" in sys.modules]))
"""
FUNCTIONS = ("client_api", "operator_api", "aggregator", "committer")
MODULES = ("muster.client", "muster.cli", "muster.operator", "functions_framework", "tensorflow")
NOTES = {
    **dict.fromkeys(FUNCTIONS, "functions-framework and main.py, until it could listen"),
    **dict.fromkeys(MODULES[:3], "import"),
    **dict.fromkeys(MODULES[3:], "import; for comparison"),
}


def measure(*, repeats: int) -> dict[str, list[float]]:
    """Seconds by what is started."""
    found: dict[str, list[float]] = {}
    paths = os.pathsep.join(str(ROOT / each) for each in ("functions", "client"))
    environment = {**os.environ, "PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "3"}
    for name in (*FUNCTIONS, *MODULES):
        source = str(ROOT / "functions" / name / "main.py")
        code = (_FUNCTION if name in FUNCTIONS else _MODULE).format(name=name, source=source)
        for repeat in range(repeats + 1):
            command = [sys.executable, "-c", code]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)  # noqa: S603  our own code
            seconds, heavy = json.loads(done.stdout.splitlines()[-1])
            if heavy and name != "tensorflow":
                raise SystemExit(f"{name} loads TensorFlow before anything is asked of it")
            if repeat:  # the first is for the disk
                found.setdefault(name, []).append(seconds)
    return found
