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
    scalars = {name: value for name, value in result.items() if value.size == 1 and value.dtype.kind in "biuf"}
    values = {name: float(value.reshape(())) for name, value in scalars.items()}
    return {
        name: value for name, value in values.items() if math.isfinite(value) and not _is_mean_of_nothing(name, values)
    }


def _is_mean_of_nothing(path: str, values: Mapping[str, float]) -> bool:
    group, slash, name = path.rpartition("/")
    return name not in _COUNTS and values.get(f"{group}{slash}{_EXAMPLES}") == 0.0
