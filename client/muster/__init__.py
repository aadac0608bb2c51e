"""Muster: federated learning over HTTP with stateless clients.

The parts import apart, so that a device installs no more than it needs: `muster.client` (check in, work, upload),
`muster.runtime` (a plan's graphs on plain TensorFlow), `muster.author` (TFF to plan), `muster.operator` (tasks, rounds,
checkpoints), `muster.simulation` (the whole protocol in one process). The names that several of them share are exported
here: `muster.Plan`, `muster.ProblemError` and `muster.ProblemType`. Importing `muster` loads none of them; the first
use of a name does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muster.wire.plan import Plan
    from muster.wire.problems import ProblemError, ProblemType

__all__ = ["Plan", "ProblemError", "ProblemType", "__version__"]

__version__ = "0.1.0"

_HOMES = {"Plan": "wire.plan", "ProblemError": "wire.problems", "ProblemType": "wire.problems"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
