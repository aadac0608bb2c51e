"""Extracts the metrics of a round: the meaningful scalars of its result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_EXAMPLES = "num_examples"  # TFF's name for the number of examples that the other metrics are means over
_COUNTS = (_EXAMPLES, "num_batches")


def scalar_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Returns the finite real scalars of a round's result, by path.

    Metrics beside a `num_examples` of 0 are omitted, except for the counts: TFF reports a loss of
    0.0 for a round without examples, which would be a point on a curve that no client produced.

    Args:
      result: The round's result, numpy arrays by path.
    """
    values = _scalars(result)
    return {
        name: value for name, value in values.items() if math.isfinite(value) and not _is_mean_of_nothing(name, values)
    }


def non_finite_metrics(result: Mapping[str, Any]) -> frozenset[str]:
    """Returns the paths of the scalars of a round's result that are NaN or infinite.

    Metrics beside a `num_examples` of 0 are omitted.
    """
    values = _scalars(result)
    return frozenset(
        name for name, value in values.items() if not math.isfinite(value) and not _is_mean_of_nothing(name, values)
    )


def counts_no_example(metrics: Mapping[str, float]) -> bool:
    """Returns whether a round's metrics count examples, and every count is 0.

    Such a round describes no data. TFF's learning algorithms also count no examples of a client
    whose update is not finite.

    Args:
      metrics: The metrics that `scalar_metrics` returned.
    """
    counts = [value for path, value in metrics.items() if path.rpartition("/")[2] == _EXAMPLES]
    return bool(counts) and not any(counts)


def _scalars(result: Mapping[str, Any]) -> dict[str, float]:
    scalars = {name: value for name, value in result.items() if value.size == 1 and value.dtype.kind in "biuf"}
    return {name: float(value.reshape(())) for name, value in scalars.items()}


def _is_mean_of_nothing(path: str, values: Mapping[str, float]) -> bool:
    group, slash, name = path.rpartition("/")
    return name not in _COUNTS and values.get(f"{group}{slash}{_EXAMPLES}") == 0.0
