"""Judges the result of a round by the guards of its task's policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from muster.wire.messages import Guard, Guards, WorseningGuard
from muster.wire.tensors import Array
from muster_coordinator.domain.metrics import counts_no_example, non_finite_metrics, scalar_metrics
from muster_coordinator.domain.rounds import Committed
from muster_coordinator.domain.updates import all_finite


@dataclass(frozen=True, slots=True)
class Verdict:
    """Verdict on the result of a round.

    Attributes:
      tripped: The guards that the result tripped.
      compared: The metric that was compared with that of the parent round, with the better
        direction; empty if none was.
      worsened: Number of rounds in a row, up to this one, in which that metric got worse. The
        count starts again after it has tripped the guard.
    """

    tripped: tuple[str, ...] = ()
    compared: str = ""
    worsened: int = 0


def judge_result(
    guards: Guards,
    *,
    base: Mapping[str, Array],
    state: Mapping[str, Array],
    result: Mapping[str, Array],
    parent: Committed | None,
) -> Verdict:
    """Judges the result of a round.

    Args:
      guards: The guards of the task's current policy.
      base: The state that the round started from.
      state: The new state.
      result: The round's result.
      parent: The round that made `base`, or None if no round of the task did.
    """
    tripped = []
    if guards.non_finite and (non_finite_metrics(result) or _became_non_finite(base, state)):
        tripped.append(Guard.NON_FINITE.value)
    if guards.no_examples and counts_no_example(scalar_metrics(result)):
        tripped.append(Guard.NO_EXAMPLES.value)
    worsening = guards.worsening
    if worsening is None:
        return Verdict(tuple(tripped))
    compared = f"{worsening.better} {worsening.metric}"
    worsened = _worsened(worsening, compared, result, parent)
    if worsened >= worsening.rounds:
        tripped.append(Guard.WORSENING.value)
    return Verdict(tuple(tripped), compared, worsened)


def describe(tripped: tuple[str, ...], worsening: WorseningGuard | None) -> str:
    """Returns the reason for a pause by guards, and what an operator can do.

    Args:
      tripped: The guards that a result tripped.
      worsening: The worsening guard of the task's policy.
    """
    metric = "its metric" if worsening is None else worsening.metric
    rounds = "several" if worsening is None else str(worsening.rounds)
    reasons = {
        Guard.NON_FINITE.value: "the new state or a metric contains NaN or infinity",
        Guard.NO_EXAMPLES.value: "the result counts no example, as if every client's update were empty or not finite",
        Guard.WORSENING.value: f"{metric} got worse {rounds} rounds in a row",
    }
    reason = "; ".join(f"{reasons[guard]} (guard {guard})" for guard in tripped if guard in reasons)
    return f"{reason}. Resume the task to accept the result, or roll it back first"


def _worsened(guard: WorseningGuard, compared: str, result: Mapping[str, Array], parent: Committed | None) -> int:
    """Returns the number of rounds in a row in which the guard's metric got worse.

    The count follows the chain of parents, so that a rollback continues that of its base. A value
    that is not finite is worse than any. A round without a value, such as one without examples,
    changes nothing.
    """
    if parent is None:
        return 0
    has_tripped = Guard.WORSENING.value in parent.tripped
    before = parent.worsened if parent.compared == compared and not has_tripped else 0
    if guard.metric in non_finite_metrics(result):
        return before + 1
    value, earlier = scalar_metrics(result).get(guard.metric), parent.metrics.get(guard.metric)
    if value is None or earlier is None:
        return before
    is_worse = value > earlier if guard.better == "lower" else value < earlier
    return before + 1 if is_worse else 0


def _became_non_finite(base: Mapping[str, Array], state: Mapping[str, Array]) -> bool:
    """Returns whether a value of the state is not finite where that of the base was.

    A plan may use infinity as a mark, such as for the best loss so far; it does not trip the guard.
    """
    for path, array in state.items():
        tensor = np.asarray(array)
        if all_finite({path: tensor}):
            continue
        before = base.get(path)
        if before is None or before.shape != tensor.shape or bool(np.any(~np.isfinite(tensor) & np.isfinite(before))):
            return True
    return False
