"""The operator's SDK: plans, tasks, rounds, results and checkpoints. Imports no TensorFlow."""

from __future__ import annotations

from muster.operator.operator import Operator

__all__ = ["Operator"]
