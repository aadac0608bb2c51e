"""Coordinator on this machine (`muster up`): the deployed functions on an embedded store.

Imports `LocalCoordinator` at its first use, so that the functions' processes do not load it.
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
