"""From a TensorFlow Federated computation to a plan, and from a plan's tensors back to what TFF takes.

The only part of Muster that imports TFF (`muster-fl[author]`). Importing this package loads neither TFF nor TensorFlow;
the first use of what it exports does.
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

_HOMES = {
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
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
