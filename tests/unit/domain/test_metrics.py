"""Tests of the metrics that are extracted from a round's result."""

from __future__ import annotations

import numpy as np
import pytest

from muster_coordinator.domain.metrics import scalar_metrics


def test_metrics_are_the_finite_real_scalars() -> None:
    result = {
        "loss": np.float32(0.5),
        "count": np.array([3], np.int32),
        "vector": np.zeros(2),
        "name": np.array(b"x", object),
        "bad": np.float32("nan"),
        "true": np.True_,
    }
    assert scalar_metrics(result) == {"loss": 0.5, "count": 3.0, "true": 1.0}


@pytest.mark.parametrize("group", ["", "client_work/train/", "a/b/c/"])
def test_round_without_examples_has_no_metrics_but_its_counts(group: str) -> None:
    result = {f"{group}loss": np.float32(0), f"{group}num_examples": np.int64(0), f"{group}num_batches": np.int64(0)}
    other = {"other/loss": np.float32(2.0), "other/num_examples": np.int64(4)}
    assert scalar_metrics({**result, **other}) == {
        f"{group}num_examples": 0.0,
        f"{group}num_batches": 0.0,
        "other/loss": 2.0,
        "other/num_examples": 4.0,
    }
