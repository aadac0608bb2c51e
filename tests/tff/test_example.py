"""Checks the examples: what the README's learns, and that a committed plan is current."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import muster.simulation
from muster.author import build_plan
from muster.cli.loading import load_computation, load_function
from muster.wire.plan import Plan

HISTOGRAM = Path(__file__).parents[2] / "examples/clients/histogram"
EXAMPLE = Path(__file__).parents[2] / "examples/own_model.py"


@pytest.mark.xdist_group("example")
def test_example_learns_the_coefficients_of_its_data():
    plan = build_plan(load_computation(f"{EXAMPLE}:process"))
    simulated = muster.simulation.run(plan, load_function(f"{EXAMPLE}:hospitals"), rounds=6)
    kernel = simulated.checkpoints[-1]["global_model_weights/trainable/0"]
    np.testing.assert_allclose(kernel, [[1.0], [-2.0], [0.5]], atol=0.05)


@pytest.mark.xdist_group("example")
def test_committed_histogram_plan_is_what_its_source_compiles_to():
    plan = build_plan(load_computation(f"{HISTOGRAM}.py:histogram"), name="histogram")
    assert plan.sha256 == Plan.load(f"{HISTOGRAM}.plan").sha256
    numbers = [[-5, 0, 9.5], [10, 19.99, 42, 50], [99.999, 100, 1234.5]]
    simulated = muster.simulation.run(plan, [np.array(values, np.float32) for values in numbers], rounds=1)
    assert simulated.results[0]["counts"].tolist() == [3, 2, 0, 0, 1, 1, 0, 0, 0, 3]
