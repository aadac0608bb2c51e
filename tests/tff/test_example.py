"""The README's example: it compiles, and learns what its data were made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import muster.simulation
from muster.author import build_plan
from muster.cli.loading import load_computation, load_function

EXAMPLE = Path(__file__).parents[2] / "examples/own_model.py"


@pytest.mark.xdist_group("example")
def test_example_learns_the_coefficients_of_its_data():
    plan = build_plan(load_computation(f"{EXAMPLE}:process"))
    found = muster.simulation.run(plan, load_function(f"{EXAMPLE}:hospitals"), rounds=6)
    kernel = found.checkpoints[-1]["global_model_weights/trainable/0"]
    np.testing.assert_allclose(kernel, [[1.0], [-2.0], [0.5]], atol=0.05)
