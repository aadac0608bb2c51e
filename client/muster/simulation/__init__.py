"""Simulates the protocol in one process: the coordinator with its HTTP layer, and real clients.

It uses no network and no TFF. Time is frozen while clients or the coordinator work and advances
when all clients wait, random numbers are seeded, and work is delivered in a fixed order: the same
plan, data and seed yield the same bytes, unless a graph of the plan reads the clock or the system's
entropy (`SimulationResult.unseeded` names the operation). Clients draw independent random numbers,
as in a deployment. Concurrency is not simulated; see `muster demo` for that.
"""

from __future__ import annotations

from muster.runtime.client_data import ClientsDataWarning
from muster.simulation.run import SimulationError, SimulationResult, run

__all__ = ["ClientsDataWarning", "SimulationError", "SimulationResult", "run"]
