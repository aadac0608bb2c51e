"""Each bundle alone: unpacked into an empty folder, in an environment of its own requirements, on Google's services emulated.

Nothing of this checkout is on its path, so a file or a library that a bundle lacks is a failure here.
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
from support.deployed import Answered, Caller, Function, NotServingError, Place, end, place, unpacked
from support.environments import environment_of, outside
from support.plans import folded_by_graphs

from muster.bundles import Bundle, build
from muster.wire.plan import Plan
from muster.wire.tensors import decode, encode

# The time-out: the first run on a machine installs TensorFlow.
pytestmark = [cloud.EMULATORS, pytest.mark.timeout(900)]
PLAN = Plan.load(Path(__file__).resolve().parents[1] / "data" / "client_ids_sum.plan")
NOTICES = Path(__file__).resolve().parents[2] / "requirements" / "notices.py"
CLIENTS, ROUNDS = 5, 2
SECRET, SIGNING = "MUSTER_SECRET", "client_api"
API_LIMIT = 150  # megabytes resident: after the import, after the first request and after some rounds
IMPORTS = 3

# What functions-framework does before it listens: imports itself, and then main.py with all that this imports.
IMPORT = """
import json, sys, time
start = time.perf_counter()
from functions_framework import create_app
create_app(target=sys.argv[1], source="main.py", signature_type="http")
seconds = time.perf_counter() - start
with open("/proc/self/status") as status:
    kilobytes = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
ours = [name for name in ("coordinator", "muster") if name in sys.modules]
print(json.dumps({"seconds": seconds, "megabytes": kilobytes / 1024, "from": [sys.modules[each].__file__ for each in ours],
                  "heavy": [each for each in ("tensorflow", "grpc", "google.api_core") if each in sys.modules]}))
"""


@dataclass(frozen=True)
class Alone:
    """A bundle, its folder and the `bin` of its environment."""

    bundle: Bundle
    folder: Path
    python: Path


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, Alone]:
    """Every bundle, by name."""
    root = tmp_path_factory.mktemp("alone")
    found = {}
    for bundle in build(out=root / "zips"):
        folder = unpacked(bundle.path, root / bundle.name)
        found[bundle.name] = Alone(bundle, folder, environment_of(folder / "requirements.txt") / "bin")
    return found


@pytest.fixture(scope="module")
def here(firestore_emulator, storage_emulator, issuer) -> Iterator[Place]:
    storage_emulator.make_bucket("bundles")
    stores = {
        **firestore_emulator.environment,
        **storage_emulator.environment,
        "MUSTER_STATE": "firestore://bundles/(default)",
        "MUSTER_BLOBS": "gs://bundles",
    }
    with place(issuer, stores) as found:
        yield found


def target_of(name: str) -> str:
    return name.removesuffix("-tensorflow")


def served(stack: ExitStack, alone: dict[str, Alone], here: Place, logs: Path, *names: str) -> dict[str, Function]:
    """The bundles' functions, started all at once, each at its own port."""
    found = {}
    for name in names:
        function = Function(
            target_of(name),
            folder=alone[name].folder,
            python=alone[name].python,
            # Only who signs has the key, as in a deployment.
            settings={key: value for key, value in here.settings.items() if key != SECRET or name == SIGNING},
            port=here.ports[target_of(name)],
            log=logs / f"{name}.log",
        )
        found[name] = stack.enter_context(function)
    stack.callback(end, found.values())
    for function in found.values():
        function.wait()
    return found


def play(caller: Caller, name: str, plan: Plan) -> None:
    """A task of sums to its end, and its results to the last bit."""
    policy = {"rounds": ROUNDS, "goal": CLIENTS, "minimum": CLIENTS, "over_selection": 2.0, "chunk": 2}
    caller.make_task(name, plan.encode(), plan.sha256, **policy)
    for number in range(1, ROUNDS + 1):
        for client in range(CLIENTS):
            update = encode({"0": np.int64(1 << client), "1": np.int64(1)})
            answer = caller.upload(caller.assigned(name, client), update)
            assert answer.ok, answer.text
        caller.committed(name, number)
        result = decode(caller.result(name, number))
        assert {path: int(value) for path, value in result.items()} == {"total": (1 << CLIENTS) - 1, "count": CLIENTS}
    assert caller.task(name)["status"] == "completed"


def imported(alone: Alone) -> dict[str, object]:
    """The import of the bundle in a fresh interpreter, seconds as the median of three."""
    command = [str(alone.python / "python"), "-I", "-B", "-c", IMPORT, target_of(alone.bundle.name)]
    runs = [
        json.loads(
            subprocess.run(  # noqa: S603  our own code
                command, cwd=alone.folder, env=outside(), check=True, capture_output=True, text=True, timeout=120
            ).stdout
        )
        for _ in range(IMPORTS)
    ]
    return {**runs[0], "seconds": statistics.median(run["seconds"] for run in runs)}


def test_every_bundle_serves_its_part_of_rounds_with_nothing_but_its_own(tmp_path, alone, here, measured):
    imports = {name: imported(each) for name, each in alone.items()}
    answered: dict[str, Answered] = {}
    caller = Caller(here)
    with ExitStack() as stack:
        functions = served(stack, alone, here, tmp_path, "client_api", "operator_api", "aggregator", "committer")
        answered |= {name: function.first_request() for name, function in functions.items()}
        play(caller, "sums", PLAN)
        # As an operator does whose plans fold with their own graphs: the other aggregator at the same address.
        functions["aggregator"].stop()
        functions |= served(stack, alone, here, tmp_path, "aggregator-tensorflow")
        answered["aggregator-tensorflow"] = functions["aggregator-tensorflow"].first_request()
        play(caller, "graphs", folded_by_graphs(PLAN))
        at_work = {name: function.megabytes() for name, function in functions.items() if name != "aggregator"}
    for name, function in functions.items():
        assert "Traceback" not in function.log(), name
    for name, each in alone.items():
        assert len(imports[name]["from"]) == 2
        assert all(Path(file).is_relative_to(each.folder) for file in imports[name]["from"])
        # TensorFlow comes with the first graph, and Google's libraries with the first request.
        assert imports[name]["heavy"] == []
        first = answered[name]
        measured(
            f"{name:<21} own code {each.bundle.code_bytes / 1000:4.0f} kB, import {imports[name]['seconds']:.2f} s and "
            f"{imports[name]['megabytes']:3.0f} MB; first request {first.seconds:.2f} s, {first.after:3.0f} MB after it"
            + (f", {at_work[name]:3.0f} MB after its rounds" if name in at_work else "")
        )
    for name in ("client_api", "operator_api"):
        assert imports[name]["megabytes"] <= API_LIMIT
        assert answered[name].after <= API_LIMIT
        assert at_work[name] <= API_LIMIT


def test_the_notice_of_a_bundle_is_what_its_packages_say(alone):
    for name, each in alone.items():
        (site_packages,) = (each.python.parent / "lib").glob("python*/site-packages")
        command = [sys.executable, str(NOTICES), str(each.folder / "requirements.txt"), str(site_packages)]
        written = subprocess.run(command, check=True, capture_output=True, timeout=300).stdout  # noqa: S603
        assert written == (each.folder / "NOTICE").read_bytes(), name


@pytest.mark.parametrize(
    "missing", ["coordinator/tokens.py", "muster/wire/tensors.py", "coordinator/adapters/firestore.py"]
)
def test_a_bundle_without_one_of_its_files_does_not_serve(tmp_path, alone, here, missing):
    folder = shutil.copytree(alone["client_api"].folder, tmp_path / "broken")
    (folder / missing).unlink()
    log = tmp_path / "broken.log"
    with (
        Function(
            "client_api",
            folder=folder,
            python=alone["client_api"].python,
            settings=here.settings,
            port=here.ports["client_api"],
            log=log,
        ) as function,
        pytest.raises(NotServingError, match=Path(missing).stem),
    ):
        function.serves()
