"""The whole protocol in one process: the coordinator's own code behind its HTTP layer, and the real client. No network, no TFF.

Time stands still while anything happens and jumps when all clients wait, chance is seeded, and work is delivered in one fixed
order: the same plan, data and seed give the same bytes, unless a graph of the plan reads the clock or the system's entropy
(`SimulationResult.unseeded` names the operation). Clients draw independent random numbers, as they do in a deployment.
Concurrency is not simulated; for that there is `muster demo`.
"""

from __future__ import annotations

from .clients import ClientsDataWarning
from .ended import EndedRounds
from .run import SimulationError, SimulationResult, run

__all__ = ["ClientsDataWarning", "EndedRounds", "SimulationError", "SimulationResult", "run"]
