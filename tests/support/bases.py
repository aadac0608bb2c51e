"""Runs of a driven task from a state outside the task."""

from __future__ import annotations

from muster.wire.messages import StateRef
from support.harness import Harness


def start_from(h: Harness, ref: StateRef, *, request: str = "a-request") -> None:
    """Starts a run of the idle driven task from the state that `ref` names, and opens its round."""
    h.run(request, base=ref)
    h.deliver_all()
