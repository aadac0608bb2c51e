"""The public names of the packages, and the modules that importing them loads."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

PUBLIC = {
    "muster": ["Plan", "ProblemError", "ProblemType"],
    "muster.author": [
        "Difference", "DrawSource", "Hyperparameter", "HyperparameterWarning", "PlanCheck", "RoundDifference",
        "SecureSumsError", "Verdict", "build_plan", "check_plan", "restore_result", "restore_state",
    ],
    "muster.client": [
        "BudgetError", "ConfigurationError", "ForeignAnswerError", "LimitError", "MusterClient", "PolicyError",
        "PolicyFileError", "SetupError", "UnreachableError",
    ],
    "muster.local": ["LocalCoordinator", "StartError"],
    "muster.operator": ["EndedRounds", "Operator"],
    "muster.runtime": ["Runtime"],
    "muster.simulation": ["SimulationError", "SimulationResult", "run"],
    "muster.testing": ["InProcessCoordinator", "in_process_coordinator"],
}  # fmt: skip


NEEDS_TENSORFLOW = {"muster.runtime": pytest.mark.slow}


@pytest.mark.parametrize(
    "module",
    [pytest.param(name, marks=NEEDS_TENSORFLOW.get(name, ())) for name in PUBLIC if name != "muster.author"],
)
def test_public_names_are_listed_and_importable(module):
    package = import_module(module)
    assert set(PUBLIC[module]) <= set(package.__all__)
    assert all(getattr(package, name) is not None for name in PUBLIC[module])


def test_names_of_author_are_listed_and_have_a_module():
    # Accessing them would load TFF. tests/tff uses each of them.
    author = import_module("muster.author")
    assert sorted(PUBLIC["muster.author"]) == author.__all__ == sorted(author._MODULES)


def test_shared_names_are_defined_in_the_wire_package():
    import muster
    from muster.wire import plan, problems

    assert muster.Plan is plan.Plan
    assert muster.ProblemError is problems.ProblemError
    assert {"Plan", "ProblemError", "ProblemType"} <= set(dir(muster))
    with pytest.raises(AttributeError, match="has no attribute 'plam'"):
        _ = muster.plam


def test_importing_muster_loads_no_libraries():
    code = "import sys, muster; assert not {'numpy', 'pydantic', 'requests', 'tensorflow'} & set(sys.modules), 'heavy'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
