"""`muster demo` end to end, with its processes and kills."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import cloud

from muster.local.emulators import FirestoreEmulator, StorageEmulator
from muster.wire.tensors import decode


def processes_with(text):
    """Returns the processes with `text` in command or environment; empty without /proc."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            content = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if text.encode() in content and state != "Z" and folder.name != str(os.getpid()):
            pids.append(int(folder.name))
    return pids


@pytest.mark.timeout(900)
@pytest.mark.parametrize("options", [(), ("--emulators",)], ids=["embedded", "emulators"])
def test_demo_trains_through_both_kills_and_leaves_no_process(tmp_path, options):
    if options:  # the demo starts its own
        cloud.check_installed(FirestoreEmulator(tmp_path), StorageEmulator(tmp_path))
    # With a space, which a user's folder may have.
    out = tmp_path / "my demo"
    mark = f"mark-{os.getpid()}-{time.monotonic_ns()}"
    with (tmp_path / "output").open("wb") as output:
        done = subprocess.run(  # noqa: S603  our own code
            [
                sys.executable,
                "-m",
                "muster.cli",
                "demo",
                "--clients",
                "10",
                "--rounds",
                "3",
                "--out",
                str(out),
                *options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=600,
            env={**os.environ, "MUSTER_TEST_MARK": mark},
            check=False,
        )
    text = (tmp_path / "output").read_text()
    assert done.returncode == 0, text
    assert "\x1b" not in text
    assert re.search(r"Round 1: SIGKILL to client-\d\d", text)
    assert re.search(r"Round [23]: SIGKILL to the whole coordinator", text)
    assert re.search(r"Round [23]: the coordinator is back", text)
    assert ("emulated here: firestore at" in text) == bool(options)

    with (out / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["round"]) for row in rows] == [1, 2, 3]
    assert all(8 <= int(row["folded"]) <= 10 for row in rows)
    assert {"test_accuracy", "test_loss", "update_bytes", "broadcast_bytes"} <= set(rows[0])
    names = {path.name for path in out.iterdir()}
    assert {"accuracy.png", "checkpoints", "final_weights.safetensors", "digits.plan"} <= names
    assert len(list((out / "checkpoints").iterdir())) == 4
    weights = decode((out / "final_weights.safetensors").read_bytes())
    assert [value.shape for value in weights.values()] == [(64, 32), (32,), (32, 10), (10,)]
    assert "updates were counted, and" in text
    assert str(out) in text

    # Helpers of multiprocessing end a moment later, when they see their pipe close.
    deadline = time.monotonic() + 120
    while processes_with(mark) and time.monotonic() < deadline:
        os.sched_yield()
    assert processes_with(mark) == []
