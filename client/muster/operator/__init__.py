"""Operator SDK: plans, tasks, rounds, results and checkpoints. Imports no TensorFlow."""

from __future__ import annotations

from muster.operator.ended_rounds import EndedRounds
from muster.operator.operator import Operator

__all__ = ["EndedRounds", "Operator"]
