"""Bundles, each in an environment of only its requirements, over emulators of Google's services.

Nothing of this checkout is on its path, so a missing file or library makes a test fail.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from support import cloud
from support.deployed import (
    FirstRequest,
    Function,
    LocalDeployment,
    NotServingError,
    ProtocolCaller,
    end,
    local_deployment,
    unpacked,
)
from support.environments import environment_of, outside
from support.plans import folded_by_graphs

from muster.bundles import Bundle, build
from muster.wire.plan import Plan
from muster.wire.tensors import decode, encode

# The first run on a machine installs TensorFlow, hence the timeout.
pytestmark = [cloud.EMULATORS, pytest.mark.timeout(900)]
PLAN = Plan.load(Path(__file__).resolve().parents[1] / "data" / "client_ids_sum.plan")
NOTICES = Path(__file__).resolve().parents[2] / "requirements" / "notices.py"
CLIENTS, ROUNDS = 5, 2
SECRET, SIGNING = "MUSTER_SECRET", "client_api"
# Megabytes resident, after the import, after the first request and after some rounds
API_LIMIT = 150
IMPORTS = 3

# The imports of functions-framework before it listens: itself, and main.py with its imports.
IMPORT = """
import json, sys, time
start = time.perf_counter()
from functions_framework import create_app
create_app(target=sys.argv[1], source="main.py", signature_type="http")
seconds = time.perf_counter() - start
with open("/proc/self/status") as status:
    kilobytes = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
files = [sys.modules[name].__file__ for name in ("muster_coordinator", "muster") if name in sys.modules]
heavy = [name for name in ("tensorflow", "grpc", "google.api_core") if name in sys.modules]
print(json.dumps({"seconds": seconds, "megabytes": kilobytes / 1024, "from": files, "heavy": heavy}))
"""


@dataclass(frozen=True)
class UnpackedBundle:
    """Bundle, its unpacked folder, and the `bin` folder of its environment."""

    bundle: Bundle
    folder: Path
    python: Path


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[str, UnpackedBundle]:
    """Returns every bundle by name."""
    root = tmp_path_factory.mktemp("bundles")
    by_name = {}
    for bundle in build(out=root / "zips"):
        folder = unpacked(bundle.path, root / bundle.name)
        by_name[bundle.name] = UnpackedBundle(bundle, folder, environment_of(folder / "requirements.txt") / "bin")
    return by_name


@pytest.fixture(scope="module")
def deployment(firestore_emulator, storage_emulator, issuer) -> Iterator[LocalDeployment]:
    storage_emulator.make_bucket("bundles")
    stores = {
        **firestore_emulator.environment,
        **storage_emulator.environment,
        "MUSTER_STATE": "firestore://bundles/(default)",
        "MUSTER_BLOBS": "gs://bundles",
    }
    with local_deployment(issuer, stores) as deployment:
        yield deployment


def target_of(name: str) -> str:
    return name.removesuffix("-tensorflow")


def serve(
    stack: ExitStack, bundles: dict[str, UnpackedBundle], deployment: LocalDeployment, logs: Path, *names: str
) -> dict[str, Function]:
    """Starts the functions of the bundles concurrently."""
    functions = {}
    for name in names:
        function = Function(
            target_of(name),
            folder=bundles[name].folder,
            python=bundles[name].python,
            # Only the signing function has the key, as in a deployment.
            settings={key: value for key, value in deployment.settings.items() if key != SECRET or name == SIGNING},
            port=deployment.ports[target_of(name)],
            log=logs / f"{name}.log",
        )
        functions[name] = stack.enter_context(function)
    stack.callback(end, functions.values())
    for function in functions.values():
        function.wait()
    return functions


def run_task(caller: ProtocolCaller, name: str, plan: Plan) -> None:
    """Runs a task of sums to its end, and checks its exact results."""
    policy = {"rounds": ROUNDS, "goal": CLIENTS, "minimum": CLIENTS, "over_selection": 2.0, "chunk": 2}
    caller.make_task(name, plan.encode(), plan.sha256, **policy)
    for number in range(1, ROUNDS + 1):
        for client in range(CLIENTS):
            update = encode({"0": np.int64(1 << client), "1": np.int64(1)})
            response = caller.upload(caller.assigned(name, client), update)
            assert response.ok, response.text
        caller.committed(name, number)
        result = decode(caller.result(name, number))
        assert {path: int(value) for path, value in result.items()} == {"total": (1 << CLIENTS) - 1, "count": CLIENTS}
    assert caller.task(name)["status"] == "completed"


def measure_import(bundle: UnpackedBundle) -> dict[str, object]:
    """Measures the import of a bundle in new interpreters.

    The seconds are the median of three runs.
    """
    command = [str(bundle.python / "python"), "-I", "-B", "-c", IMPORT, target_of(bundle.bundle.name)]
    runs = [
        json.loads(
            subprocess.run(  # noqa: S603
                command, cwd=bundle.folder, env=outside(), check=True, capture_output=True, text=True, timeout=120
            ).stdout
        )
        for _ in range(IMPORTS)
    ]
    return {**runs[0], "seconds": statistics.median(run["seconds"] for run in runs)}


def test_bundles_run_rounds_with_only_their_own_packages(tmp_path, bundles, deployment, measured):
    imports = {name: measure_import(bundle) for name, bundle in bundles.items()}
    first_requests: dict[str, FirstRequest] = {}
    caller = ProtocolCaller(deployment)
    with ExitStack() as stack:
        functions = serve(stack, bundles, deployment, tmp_path, "client_api", "operator_api", "aggregator", "committer")
        first_requests |= {name: function.first_request() for name, function in functions.items()}
        run_task(caller, "sums", PLAN)
        # Plans that fold with graphs need the other aggregator, at the same address.
        functions["aggregator"].stop()
        functions |= serve(stack, bundles, deployment, tmp_path, "aggregator-tensorflow")
        first_requests["aggregator-tensorflow"] = functions["aggregator-tensorflow"].first_request()
        run_task(caller, "graphs", folded_by_graphs(PLAN))
        after_rounds = {name: function.megabytes() for name, function in functions.items() if name != "aggregator"}
    for name, function in functions.items():
        assert "Traceback" not in function.log(), name
    for name, bundle in bundles.items():
        assert len(imports[name]["from"]) == 2
        assert all(Path(file).is_relative_to(bundle.folder) for file in imports[name]["from"])
        # TensorFlow is imported with the first graph, and Google's libraries with the first
        # request.
        assert imports[name]["heavy"] == []
        first = first_requests[name]
        measured(
            f"{name:<21} own code {bundle.bundle.code_bytes / 1000:4.0f} kB, import {imports[name]['seconds']:.2f} s "
            f"and {imports[name]['megabytes']:3.0f} MB; first request {first.seconds:.2f} s, "
            f"{first.after:3.0f} MB after it"
            + (f", {after_rounds[name]:3.0f} MB after its rounds" if name in after_rounds else "")
        )
    for name in ("client_api", "operator_api"):
        assert imports[name]["megabytes"] <= API_LIMIT
        assert first_requests[name].after <= API_LIMIT
        assert after_rounds[name] <= API_LIMIT


def test_packages_of_a_bundle_agree_with_each_other(bundles):
    """The buildpack of Cloud Functions fails unless `pip check` succeeds."""
    for name, bundle in bundles.items():
        command = [str(bundle.python / "python"), "-m", "pip", "--disable-pip-version-check", "check"]
        check = subprocess.run(  # noqa: S603
            command, cwd=bundle.folder, env=outside(), check=False, capture_output=True, text=True, timeout=300
        )
        assert check.returncode == 0, (name, check.stdout, check.stderr)


def test_notice_lists_the_licenses_of_the_packages(bundles):
    for name, bundle in bundles.items():
        (site_packages,) = (bundle.python.parent / "lib").glob("python*/site-packages")
        command = [sys.executable, str(NOTICES), str(bundle.folder / "requirements.txt"), str(site_packages)]
        notice = subprocess.run(command, check=True, capture_output=True, timeout=300).stdout  # noqa: S603
        assert notice == (bundle.folder / "NOTICE").read_bytes(), name


@pytest.mark.parametrize(
    "missing", ["muster_coordinator/tokens.py", "muster/wire/tensors.py", "muster_coordinator/adapters/firestore.py"]
)
def test_bundle_without_one_of_its_files_does_not_serve(tmp_path, bundles, deployment, missing):
    folder = shutil.copytree(bundles["client_api"].folder, tmp_path / "broken")
    (folder / missing).unlink()
    log = tmp_path / "broken.log"
    with (
        Function(
            "client_api",
            folder=folder,
            python=bundles["client_api"].python,
            settings=deployment.settings,
            port=deployment.ports["client_api"],
            log=log,
        ) as function,
        pytest.raises(NotServingError, match=Path(missing).stem),
    ):
        function.serves()
