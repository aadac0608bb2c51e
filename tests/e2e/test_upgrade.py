"""A round that starts under the previous version's functions is finished by these, on the same state: each update counted once."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from support.deployed import Caller, Function, Place, end, place, unpacked
from support.environments import outside

from muster.bundles import build
from muster.wire.plan import Plan
from muster.wire.tensors import decode, encode
from muster_coordinator.adapters.directory import DirectoryBlobs
from muster_coordinator.domain import names

ROOT = Path(__file__).resolve().parents[2]
DEPLOYED = ("functions", "client/muster/wire", "client/muster/runtime")
FUNCTIONS = ("client_api", "operator_api", "aggregator", "committer")
CLIENTS = 6
EVERYONE = (1 << CLIENTS) - 1


def git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)  # noqa: S603, S607


@pytest.fixture
def previous(tmp_path) -> Path:
    """A checkout of the newest commit whose deployed code is another than the one here; or of MUSTER_UPGRADE_FROM, such as a release."""
    try:
        log = git("log", "--format=%H", os.environ.get("MUSTER_UPGRADE_FROM", "HEAD"), "--", *DEPLOYED)
    except FileNotFoundError:
        pytest.skip("the previous version comes from git, which is not installed")
    for commit in log.stdout.decode().split():
        if git("diff", "--quiet", commit, "--", *DEPLOYED).returncode == 1:
            archive = git("archive", "--format=zip", commit)
            assert archive.returncode == 0, archive.stderr
            folder = tmp_path / "previous checkout"
            zipfile.ZipFile(io.BytesIO(archive.stdout)).extractall(folder)
            return folder
    pytest.skip("there is no git history with another version of the functions")


def deploy(folder: Path, source: Path | None) -> dict[str, Path]:
    """The bundles of a version, unpacked."""
    built = {bundle.name: bundle.path for bundle in build(source, out=folder / "zips")}
    return {name: unpacked(built[name], folder / name) for name in FUNCTIONS}


def serve(stack: ExitStack, folders: dict[str, Path], here: Place, logs: Path) -> list[Function]:
    python = Path(sys.executable).parent
    functions = []
    for name, folder in folders.items():
        # This environment has the libraries; `coordinator` and `muster` are the bundle's, which comes before all else.
        settings = {**here.settings, "PYTHONPATH": str(folder)}
        script = "import coordinator, muster; print(muster_coordinator.__file__, muster.__file__, sep='\\n')"
        command = [sys.executable, "-c", script]
        found = subprocess.run(command, env=outside(**settings), cwd=folder, capture_output=True, check=True, text=True)  # noqa: S603
        assert all(Path(file).is_relative_to(folder) for file in found.stdout.split("\n")[:2])
        log = logs / f"{name}.log"
        function = Function(name, folder=folder, python=python, settings=settings, port=here.ports[name], log=log)
        functions.append(stack.enter_context(function))
    stack.callback(end, functions)
    for function in functions:
        function.wait()
    return functions


def update(client: int) -> bytes:
    return encode({"0": np.int64(1 << client), "1": np.int64(1)})


def test_a_round_begun_by_the_previous_version_is_finished_by_this_one(tmp_path, previous, issuer, measured):
    old, new = deploy(tmp_path / "old", previous), deploy(tmp_path / "new", None)
    file = previous / "tests/data/client_ids_sum.plan"  # as it was then
    stores = {"MUSTER_STATE": f"sqlite://{tmp_path}/state.db", "MUSTER_BLOBS": f"file://{tmp_path}/blobs"}
    with place(issuer, stores) as here, ExitStack() as stack:
        caller = Caller(here)
        before = serve(stack, old, here, tmp_path)
        policy = {"rounds": 2, "goal": CLIENTS, "minimum": CLIENTS, "over_selection": 3.0, "chunk": 2, "shards": 1}
        caller.make_task("sum", file.read_bytes(), Plan.load(file).sha256, **policy)
        tokens = [caller.assigned("sum", client) for client in range(CLIENTS - 1)]
        for client in range(3):
            assert caller.upload(tokens[client], update(client)).ok
        # Two are folded, the third waits, and 3 and 4 are at work.
        blobs = DirectoryBlobs(tmp_path / "blobs")
        caller.until(lambda: list(blobs.list(names.PARTIALS)) or None)
        end(before)

        serve(stack, new, here, tmp_path)
        view = caller.task("sum")
        assert (view["checkpoint"], view["current"]["phase"], view["current"]["assigned"]) == (0, "COLLECTING", 5)
        assert "reported" not in view["current"]  # this version publishes that of a small round once it has ended
        # Whoever got no answer sends its update again, folded or not, with the assignment of then.
        again = [caller.upload(tokens[client], update(client)).status_code for client in (0, 2)]
        held = []
        for client in (3, 4):
            answer = caller.upload(tokens[client], update(client))
            held.append(answer.status_code)
            if not answer.ok:  # refused by name, and then it checks in again
                assert answer.json()["type"].rpartition("/")[2] in ("assignment_invalid", "assignment_expired"), (
                    answer.text
                )
                assert caller.upload(caller.assigned("sum", client), update(client)).ok
        assert caller.upload(caller.assigned("sum", 5), update(5)).ok
        caller.committed("sum", 1)
        for client in range(CLIENTS):
            assert caller.upload(caller.assigned("sum", client), update(client)).ok
        caller.committed("sum", 2)
        results = [decode(caller.result("sum", number)) for number in (1, 2)]
        assert [{name: int(value) for name, value in result.items()} for result in results] == [
            {"total": EVERYONE, "count": CLIENTS}
        ] * 2
        state = decode(caller.done("operator_api", "GET", "/v1/tasks/sum/checkpoints/2").content)
        assert {name: int(value) for name, value in state.items()} == {"total": 2 * EVERYONE, "count": 2 * CLIENTS}
        assert caller.task("sum")["status"] == "completed"
    measured(
        f"Upgrade in mid-round: 6 updates each counted once; repeats of old uploads were answered {again}, old assignments {held}"
    )
