"""Compiles TensorFlow Federated computations to plans, and restores a plan's tensors to TFF values.

The only package of Muster that imports TFF (`muster-fl[author]`). Importing it loads neither TFF
nor TensorFlow; the first use of a name that it exports does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muster.author.build import build_plan
    from muster.author.check import Difference, DrawSource, PlanCheck, RoundDifference, Verdict, check_plan
    from muster.author.first_state import Hyperparameter, HyperparameterWarning
    from muster.author.restore import restore_result, restore_state
    from muster.author.secure import SecureSumsError

__all__ = [
    "Difference",
    "DrawSource",
    "Hyperparameter",
    "HyperparameterWarning",
    "PlanCheck",
    "RoundDifference",
    "SecureSumsError",
    "Verdict",
    "build_plan",
    "check_plan",
    "restore_result",
    "restore_state",
]

_MODULES = {  # of this package, by the names that they define
    "Difference": "check",
    "DrawSource": "check",
    "Hyperparameter": "first_state",
    "HyperparameterWarning": "first_state",
    "PlanCheck": "check",
    "RoundDifference": "check",
    "SecureSumsError": "secure",
    "Verdict": "check",
    "build_plan": "build",
    "check_plan": "check",
    "restore_result": "restore",
    "restore_state": "restore",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
