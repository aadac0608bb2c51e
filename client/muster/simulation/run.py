"""Runs a plan over clients' data sets, round after round."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Optional, Union

from muster.client import Contributed, Failed, MusterClient, Transport, Unreached
from muster.operator import EndedRounds, Operator
from muster.runtime.client_data import ClientsData, Source
from muster.runtime.data import DataMeter
from muster.simulation.record import Record, Row, row_of
from muster.simulation.repeatable import unseeded_operations
from muster.testing import DeliveryError, InProcessCoordinator, in_process_coordinator
from muster.wire.manifest import Type
from muster.wire.messages import FailureReason, Phase, RoundView, TaskPolicy, TaskStatus, TaskView
from muster.wire.plan import Plan
from muster.wire.problems import ProblemError
from muster.wire.tensors import Array, decode

_TASK = _POPULATION = "simulation"
Progress = Callable[[RoundView], None]


class SimulationError(RuntimeError):
    """Error raised when a simulation can't continue; it names the round, the reason and the fix."""


@dataclass(frozen=True)
class SimulationResult:
    """Outcome of a simulation.

    Attributes:
      checkpoints: The server state by tensor name; number 0 is the initial one, number n the state
        after round n.
      results: The rounds' results by tensor name; number 0 is the first round's.
      metrics: A row for each round, as in `metrics.csv`: round, epoch, folded, dropped,
        update_bytes, broadcast_bytes (of one client), then the result's scalars by path.
      unseeded: The plan's operations that can't be seeded, by stage: `{"update": ("Timestamp",)}`.
        Values that depend on them differ between runs. Empty if the same seed yields the same
        bytes.
    """

    checkpoints: tuple[dict[str, Array], ...]
    results: tuple[dict[str, Array], ...]
    metrics: tuple[Row, ...]
    unseeded: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def run(
    plan: Union[Plan, str, Path],
    data: Any,
    *,
    rounds: int,
    seed: int = 0,
    out: Union[str, Path, None] = None,
    goal: Optional[int] = None,
    policy: Optional[TaskPolicy] = None,
    progress: Optional[Progress] = None,
) -> SimulationResult:
    """Runs the whole protocol, HTTP layer included, in this process. Requires TensorFlow.

    Args:
      plan: A plan, or its file.
      data: A sequence or a mapping of clients' data sets, each in a form that
        `muster.runtime.data.adapt` accepts; a TFF `ClientData`; or a function that returns one of
        these. A function with an argument is called for every round with its number, counted from
        1.
      rounds: Rounds to commit.
      seed: The same plan, data and seed yield the same bytes, unless a graph reads the clock or the
        system's entropy (`SimulationResult.unseeded`). Every client draws independent numbers, and
        others in each round and attempt.
      out: A folder for `checkpoints/`, `results/` and `metrics.csv`, written after each round.
        Replaces the output of an earlier simulation.
      goal: Updates per round. If it is less than the number of clients, each round takes the first
        ones in an order that the seed draws. None: the policy's goal; without a policy, all clients
        of the first round, and in later rounds those that have data.
      policy: The policy of rounds, except for `rounds` and `goal`. Its times are simulated.
      progress: Called with every committed round.

    Returns:
      All checkpoints, results and metrics.

    Raises:
      SimulationError: A client failed, a round was abandoned, or there are more clients than slots.
      ProblemError: The plan is not valid.
      TypeError, ValueError: The data has an unsupported form.
    """
    loaded = plan if isinstance(plan, Plan) else Plan.load(plan)
    clients_data = ClientsData(data)
    first = clients_data.of_round(1)
    round_policy = _policy(policy, rounds=rounds, goal=goal, clients=len(first))
    record = Record(None if out is None else Path(out))
    with in_process_coordinator(seed=seed) as coordinator:
        operator = Operator(coordinator.transport())
        operator.create_task(_TASK, population=_POPULATION, plan=loaded, policy=round_policy)
        coordinator.settle()
        simulation = _Simulation(
            coordinator,
            operator=operator,
            seed=seed,
            declared=loaded.manifest.data,
            clients_data=clients_data,
            randomness=random.Random(seed),  # noqa: S311  fixed on purpose
            every_client=goal is None and policy is None,
        )
        result = _Collected(operator, record, progress)
        result.checkpoint(0)
        ended = EndedRounds(operator, _TASK, page=1)
        sources = first
        while (view := simulation.open_round()) is not None:
            if view.round > 1:
                sources = clients_data.of_round(view.round)
            simulation.run_round(view, sources)
            for attempt in ended.poll():
                if attempt.phase is Phase.ABANDONED:
                    raise SimulationError(f"Round {attempt.round} was abandoned: {attempt.reason}")
                result.round(attempt)
    return SimulationResult(
        tuple(result.checkpoints), tuple(result.results), tuple(result.metrics), unseeded_operations(loaded)
    )


def _policy(base: Optional[TaskPolicy], *, rounds: int, goal: Optional[int], clients: int) -> TaskPolicy:
    fields = {} if base is None else base.to_dict()
    if goal is not None or base is None:
        fields["goal"] = clients if goal is None else goal
    if base is None:
        fields["minimum"] = 1  # later rounds may have fewer clients
    return TaskPolicy.from_dict({**fields, "rounds": rounds})


class _Collected:
    """Collector of each round's checkpoint, result and metrics."""

    def __init__(self, operator: Operator, record: Record, progress: Optional[Progress]) -> None:
        self.checkpoints: list[dict[str, Array]] = []
        self.results: list[dict[str, Array]] = []
        self.metrics: list[Row] = []
        self._operator = operator
        self._record = record
        self._progress = progress

    def checkpoint(self, version: int) -> None:
        data = self._operator.checkpoint_bytes(_TASK, version)
        self._record.checkpoint(version, data)
        self.checkpoints.append(decode(data))

    def round(self, view: RoundView) -> None:
        self.checkpoint(view.round)
        data = self._operator.result_bytes(_TASK, view.round)
        self._record.result(view.round, data)
        self.results.append(decode(data))
        self.metrics.append(row_of(view))
        self._record.row(self.metrics[-1])
        if self._progress is not None:
            self._progress(view)


class _ClientWorker:
    """Worker of one client, which draws independent random numbers in each round and attempt.

    Args:
      runtime: The plan's runtime, shared by all clients.
      draw: Returns the name of the draw, from the client, the task, the round and the attempt.
    """

    def __init__(self, runtime: Any, draw: Callable[[], str]) -> None:
        self._runtime = runtime
        self._draw = draw

    def work(
        self,
        data: Any,
        broadcast: dict[str, Array],
        *,
        seconds: Optional[float] = None,
        stop: Optional[threading.Event] = None,
        meter: Optional[DataMeter] = None,
    ) -> dict[str, Array]:
        """See `muster.runtime.Runtime.work`."""
        update: dict[str, Array] = self._runtime.work(
            data, broadcast, seconds=seconds, stop=stop, meter=meter, draw=self._draw()
        )
        return update


class _Simulation:
    """Scheduler of the clients of one task, which advances the clock when all of them wait."""

    def __init__(
        self,
        coordinator: InProcessCoordinator,
        *,
        operator: Operator,
        seed: int,
        declared: Type,
        clients_data: ClientsData,
        randomness: random.Random,
        every_client: bool,
    ) -> None:
        from muster_coordinator.bootstrap import runtimes

        self._coordinator = coordinator
        self._declared = declared
        self._clients_data = clients_data
        self._operator = operator
        self._transport: Transport = coordinator.transport()
        self._runtime = runtimes(seed=seed)
        self._attempt = (0, 0)  # the current round and attempt
        self._randomness = randomness
        self._every_client = every_client
        self._clients: dict[str, MusterClient] = {}
        self._sources: dict[str, Source] = {}

    def open_round(self) -> Optional[RoundView]:
        """Returns the open round; None when the task is done.

        Raises:
          SimulationError: The task was stopped.
        """
        task = self._task()
        if task.status is TaskStatus.COMPLETED:
            return None
        if task.status is not TaskStatus.ACTIVE or task.current is None:
            raise SimulationError(f"The task is {task.status.value}: {task.note or 'it did not open'}")
        return task.current

    def run_round(self, view: RoundView, sources: dict[str, Source]) -> None:
        """Runs one attempt at a round to its end."""
        if self._every_client and len(sources) > view.cap:
            raise SimulationError(
                f"Round {view.round} has {len(sources)} clients and room for {view.cap}, as many as the first round "
                f"had: give goal={len(sources)}"
            )
        self._sources = sources
        self._attempt = (view.round, view.epoch)
        order = list(sources)
        if len(order) > view.goal:
            self._randomness.shuffle(order)
        now = self._coordinator.clock.now()
        due = dict.fromkeys(order, now)  # next check-in by client, in POSIX seconds; without clients that are done
        while True:
            for name in [name for name, at in due.items() if at <= now]:
                outcome = self._run_client(name, view)
                if isinstance(outcome, Contributed):
                    del due[name]
                else:
                    due[name] = now + outcome.retry_after
                self._settle(view)
                if not self._is_open(view):
                    return
            times = [at for at in (*due.values(), self._coordinator.next_due()) if at is not None]
            if not times:
                raise SimulationError(f"Round {view.round} stands still: nothing is due, and no client is left")
            now = self._coordinator.clock.advance_to(min(times))
            self._settle(view)
            if not self._is_open(view):
                return

    def _run_client(self, name: str, view: RoundView) -> Any:
        client = self._clients.get(name)
        if client is None:
            client = self._clients[name] = MusterClient(
                self._transport,
                _POPULATION,
                self._data_of(name),
                client_id=name,
                runtime_factory=lambda plan: _ClientWorker(self._runtime(plan), lambda: self._draw_of(name)),
            )
        try:
            outcome = client.run_once()
        except ProblemError as problem:
            raise SimulationError(f"Client {name} was refused in round {view.round}: {problem}") from problem
        if isinstance(outcome, Failed):
            hint = self._clients_data.hint(self._declared) if outcome.reason is FailureReason.DATA else ""
            detail = f"Client {name} failed in round {view.round} ({outcome.reason.value}): {hint or outcome.detail}"
            raise SimulationError(detail) from outcome.error
        if isinstance(outcome, Unreached):
            raise SimulationError(f"The coordinator failed in round {view.round}: {outcome.detail}")
        return outcome

    def _draw_of(self, name: str) -> str:
        """Returns the unique name of a client's current draw."""
        return json.dumps([name, _TASK, *self._attempt])

    def _data_of(self, name: str) -> Source:
        def data() -> Any:
            return self._sources[name]()  # of the round that is open now

        return data

    def _settle(self, view: RoundView) -> None:
        try:
            self._coordinator.settle()
        except DeliveryError as error:
            raise SimulationError(f"The coordinator failed in round {view.round}: {error}") from error

    def _is_open(self, view: RoundView) -> bool:
        task = self._task()
        now = task.current
        return (
            task.status is TaskStatus.ACTIVE
            and now is not None
            and (now.round, now.epoch) == (view.round, view.epoch)
            and now.phase in (Phase.COLLECTING, Phase.AGGREGATING)
        )

    def _task(self) -> TaskView:
        return self._operator.task(_TASK)
