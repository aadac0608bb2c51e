"""Upgrade in the middle of a round: this version finishes a round of an earlier one.

Both versions run over the same stores, one after the other, and each update is counted once.
"""

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
from support.deployed import Function, LocalDeployment, ProtocolCaller, end, local_deployment, unpacked
from support.environments import outside

from muster.bundles import build
from muster.wire.plan import Plan
from muster.wire.tensors import decode, encode
from muster_coordinator.adapters.directory import DirectoryBlobs
from muster_coordinator.domain import names

ROOT = Path(__file__).resolve().parents[2]
DEPLOYED = ("functions", "client/muster/wire", "client/muster/runtime")
FUNCTIONS = ("client_api", "operator_api", "aggregator", "committer")
OLD_PACKAGE = "functions/coordinator"  # earlier name of the package in functions/muster_coordinator
CLIENTS = 6
ALL_CLIENTS = (1 << CLIENTS) - 1
# Prints the files of the packages that a bundle brings. The environment itself has
# `muster_coordinator`.
PRINT_FILES = """
import importlib.util, muster
name = "coordinator" if importlib.util.find_spec("coordinator") else "muster_coordinator"
print(importlib.import_module(name).__file__, muster.__file__, sep="\\n")
"""


def git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)  # noqa: S603, S607


def newest_other_version() -> str | None:
    """Returns the newest version whose deployed code differs from this checkout's.

    Commits of a merged branch are no versions: they were never deployed.

    MUSTER_UPGRADE_FROM names the commit to start from, such as a release.
    """
    log = git("log", "--first-parent", "--format=%H", os.environ.get("MUSTER_UPGRADE_FROM", "HEAD"), "--", *DEPLOYED)
    commits = log.stdout.decode().split()
    return next((commit for commit in commits if git("diff", "--quiet", commit, "--", *DEPLOYED).returncode == 1), None)


def last_version_under_the_old_name() -> str | None:
    """Returns the last commit whose coordinator was the package `coordinator`."""
    for commit in git("log", "--format=%H", "--", OLD_PACKAGE).stdout.decode().split():
        # The newest of these commits is the one that removed the folder, so its parent has it.
        for candidate in (commit, f"{commit}^"):
            if git("cat-file", "-e", f"{candidate}:{OLD_PACKAGE}").returncode == 0:
                return candidate
    return None


@pytest.fixture(params=[newest_other_version, last_version_under_the_old_name])
def previous(request, tmp_path) -> Path:
    """Returns a checkout of an earlier version."""
    try:
        commit = request.param()
    except FileNotFoundError:
        pytest.skip("the previous version comes from git, which is not installed")
    if commit is None:
        pytest.skip("there is no git history with another version of the functions")
    archive = git("archive", "--format=zip", commit)
    assert archive.returncode == 0, archive.stderr
    folder = tmp_path / "previous checkout"
    zipfile.ZipFile(io.BytesIO(archive.stdout)).extractall(folder)
    return folder


def deploy(folder: Path, source: Path | None) -> dict[str, Path]:
    """Builds and unpacks the bundles of a version."""
    built = {bundle.name: bundle.path for bundle in build(source, out=folder / "zips")}
    return {name: unpacked(built[name], folder / name) for name in FUNCTIONS}


def serve(stack: ExitStack, folders: dict[str, Path], deployment: LocalDeployment, logs: Path) -> list[Function]:
    """Starts the functions of a version, and asserts that they import the bundles' packages."""
    python = Path(sys.executable).parent
    functions = []
    for name, folder in folders.items():
        # The environment provides the libraries. Its checkout of Muster must not hide the bundle's
        # packages.
        settings = {**deployment.settings, "PYTHONPATH": str(folder)}
        command = [sys.executable, "-c", PRINT_FILES]
        done = subprocess.run(command, env=outside(**settings), cwd=folder, capture_output=True, check=True, text=True)  # noqa: S603
        assert all(Path(file).is_relative_to(folder) for file in done.stdout.split("\n")[:2])
        log = logs / f"{name}.log"
        function = Function(name, folder=folder, python=python, settings=settings, port=deployment.ports[name], log=log)
        functions.append(stack.enter_context(function))
    stack.callback(end, functions)
    for function in functions:
        function.wait()
    return functions


def update(client: int) -> bytes:
    return encode({"0": np.int64(1 << client), "1": np.int64(1)})


def test_this_version_finishes_a_round_of_an_earlier_one(tmp_path, previous, issuer, measured):
    old, new = deploy(tmp_path / "old", previous), deploy(tmp_path / "new", None)
    file = previous / "tests/data/client_ids_sum.plan"
    stores = {"MUSTER_STATE": f"sqlite://{tmp_path}/state.db", "MUSTER_BLOBS": f"file://{tmp_path}/blobs"}
    with local_deployment(issuer, stores) as deployment, ExitStack() as stack:
        caller = ProtocolCaller(deployment)
        before = serve(stack, old, deployment, tmp_path)
        policy = {"rounds": 2, "goal": CLIENTS, "minimum": CLIENTS, "over_selection": 3.0, "chunk": 2, "shards": 1}
        caller.make_task("sum", file.read_bytes(), Plan.load(file).sha256, **policy)
        tokens = [caller.assigned("sum", client) for client in range(CLIENTS - 1)]
        for client in range(3):
            assert caller.upload(tokens[client], update(client)).ok
        # Two updates are folded, the third is pending, and clients 3 and 4 have not uploaded yet.
        blobs = DirectoryBlobs(tmp_path / "blobs")
        caller.until(lambda: list(blobs.list(names.PARTIALS)) or None)
        end(before)

        serve(stack, new, deployment, tmp_path)
        view = caller.task("sum")
        assert (view["checkpoint"], view["current"]["phase"], view["current"]["assigned"]) == (0, "COLLECTING", 5)
        # This version publishes the count of a small round after its end
        assert "reported" not in view["current"]
        # Clients without a response repeat their uploads with the old assignment, whether folded or
        # not.
        repeated = [caller.upload(tokens[client], update(client)).status_code for client in (0, 2)]
        old_assignments = []
        for client in (3, 4):
            response = caller.upload(tokens[client], update(client))
            old_assignments.append(response.status_code)
            if not response.ok:  # the refusal names the assignment, and the client checks in again
                assert response.json()["type"].rpartition("/")[2] in ("assignment_invalid", "assignment_expired"), (
                    response.text
                )
                assert caller.upload(caller.assigned("sum", client), update(client)).ok
        assert caller.upload(caller.assigned("sum", 5), update(5)).ok
        caller.committed("sum", 1)
        for client in range(CLIENTS):
            assert caller.upload(caller.assigned("sum", client), update(client)).ok
        caller.committed("sum", 2)
        results = [decode(caller.result("sum", number)) for number in (1, 2)]
        assert [{name: int(value) for name, value in result.items()} for result in results] == [
            {"total": ALL_CLIENTS, "count": CLIENTS}
        ] * 2
        state = decode(caller.done("operator_api", "GET", "/v1/tasks/sum/checkpoints/2").content)
        assert {name: int(value) for name, value in state.items()} == {"total": 2 * ALL_CLIENTS, "count": 2 * CLIENTS}
        assert caller.task("sum")["status"] == "completed"
    measured(
        f"Upgrade in the middle of a round: 6 updates, each counted once; responses to repeated uploads: {repeated}, "
        f"to old assignments: {old_assignments}"
    )
