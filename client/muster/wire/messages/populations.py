"""Messages about populations: their tasks, and the outcomes of their check-ins."""

from __future__ import annotations

from pydantic import Field

from muster.wire.base import Answer


class PopulationView(Answer):
    """Population as the check-ins of the last day show it. No field names a client."""

    population: str = Field(description="Name of the population, as clients or tasks name it.")
    clients: int = Field(
        description="Number of clients that checked in during the last day, as an estimate with an error of about 10 %."
    )
    checkins: dict[str, int] = Field(
        default_factory=dict,
        description="Number of check-ins of the last day by outcome: `assigned`, a reason to wait, or the problem "
        "(`unauthenticated` or `rate_limited`) that refused it. Up to a minute late.",
    )
    tasks: tuple[str, ...] = Field(default=(), description="Names of its tasks that have not ended.")


class PopulationList(Answer):
    """Populations with tasks or check-ins."""

    populations: tuple[PopulationView, ...] = Field(description="Populations, by name.")
