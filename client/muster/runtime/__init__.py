"""Runs a plan with plain TensorFlow, and folds updates with numpy. No TFF.

Importing this package, `muster.runtime.fold` or `muster.runtime.data` loads no TensorFlow; the
first use of `Runtime` does (`tensorflow>=2.14`, the extra `muster-fl[tensorflow]`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.runtime.calls import CancelledError, abandoned_calls
from muster.runtime.fold import Accumulator, Fold, Folded

if TYPE_CHECKING:
    from muster.runtime.stages import Runtime, UpdateResult

__all__ = ["Accumulator", "CancelledError", "Fold", "Folded", "Runtime", "UpdateResult", "abandoned_calls"]


def __getattr__(name: str) -> Any:
    if name in {"Runtime", "UpdateResult"}:
        from muster.runtime import stages

        return getattr(stages, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
