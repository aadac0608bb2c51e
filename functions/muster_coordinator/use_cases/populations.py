"""Populations: their tasks, and what happened to their check-ins during the last day."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from muster.wire.messages import PopulationList, PopulationView
from muster_coordinator.domain.client_sketch import estimate, is_field, pairs_in
from muster_coordinator.state.checkin_hours import last_day
from muster_coordinator.state.platform import Platform


@dataclass
class _Population:
    checkins: Counter[str] = field(default_factory=Counter)
    pairs: set[int] = field(default_factory=set)
    tasks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Populations:
    """Populations of a deployment, as its tasks and clients name them."""

    platform: Platform

    def list(self) -> PopulationList:
        """Returns each population that has a task, or had a check-in during the last day.

        A name that only clients use has no tasks: it may be mistyped.
        """
        populations: dict[str, _Population] = {}
        for hour in last_day(self.platform):
            population = populations.setdefault(hour.population, _Population())
            population.pairs |= pairs_in(hour.fields)
            outcomes = {name: count for name, count in hour.fields.items() if not is_field(name)}
            population.checkins.update(outcomes)
        for record in self.platform.tasks.page("tasks").records:
            task = record.value
            if not task.ended:
                populations.setdefault(task.spec.population, _Population()).tasks.append(task.name)
        return PopulationList(populations=tuple(_view(name, populations[name]) for name in sorted(populations)))


def _view(name: str, population: _Population) -> PopulationView:
    return PopulationView(
        population=name,
        clients=estimate(population.pairs),
        checkins=dict(sorted(population.checkins.items())),
        tasks=tuple(sorted(population.tasks)),
    )
