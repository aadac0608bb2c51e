"""Rounds of a plan that TFF made, with the real runtime, in a process without TFF.

A failure is: a result or a state that is not the exact integer sum, an abandoned round that should
have committed, data that the sweep should have deleted, or an import of TensorFlow Federated.

Out of scope: floating-point sums, whose bits depend on the order (`test_cloud_rounds`), faults and
races (see `test_invariants`), and plans with other aggregations.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]

SCRIPT = """
import sys, pathlib, tempfile
import numpy as np
from muster_coordinator.bootstrap import runtimes
from muster.wire.plan import Plan
from muster.wire.tensors import decode
from support.harness import Harness

plan = Plan.load(pathlib.Path("data/client_ids_sum.plan"))
runtime = runtimes()(plan)

def update(client):
    return {"0": np.int64(1 << client), "1": np.int64(1)}

with tempfile.TemporaryDirectory() as folder:
    h = Harness(pathlib.Path(folder), plan=plan, runtime=runtime)
    h.begin(goal=7, minimum=3, chunk=2, shards=2, rounds=3, round_seconds=100)
    for clients in (range(7), range(7, 14)):
        for client in clients:
            h.upload(h.assigned(client).token, update(client))
        h.deliver_all()
    h.upload(h.assigned(14).token, update(14))
    h.clock.advance(100)
    h.deliver_all()
    for client in (20, 21, 22):
        h.upload(h.assigned(client).token, update(client))
    h.clock.advance(100)
    h.deliver_all()
    totals = [int(h.result(number)["total"]) for number in (1, 2, 3)]
    assert totals == [0x7F, 0x7F << 7, 7 << 20], totals
    assert [int(h.result(number)["count"]) for number in (1, 2, 3)] == [7, 7, 3]
    state = decode(h.checkpoint(3))
    assert (int(state["total"]), int(state["count"])) == (sum(totals), 17)
    assert len(h.abandoned()) == 1
    h.settle()
    assert h.leftovers() == []
    assert "tensorflow" in sys.modules
    assert "tensorflow_federated" not in sys.modules
"""


def test_real_plan_commits_exact_sums_without_tff():
    # With `-c`, the working directory, which contains `support`, is on the path.
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", SCRIPT], cwd=TESTS, capture_output=True, timeout=500, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
