"""Compares a computation in TFF with its plan, so that an author can trust the compilation.

Random draws and clock reads differ between any two executions. A plan that draws is therefore
compared twice: unchanged, where tensors that depend on no draw must be equal, and with its draws
fixed on both sides (`fixed_draws.py`), where everything must be equal. See
docs/decisions/0029-what-plan-check-compares.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Callable, Optional, overload

from muster.author import tff_worker
from muster.author.build import build_plan
from muster.author.difference import Difference, difference, reordered_rows
from muster.author.draws import DrawFlow, DrawSource, RoundTaint, depends_on_fold, draw_sources
from muster.author.fixed_draws import fix_computation, fix_plan
from muster.author.repeatable_data import make_repeatable
from muster.author.restore import restore_state
from muster.author.round_computation import extract_round
from muster.runtime.client_data import ClientsData
from muster.runtime.data import adapt
from muster.runtime.fold import Accumulator, Fold
from muster.runtime.stages import Runtime, UpdateResult
from muster.wire.plan import Plan
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import Array

__all__ = [
    "Difference",
    "DrawSource",
    "PlanCheck",
    "RoundDifference",
    "Verdict",
    "check_plan",
    "difference",
    "run_round",
]

TOLERANCE = 1e-5  # relative, to each tensor's largest magnitude
_CHUNK_SIZE = 3  # updates in a partial; small, so that a few clients suffice for several merges


class Verdict(str, Enum):
    """Verdict of a comparison."""

    SAME = "same"  # the plan computes what TFF does
    SAME_BUT_RANDOM = "same_but_random"  # it does, except for random draws
    DIFFERENT = "different"


@dataclass(frozen=True)
class RoundDifference:
    """Differences of the plan from TFF after one round.

    Attributes:
      round: The number of the round, from 1.
      state: The difference of the server states.
      result: The difference of the rounds' results.
    """

    round: int
    state: Difference
    result: Difference

    @property
    def relative(self) -> float:
        """Returns the larger of the two relative differences."""
        return max(self.state.relative, self.result.relative)


@dataclass(frozen=True)
class PlanCheck(Sequence[RoundDifference]):
    """Result of comparing a plan with TFF. As a sequence: `rounds`.

    Attributes:
      verdict: The verdict.
      tolerance: The largest relative difference that passes.
      rounds: The unchanged rounds, each side with its own draws.
      repeatable: The same rounds without the tensors that depend on a draw.
      fixed: The rounds with the draws fixed on both sides; empty if the plan draws nothing.
      sources: The plan's draws, and the tensors that depend on them.
      unordered: Tensors of the result whose rows were compared in any order.
      not_compared: Tensors that depend on draws that can't be fixed, and so were not compared.
    """

    verdict: Verdict
    tolerance: float
    rounds: tuple[RoundDifference, ...]
    repeatable: tuple[RoundDifference, ...] = ()
    fixed: tuple[RoundDifference, ...] = ()
    sources: tuple[DrawSource, ...] = ()
    unordered: tuple[str, ...] = ()
    not_compared: tuple[str, ...] = ()

    @property
    def worst(self) -> float:
        """Returns the largest relative difference of the comparable tensors."""
        compared = (*self.repeatable, *self.fixed) if self.sources else self.rounds
        return max((round_difference.relative for round_difference in compared), default=0.0)

    @overload
    def __getitem__(self, index: int) -> RoundDifference: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[RoundDifference, ...]: ...
    def __getitem__(self, index: Any) -> Any:
        return self.rounds[index]

    def __len__(self) -> int:
        return len(self.rounds)


def check_plan(
    computation: Any,
    data: Any,
    *,
    rounds: int = 3,
    initial_state: Any = None,
    allow_clear_secure_sums: bool = False,
    tolerance: float = TOLERANCE,
) -> PlanCheck:
    """Compares a computation with its plan, round by round.

    Each side continues from its own state.

    Args:
      computation: See `build_plan`.
      data: The clients' data, in a form that `muster.simulation.run` accepts: a sequence or a
        mapping of data sets, a TFF `ClientData`, or a function that returns one of these, for all
        rounds or for the round number (from 1) that it takes.
      rounds: Number of rounds.
      initial_state: See `build_plan`.
      allow_clear_secure_sums: See `build_plan`.
      tolerance: The largest relative difference that passes.

    Returns:
      The verdict, and the differences of each round.

    Raises:
      ProblemError: see `build_plan`; or data that does not match.
      TypeError, ValueError: The data has an unsupported form.
    """
    plan = build_plan(computation, initial_state=initial_state, allow_clear_secure_sums=allow_clear_secure_sums)
    return compare(plan, computation, data, rounds=rounds, tolerance=tolerance)


def compare(plan: Plan, computation: Any, data: Any, *, rounds: int = 3, tolerance: float = TOLERANCE) -> PlanCheck:
    """Compares a computation with a plan that was built from it; see `check_plan`."""
    round_computation = extract_round(computation)
    clients = ClientsData(data)
    taints = DrawFlow(plan).rounds(rounds)
    sources = draw_sources(taints, round_computation.next)
    with tff_worker.running():
        unchanged = _Comparison(taints, skip=_any_draw)
        unchanged.run(plan, round_computation.next, clients)
        if not sources:
            is_same = _are_within(tolerance, unchanged.rounds)
            verdict = Verdict.SAME if is_same else Verdict.DIFFERENT
            return PlanCheck(verdict=verdict, tolerance=tolerance, rounds=tuple(unchanged.rounds))
        fixed_plan = fix_plan(plan)
        fixed = _Comparison(taints, skip=lambda draws: any(operation in fixed_plan.unfixed for _, operation in draws))
        # TFF folds all updates into one accumulator, in order, which determines the draws of the
        # fold.
        fold_draws = any(depends_on_fold(draws) for draws in (*taints[-1].state.values(), *taints[-1].result.values()))
        chunk_size = None if fold_draws else _CHUNK_SIZE
        fixed.run(fixed_plan.plan, fix_computation(round_computation.next), clients, chunk_size=chunk_size)
    is_same = _are_within(tolerance, (*unchanged.compared, *fixed.compared))
    return PlanCheck(
        verdict=Verdict.SAME_BUT_RANDOM if is_same else Verdict.DIFFERENT,
        tolerance=tolerance,
        rounds=tuple(unchanged.rounds),
        repeatable=tuple(unchanged.compared),
        fixed=tuple(fixed.compared),
        sources=sources,
        unordered=tuple(sorted(fixed.unordered)),
        not_compared=tuple(sorted(fixed.skipped)),
    )


def _any_draw(draws: frozenset[Any]) -> bool:
    return bool(draws)


def _are_within(tolerance: float, differences: Iterable[RoundDifference]) -> bool:
    return all(round_difference.relative <= tolerance for round_difference in differences)


class _Comparison:
    """Comparison of a plan with TFF over several rounds.

    Args:
      taints: The draws that each round's tensors depend on.
      skip: Returns whether a tensor that depends on these draws can't be compared.

    Attributes:
      rounds: The differences of all tensors.
      compared: The differences of the tensors that can be compared.
      skipped: The names of the others.
      unordered: The names of tensors whose rows are in another order.
    """

    def __init__(self, taints: Sequence[RoundTaint], *, skip: Callable[[frozenset[Any]], bool]) -> None:
        self._taints = taints
        self._skip = skip
        self.rounds: list[RoundDifference] = []
        self.compared: list[RoundDifference] = []
        self.skipped: set[str] = set()
        self.unordered: set[str] = set()

    def run(self, plan: Plan, next_: Any, clients: ClientsData, *, chunk_size: Optional[int] = _CHUNK_SIZE) -> None:
        """Runs and compares all rounds.

        If `chunk_size` is None, all updates are folded into one partial.
        """
        runtime = Runtime(plan)
        manifest = plan.manifest
        tensors = plan.initial_state()
        state = restore_state(next_, tensors)
        for number, taint in enumerate(self._taints, start=1):
            sources = clients.of_round(number)
            data = [make_repeatable(source()) for source in sources.values()]
            # The plan runs first: its errors name the position in the data.
            try:
                update = run_round(runtime, tensors, data, chunk_size=chunk_size or len(data))
            except ProblemError as error:
                hint = clients.hint(manifest.data) if error.type is ProblemType.INVALID_REQUEST else ""
                if not hint:
                    raise
                raise ProblemError(error.type, hint) from None
            tensors = update.state
            state, result = next_(state, data)
            self._add(
                number,
                taint,
                state=(adapt(state, manifest.state_type, root="state").tensors, update.state),
                result=(adapt(result, manifest.result_type, root="result").tensors, update.result),
            )

    def _add(
        self,
        number: int,
        taint: RoundTaint,
        *,
        state: tuple[Mapping[str, Array], Mapping[str, Array]],
        result: tuple[Mapping[str, Array], Mapping[str, Array]],
    ) -> None:
        """Compares the state and the result of one round.

        Each is given as TFF's tensors and the plan's.
        """
        self.rounds.append(RoundDifference(round=number, state=difference(*state), result=difference(*result)))
        skipped_state = {path for path, draws in taint.state.items() if self._skip(draws)}
        skipped_result = {path for path, draws in taint.result.items() if self._skip(draws)}
        self.skipped |= skipped_state | skipped_result
        unordered = reordered_rows(*result, paths=taint.result.keys() - skipped_result)
        self.unordered |= unordered
        self.compared.append(
            RoundDifference(
                round=number,
                state=difference(*state, without=skipped_state),
                result=difference(*result, without=skipped_result | unordered),
            )
        )


def run_round(
    runtime: Runtime, state: Mapping[str, Array], clients: Sequence[Any], *, chunk_size: int = _CHUNK_SIZE
) -> UpdateResult:
    """Runs one round as the coordinator does.

    Folds chunks of updates into partials, merges them, and updates the state.

    Args:
      runtime: The plan's runtime.
      state: The server state by name.
      clients: The clients' data.
      chunk_size: Updates per partial.

    Returns:
      The next state and the result.
    """
    broadcast = runtime.prepare(state)
    fold = Fold(runtime.plan.manifest, zero=runtime.plan.zero(), tensorflow=lambda: runtime)
    total: Accumulator = fold.start()
    for first in range(0, len(clients), chunk_size):
        partial = fold.start()
        for client in clients[first : first + chunk_size]:
            partial.add(runtime.work(client, broadcast))
        total.merge(partial.tensors())
    folded = fold.split(total.tensors())
    return runtime.update(state, runtime.report(folded.accumulator), folded.clear_sums)
