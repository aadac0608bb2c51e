"""What each part loads when it is imported, in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TENSORFLOW, TFF = "tensorflow", "tensorflow_federated"
PATH = f"import sys; sys.path[:0] = [{str(ROOT / 'client')!r}, {str(ROOT / 'functions')!r}]; "
MAIN = "import runpy; runpy.run_path({!r}, run_name='main'); "
ROUTES = "from muster_coordinator.http import router, FUNCTIONS; import muster_coordinator.application, muster_coordinator.bootstrap; "

# A round of sums, all the way to its partials, in a coordinator that is not given a runtime.
FOLD = f"""
sys.path.insert(0, {str(ROOT / "tests")!r})
import pathlib, tempfile
from support.harness import Harness
from support.plans import sum_update
with tempfile.TemporaryDirectory() as folder:
    h = Harness(pathlib.Path(folder))
    h.begin(goal=5, chunk=2)
    for client in range(5):
        h.upload(h.assigned(client).token, sum_update(client))
    h.app.closing(h.key())
    assert len(h.blobs("partials/")) == 2 and not h.blobs("updates/")
"""


@pytest.mark.parametrize(
    ("code", "banned"),
    [
        (MAIN.format(str(ROOT / "functions/client_api/main.py")) + ROUTES, (TENSORFLOW, TFF)),
        (MAIN.format(str(ROOT / "functions/operator_api/main.py")) + ROUTES, (TENSORFLOW, TFF)),
        (MAIN.format(str(ROOT / "functions/aggregator/main.py")) + ROUTES + FOLD, (TENSORFLOW, TFF)),
        ("import muster.client, muster.wire.plan, muster.wire.messages, muster.runtime, muster.runtime.fold", (TENSORFLOW, TFF)),
        (MAIN.format(str(ROOT / "functions/committer/main.py")) + ROUTES, (TENSORFLOW, TFF)),  # until it commits
    ],
    ids=["client_api", "operator_api", "aggregator", "client", "committer"],
)  # fmt: skip
def test_a_part_loads_only_what_it_needs(code, banned):
    ban = f"found = [name for name in {banned} if name in sys.modules]; assert not found, found"
    done = subprocess.run(  # noqa: S603  our own code
        [sys.executable, "-c", f"{PATH}{code}\n{ban}"],
        capture_output=True,
        timeout=300,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
