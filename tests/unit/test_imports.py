"""Heavy libraries that a function or package must not load, each in a new interpreter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TENSORFLOW, TFF = "tensorflow", "tensorflow_federated"
MAIN = "import runpy, sys; runpy.run_path({!r}, run_name='main'); "
ROUTES = (
    "from muster_coordinator.http import router, FUNCTIONS; "
    "import muster_coordinator.application, muster_coordinator.bootstrap; "
)

# A round of sums up to its partials, in a coordinator without a runtime.
FOLD = """
import pathlib, tempfile
from support.harness import Harness
from support.plans import sum_update
with tempfile.TemporaryDirectory() as folder:
    h = Harness(pathlib.Path(folder))
    h.begin(goal=5, chunk=2)
    for client in range(5):
        h.upload(h.assigned(client).token, sum_update(client))
    h.app.round_closer.close(h.key())
    assert len(h.blobs("partials/")) == 2 and not h.blobs("updates/")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "banned"),
    [
        (MAIN.format(str(ROOT / "functions/client_api/main.py")) + ROUTES, (TENSORFLOW, TFF)),
        (MAIN.format(str(ROOT / "functions/operator_api/main.py")) + ROUTES, (TENSORFLOW, TFF)),
        (MAIN.format(str(ROOT / "functions/aggregator/main.py")) + ROUTES + FOLD, (TENSORFLOW, TFF)),
        (
            "import sys, muster.client, muster.wire.plan, muster.wire.messages, muster.runtime, muster.runtime.fold",
            (TENSORFLOW, TFF),
        ),
        # Before a commit
        (MAIN.format(str(ROOT / "functions/committer/main.py")) + ROUTES, (TENSORFLOW, TFF)),
    ],
    ids=["client_api", "operator_api", "aggregator", "client", "committer"],
)
def test_import_loads_no_heavy_library(code, banned):
    check = f"loaded = [name for name in {banned} if name in sys.modules]; assert not loaded, loaded"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", f"{code}\n{check}"],
        cwd=ROOT / "tests",  # with `-c` it is on the path, and so is `support`
        capture_output=True,
        timeout=300,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
