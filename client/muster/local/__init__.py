"""A coordinator on this machine: the deployed functions as processes under one supervisor, on an embedded store (`muster up`).

`LocalCoordinator` is imported when it is first used, so that the functions' own processes do not load it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muster.local.coordinator import LocalCoordinator, StartError

__all__ = ["LocalCoordinator", "StartError"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("muster.local.coordinator"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
