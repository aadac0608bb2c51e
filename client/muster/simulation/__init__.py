"""The whole protocol in one process: the coordinator's own code behind its HTTP layer, and the real client. No network, no TFF.

Time stands still while anything happens and jumps when everybody waits, chance is seeded, and work is delivered in one fixed
order: the same plan, data and seed give the same bytes. What is not simulated is concurrency; for that there is `muster demo`.
"""

from __future__ import annotations

from .ended import EndedRounds
from .run import SimulationError, SimulationResult, run

__all__ = ["EndedRounds", "SimulationError", "SimulationResult", "run"]
